"""Golden batches and orders: digests of what a `Loader` and a `PackedDataset` give."""

from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

import cinicpack
from cinicpack import Augment, Loader, PackedDataset
from tests.golden.sources import COUNTS, SIZES, digest

Found = dict[str, dict[str, Any]]

AUGMENTS: dict[str, Augment | None] = {
    "none": None,
    "nothing": Augment(crop_padding=0, flip=None),
    "default": Augment(),
    "reflected": Augment(crop_padding=3, padding_mode="reflect", flip="alternating"),
    "cutout": Augment(crop_padding=0, flip=None, cutout=7),
    "crop": Augment(crop_padding=2, flip=None),
    "all": Augment(crop_padding=4, padding_mode="reflect", cutout=8),
}
_FORMATS = [
    (dtype, last, output)
    for dtype, last, output in product(
        ("float32", "float16", "bfloat16", "uint8"), (False, True), ("torch", "numpy")
    )
    if (dtype, output) != ("bfloat16", "numpy")
]


def open_packs(folder: Path) -> dict[str, cinicpack.Pack]:
    """Pack what batches are made of: CINIC-10's images, 300 classes, other sizes, other counts."""
    names = ["tree.tar", "classes.tar", *(f"{height}x{width}.tar" for height, width in SIZES)]
    packs = {}
    for name in (*names, *(f"{count}.tar" for count in COUNTS)):
        path = folder / f"{name}.pack"
        packs[name.removesuffix(".tar")] = cinicpack.pack(folder / name, path, progress=False)
    return packs


def digest_batch(batch: Iterable[Any]) -> str:
    """Digest the members of a batch: what they are, and their elements as they lie in memory."""
    parts: list[bytes | str] = []
    for member in batch:
        if isinstance(member, torch.Tensor):
            last = member.ndim == 4 and not member.is_contiguous()
            assert not last or member.is_contiguous(memory_format=torch.channels_last)
            parts.append(f"torch {member.dtype} {tuple(member.shape)} {last}")
            lying = member.permute(0, 2, 3, 1) if last else member
            parts.append(lying.view(torch.uint8).numpy().tobytes() if lying.numel() else b"")
        else:
            assert isinstance(member, np.ndarray)
            assert member.flags.c_contiguous
            parts.append(f"numpy {member.dtype} {member.shape}")
            parts.append(member.tobytes())
    return digest(*parts)


def digest_epoch(batches: Iterable[Iterable[Any]]) -> str:
    return digest(*map(digest_batch, batches))


def digest_samples(batches: Iterable[tuple[Any, ...]]) -> str:
    """Digest samples whatever batches they came in."""
    members = [[member.numpy() for member in batch] for batch in batches]
    columns = [np.concatenate(column) for column in zip(*members, strict=True)]
    return digest(*(column.tobytes() for column in columns))


def collect_batches(packs: dict[str, cinicpack.Pack]) -> Found:
    found: Found = {
        "formats": dict(_of_formats(packs["tree"])),
        "sizes": dict(_of_sizes(packs)),
        "ranks": dict(_of_ranks(packs["12x12"])),
        "normalisation": dict(_of_normalisation(packs["tree"])),
        "choices": dict(_of_choices(packs["tree"])),
        "dataset": dict(_of_dataset(packs["tree"])),
    }
    threads = torch.get_num_threads()
    # Torch's own threads wait for each other, for long where other programs run too.
    torch.set_num_threads(1)
    found["augmented on a device"] = dict(_of_device(packs, {"augment_on": "device"}))
    found["resident"] = dict(_of_device(packs, {"resident": True}))
    torch.set_num_threads(threads)
    return found


def collect_orders(packs: dict[str, cinicpack.Pack]) -> Found:
    found: Found = {}
    for count, seed in product(COUNTS, (0, 1, 2**64 - 1)):
        entries = found[f"{count} rows, seed {seed}"] = {}
        for epoch in (0, 1, 7, 2**32 - 1):
            options = {"seed": seed, "epoch": epoch, "batch_size": 512, "normalize": False}
            loader = _make(packs[str(count)], **options)
            index = np.concatenate([batch[2].numpy() for batch in loader])
            entries[f"epoch {epoch}"] = index.tolist() if count < 3 else digest(index.tobytes())
    return found


def _make(pack: cinicpack.Pack, split: Any = "train", **options: Any) -> Loader:
    # By one thread, since many small loaders are made.
    return Loader(pack, split, **{"num_workers": 0, "return_index": True, "epoch": 0} | options)


def _of_formats(pack: cinicpack.Pack) -> Iterator[tuple[str, str]]:
    for (dtype, last, output), name in product(_FORMATS, AUGMENTS):
        options = {"dtype": dtype, "channels_last": last, "output": output}
        loader = _make(pack, batch_size=7, epoch=1, augment=AUGMENTS[name], **options)
        layout = "last" if last else "planar"
        yield f"{dtype} {layout} {output} {name}", digest_epoch(loader)


def _of_sizes(packs: dict[str, cinicpack.Pack]) -> Iterator[tuple[str, str]]:
    sizes = {f"{height}x{width}": f"{height}x{width}" for height, width in SIZES}
    for (size, pack), name in product((sizes | {"32x32": "tree"}).items(), AUGMENTS):
        split = packs[pack]["train"].select(indices=range(24))
        loader = _make(packs[pack], split, batch_size=10, augment=AUGMENTS[name])
        for epoch in (0, 1, 7):
            loader.set_epoch(epoch)
            yield f"{size} {name} epoch {epoch}", digest_epoch(loader)


def _of_ranks(pack: cinicpack.Pack) -> Iterator[tuple[str, str]]:
    for batch_size, drop_last, shuffle in product((1, 7, 512), (False, True), (False, True)):
        # Not 600 batches of one image.
        split = pack["train"].select(indices=range(61 if batch_size == 1 else len(pack["train"])))
        for rank, world_size in ((0, 1), (0, 3), (1, 3), (2, 3)):
            loader = _make(
                pack,
                split,
                batch_size=batch_size,
                drop_last=drop_last,
                shuffle=shuffle,
                rank=rank,
                world_size=world_size,
                augment=Augment(),
                dtype="uint8",
            )
            left = "dropped" if drop_last else "kept"
            order = "shuffled" if shuffle else "in order"
            name = f"{batch_size} an image, rest {left}, {order}, rank {rank} of {world_size}"
            yield name, f"{len(loader)} batches {digest_epoch(loader)}"


def _of_normalisation(pack: cinicpack.Pack) -> Iterator[tuple[str, str]]:
    options = {"False": False, "given": ((0.25, 0.5, 0.75), (0.5, 0.125, 2.0))}
    for dtype, (name, value) in product(("float32", "float16", "bfloat16"), options.items()):
        loader = _make(pack, dtype=dtype, normalize=value, augment=AUGMENTS["all"])
        yield f"{dtype} {name}", digest_epoch(loader)


def _of_choices(pack: cinicpack.Pack) -> Iterator[tuple[str, str]]:
    cats = pack["train+valid"].select(classes=["cat", "dog"])
    cases: dict[str, tuple[Any, dict[str, Any]]] = {
        "without index": ("train", {"return_index": False}),
        "source": ("train", {"source": "imagenet"}),
        "classes": ("train", {"classes": ["ship", "cat"]}),
        "a class": ("test", {"classes": "frog", "source": "cifar10"}),
        "union": ("train+valid", {}),
        "selection": (pack["test"].select(indices=[5, 3, 9, 30]), {}),
        "selection of a selection": (cats.select(source="cifar10"), {"classes": "dog"}),
        "seed": ("train", {"seed": 2**64 - 1}),
        "in order": ("train", {"shuffle": False}),
    }
    for (name, (split, options)), workers in product(cases.items(), (0, 3)):
        options = {"augment": Augment(), "batch_size": 9, "num_workers": workers} | options
        loader = _make(pack, split, **options)
        yield f"{name}, {workers} threads", digest(digest_epoch(loader), digest_epoch(loader))


def _of_device(
    packs: dict[str, cinicpack.Pack], options: dict[str, Any]
) -> Iterator[tuple[str, str]]:
    for (dtype, last, output), name in product(_FORMATS, AUGMENTS):
        if output == "torch":
            loader = _make(
                packs["tree"],
                batch_size=7,
                epoch=1,
                augment=AUGMENTS[name],
                dtype=dtype,
                channels_last=last,
                **options,
            )
            yield f"{dtype} {'last' if last else 'planar'} {name}", digest_epoch(loader)
    for (height, width), name in product(SIZES, ("default", "all")):
        split = packs[f"{height}x{width}"]["train"].select(indices=range(24))
        loader = _make(split.pack, split, batch_size=10, augment=AUGMENTS[name], **options)
        yield f"{height}x{width} {name}", digest(digest_epoch(loader), digest_epoch(loader))


def _of_dataset(pack: cinicpack.Pack) -> Iterator[tuple[str, Any]]:
    dataset = PackedDataset(pack, "valid")
    one_by_one = [dataset[row] for row in range(len(dataset))]
    at_once = dataset.__getitems__([3, 1, 4, 1, 5, -1])
    for name, items in (("one by one", one_by_one), ("at once", at_once)):
        parts = [digest(image.tobytes(), f"{image.mode} {image.size} {n}") for image, n in items]
        yield name, digest(*parts)
    yield "data", digest(str(dataset.data.shape), dataset.data.tobytes())
    yield "targets", digest(repr(dataset.targets))
    yield "repr", repr(PackedDataset(pack, "train+test", str)).replace(str(pack.path), "PACK")
    yield "class_to_idx", digest(repr(dataset.class_to_idx))
