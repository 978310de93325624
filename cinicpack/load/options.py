"""The options of a loader: its arguments, checked."""

import dataclasses
import math
import secrets
import sys
from collections.abc import Mapping, Sequence
from textwrap import shorten
from typing import Any, TypeAlias

import numpy as np

from cinicpack.arguments import check_int, read_count
from cinicpack.cores import usable_cores
from cinicpack.errors import ArgumentError, LoaderError, SelectionError
from cinicpack.load.augment import Augment
from cinicpack.load.batches import DTYPES, BatchFormat
from cinicpack.load.choice import Order, check_order
from cinicpack.load.labels import Labels, check_labels
from cinicpack.load.mix import Mix, check_mix
from cinicpack.store.pack import Pack, open_pack
from cinicpack.store.selection import find_labels
from cinicpack.store.split import Split

__all__ = ["Normalize", "Options", "check_options", "resolve_ranks"]

Normalize: TypeAlias = bool | tuple[Sequence[float], Sequence[float]]


@dataclasses.dataclass(frozen=True)
class Options:
    """The arguments of a `Loader`, checked; `Loader` says what each of them means.

    The pack is open, the split is looked up, dtype and classes are plain names, and seed and number
    of threads are decided. Rank and world size are None if every epoch asks torch.distributed.
    """

    pack: Pack
    split: Split
    batch_size: int
    shuffle: bool
    augment: Augment | None
    views: list[Augment | None] | None
    mix: list[Mix] | None
    normalize: Normalize
    dtype: str
    channels_last: bool
    source: str | None
    classes: list[str] | None
    unique: bool
    labels: Labels | None
    order: Order | None
    drop_last: bool
    seed: int
    epoch: int | None
    num_workers: int
    device: Any
    augment_on: str
    resident: bool
    rank: int | None
    world_size: int | None
    return_index: bool
    output: str

    @property
    def batch_format(self) -> BatchFormat:
        """How batches are given."""
        height, width, _ = self.pack.image_shape
        return BatchFormat(
            self.dtype, height, width, self.channels_last, self.output, self.return_index
        )


def check_options(given: Mapping[str, Any]) -> Options:
    """Check the arguments of a `Loader`, and decide those that may be None.

    Args:
        given: all arguments, by name.

    Raises:
        ArgumentError: an argument is out of its domain.
        SelectionError: the pack has no such split or class.
        FileNotFoundError: there is no pack.
        PackError: the pack is damaged.
        LoaderError: a seed cannot be drawn for all ranks.
    """
    checked = dict(given)
    pack = checked["pack"]
    checked["pack"] = pack = pack if isinstance(pack, Pack) else open_pack(pack)
    checked["split"] = _check_split(pack, given["split"])
    checked["batch_size"] = check_int("batch_size", given["batch_size"], 1)
    checked["shuffle"] = given["order"] is None if given["shuffle"] is None else given["shuffle"]
    for name in ("shuffle", "channels_last", "drop_last", "resident", "return_index", "unique"):
        checked[name] = bool(checked[name])
    if not isinstance(given["augment"], Augment | None):
        raise ArgumentError(
            f"expected augment to be an Augment or None, found {given['augment']!r}"
        )
    if given["views"] is not None:
        checked["views"] = _check_views(given["views"], given["augment"])
    if given["mix"] is not None:
        checked["mix"] = check_mix(given["mix"], pack.image_shape)
    checked |= _check_samples(given, pack, checked["split"])
    if given["seed"] is not None:
        checked["seed"] = check_int("seed", given["seed"], 0, 2**64)
    if given["epoch"] is not None:
        checked["epoch"] = check_int("epoch", given["epoch"], 0, 2**32)
    if given["num_workers"] is None:
        checked["num_workers"] = _share_cores()
    else:
        checked["num_workers"] = check_int("num_workers", given["num_workers"], 0)
    ranks = _check_ranks(given["rank"], given["world_size"])
    checked["rank"], checked["world_size"] = ranks
    if given["augment_on"] not in ("cpu", "device"):
        raise ArgumentError(f"expected augment_on 'cpu' or 'device', found {given['augment_on']!r}")
    checked["dtype"] = _check_dtype(given["dtype"])
    checked["normalize"] = _check_normalize(given["normalize"], checked["dtype"])
    _check_output(checked)
    if given["seed"] is None:
        # The seed is drawn after all checks: with torch.distributed every rank waits for the others
        # here, so that none may have failed before.
        checked["seed"] = _draw_seed(*ranks)
    return Options(**checked)


def _check_samples(given: Mapping[str, Any], pack: Pack, split: Split) -> dict[str, Any]:
    """Check the arguments that say which samples there are, in which order, with which labels."""
    checked: dict[str, Any] = {}
    if (classes := given["classes"]) is not None:
        labels = find_labels(classes, pack.class_to_idx)
        checked["classes"] = [pack.classes[label] for label in labels]
    if given["labels"] is not None:
        checked["labels"] = check_labels(given["labels"], len(split))
    if given["order"] is not None:
        if given["shuffle"] is not None:
            raise ArgumentError(
                f"order says in which order samples come: expected no shuffle, found "
                f"{given['shuffle']!r}"
            )
        checked["order"] = check_order(given["order"], len(split))
    return checked


def resolve_ranks(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Find rank and world size: as given, else those of torch.distributed, else (0, 1).

    Raises `LoaderError` where WORLD_SIZE says that there are other ranks, but there is no group.
    """
    if rank is not None and world_size is not None:
        return rank, world_size
    if (distributed := _find_group()) is not None:
        return distributed.get_rank(), distributed.get_world_size()
    if (told := read_count("WORLD_SIZE") or 1) > 1:
        raise LoaderError(
            f"WORLD_SIZE is {told}, but torch.distributed is not "
            "initialised: every rank would load everything; call init_process_group() before "
            "the first iter(), or pass rank= and world_size="
        )
    return 0, 1


def _find_group() -> Any:
    """Return torch.distributed if that is initialised."""
    if "torch" in sys.modules:
        from torch import distributed

        if distributed.is_available() and distributed.is_initialized():
            return distributed
    return None


def _draw_seed(rank: int | None, world_size: int | None) -> int:
    """Draw a seed; with torch.distributed all ranks get the one that rank 0 drew."""
    seed = secrets.randbits(64)
    if rank is not None:
        if world_size != 1:
            raise ArgumentError(
                "with rank= and world_size= each rank would draw a seed of its own: pass seed="
            )
    elif (distributed := _find_group()) is not None:
        seeds = [seed]
        distributed.broadcast_object_list(seeds)
        (seed,) = seeds
    elif (told := read_count("WORLD_SIZE") or 1) > 1:
        raise LoaderError(
            f"WORLD_SIZE is {told}, but torch.distributed is not initialised, "
            "so each rank would draw a seed of its own: call init_process_group() first, or pass "
            "seed="
        )
    return seed


def _share_cores() -> int:
    return max(1, usable_cores() // (read_count("LOCAL_WORLD_SIZE") or 1))


def _check_split(pack: Pack, split: str | Split) -> Split:
    if not isinstance(split, Split):
        return pack[split]
    if split.pack.fingerprint != pack.fingerprint:
        raise SelectionError(f"expected a split of {pack!r}, found {split!r}, which is of another")
    return split


def _check_views(views: Any, augment: Augment | None) -> list[Augment | None]:
    if augment is not None:
        raise ArgumentError(
            f"views say how images are varied: expected no augment beside them, found {augment!r}"
        )
    # The counter of a sample's draws has 16 bits for the view.
    if not (isinstance(views, list | tuple) and 0 < len(views) <= 2**16) or not all(
        isinstance(view, Augment | None) for view in views
    ):
        raise ArgumentError(
            f"expected views to be a list of 1 to {2**16} of Augment or None, found "
            f"{shorten(repr(views), 200)}"
        )
    return list(views)


def _check_dtype(dtype: Any) -> str:
    # `numpy.float32` has a `__name__`, and `str(torch.float32)` is "torch.float32".
    name = getattr(dtype, "__name__", str(dtype)).removeprefix("torch.")
    if name not in DTYPES:
        raise ArgumentError(f"expected dtype to be one of {', '.join(DTYPES)}, found {dtype!r}")
    return name


def _check_output(checked: Mapping[str, Any]) -> None:
    output, device = checked["output"], checked["device"]
    if output not in ("torch", "numpy"):
        raise ArgumentError(f"expected output 'torch' or 'numpy', found {output!r}")
    if output == "torch":
        return
    if checked["dtype"] == "bfloat16":
        raise ArgumentError("NumPy has no bfloat16: use output='torch', or another dtype")
    if str(device) != "cpu":
        raise ArgumentError(f"NumPy arrays are on the CPU: expected device='cpu', found {device!r}")
    if checked["augment_on"] != "cpu" or checked["resident"]:
        raise ArgumentError(
            "NumPy batches are made on the CPU: expected augment_on='cpu' and resident=False"
        )


def _check_normalize(normalize: Any, dtype: str) -> Normalize:
    if isinstance(normalize, bool | np.bool_):
        return bool(normalize)
    try:
        mean, std = (tuple(map(float, values)) for values in normalize)
        valid = len(mean) == len(std) == 3 and all(map(math.isfinite, mean))
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise ArgumentError(
            "expected normalize to be True, False or (mean, std) with three numbers each, "
            f"found {normalize!r}"
        )
    if dtype == "uint8":
        raise ArgumentError(
            "uint8 batches are raw pixels: normalise them yourself, or choose another dtype"
        )
    return mean, std


def _check_ranks(rank: int | None, world_size: int | None) -> tuple[int | None, int | None]:
    if rank is None and world_size is None:
        return None, None
    if rank is None or world_size is None:
        raise ArgumentError(
            f"expected rank and world_size together, found rank={rank!r}, world_size={world_size!r}"
        )
    world_size = check_int("world_size", world_size, 1)
    return check_int("rank", rank, 0, world_size), world_size
