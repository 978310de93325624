"""The loader: epochs of augmented batches from a pack."""

import dataclasses
import hashlib
import json
import math
import operator
import os
import secrets
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cinicpack.cores import usable_cores
from cinicpack.errors import ArgumentError, LoaderError, SelectionError, StateError
from cinicpack.load.augment import Augment
from cinicpack.load.batches import DTYPES, Batch, BatchFormat, Slab
from cinicpack.load.host import HostMaker
from cinicpack.load.order import Schedule, Share
from cinicpack.load.pipeline import Pipeline
from cinicpack.load.repeats import repeats
from cinicpack.load.samples import Samples
from cinicpack.load.unique import Unique
from cinicpack.store.pack import Pack, PathLike, Split, open_pack

__all__ = ["Loader"]

Normalize: TypeAlias = bool | tuple[Sequence[float], Sequence[float]]

_OPTIONS: Final = (
    *("pack", "split", "batch_size", "shuffle", "augment", "source", "classes", "drop_last"),
    *("seed", "num_workers"),
)
_STATE_VERSION: Final = 1
# What a thread makes at once, several batches where these are small: 680 images of float32, 1.5 ms
# of work. Going back to Python and waiting for its lock takes 20 to 100 µs each time; but the more
# memory is under way, the less of it stays in the cache.
_SLAB_BYTES: Final = 8 << 20
# The same for a GPU, where a slab costs Python 0.2 ms and more, all of it under its lock: 8 threads
# hand 2.3 million images of float32 a second to an H100, and 0.6 to 1 million in slabs of 8 MiB.
_DEVICE_SLAB_BYTES: Final = 32 << 20
# What a GPU makes of resident pixels in one launch: 30 µs of its memory's time, a few launches'.
_LAUNCH_BYTES: Final = 64 << 20


class Maker(Protocol):
    """What makes slabs, on the host or on a device."""

    def make(self, positions: NDArray[np.int64], edges: Sequence[int], epoch: int) -> Slab:
        """Make the samples at ``positions`` into batches with these edges."""

    def clear(self) -> None:
        """Let go of all memory that no batch needs."""


class Loader:
    """Iterates over epochs of augmented batches of a split.

    The first ``iter()`` is epoch 0, each further one the next. What happens to a sample is a pure
    function of seed, epoch and index, and the order one of seed and epoch: any batch size, number
    of threads and number of ranks give the same samples with the same pixels. So a loader that is
    made anew gives epoch 0 again: make one for all epochs, or pass ``epoch`` or ``seed=None``. A
    process warns once, where it makes the third shuffled or augmented loader with the same options
    and each before gave epoch 0 only, more than a first batch of it, without ``epoch``, `set_epoch`
    or a loaded state.

    Batches are made ahead in slabs of one batch, or of several that make up 8 MiB (32 MiB for a
    device, 64 MiB of resident pixels): at most ``num_workers + 1`` slabs are under way or waiting
    (3 with resident pixels), towards the end of an epoch those that the next one starts with; the
    threads are there until `close`, or until nothing refers to the loader and its iterators any
    longer. The memory of a slab is used again when the images of none of its batches are referred
    to any longer; images that are held keep their slab, labels and index do not. In the first epoch
    one more thread reads the images ahead, in the order of the files. On a device the batches of a
    slab share a storage: to save one alone, ``clone()`` it.

    Several threads may take batches from one iterator: each batch goes to one of them.

    A copy, be it of `copy.copy`, `copy.deepcopy` or `pickle`, is a loader of its own with the same
    arguments, at the place that `state_dict` names, and closed if this one is. A pickle holds no
    images: where it is loaded the pack is opened again. Iterators cannot be copied.

    Args:
        pack: a path, or an open `Pack`.
        split: name of a split, several joined by ``+``, or a `Split`.
        batch_size: images in a batch, per rank.
        shuffle: draw a new order for every epoch; else rows in their order.
        augment: what is done to training images; None: nothing.
        normalize: True: with the pack's mean and std, whatever part of it is loaded; False: pixels
            in [0, 1]; or (mean, std).
        dtype: of the images: "float32", "float16", "bfloat16"; "uint8": pixels as they are, cropped
            and mirrored, but not normalised.
        channels_last: torch tensors keep their shape with that memory format; NumPy arrays are
            (B, H, W, 3).
        source: only images from "cifar10" or "imagenet".
        classes: only images of these classes; labels stay as they are.
        drop_last: leave out the images that do not fill a batch on every rank.
        seed: of order and augmentation, below 2**64; None: drawn anew, then a loaded state brings
            its own. Where torch.distributed is initialised all ranks have rank 0's, and all must
            make the loader.
        epoch: of the first ``iter()``, as `set_epoch` sets it; None: 0.
        num_workers: threads that make batches; None: the usable cores, divided among the ranks that
            torchrun started on this machine; 0: the one that iterates.
        device: where batches are given.
        augment_on: "cpu", or "device".
        resident: whether the split's pixels live on the device; implies ``augment_on="device"``.
        rank: of this process; None: torch.distributed's when an epoch starts, if that is
            initialised.
        world_size: number of processes that share an epoch, likewise.
        return_index: add the rows of the images in ``split``, before any narrowing.
        output: "torch" or "numpy".

    A batch is ``(images, labels)`` or ``(images, labels, index)``: images (B, 3, H, W) of
    ``dtype``, labels (B,) int64, index (B,) int64.

    Raises:
        ArgumentError: an argument is out of its domain.
        SelectionError: the pack has no such split, source or class.
        FileNotFoundError: there is no pack.
        PackError: the pack is damaged.
        LoaderError: memory for copies to a GPU cannot be pinned; from ``iter()`` and ``len()``, and
            at once where ``seed`` is None: WORLD_SIZE is above 1, but torch.distributed is not
            initialised; or it was initialised after a seed had been drawn.

    >>> import cinicpack
    >>> loader = cinicpack.Loader(
    ...     "cinic10.pack", "train", batch_size=128, augment=cinicpack.Augment()
    ... )  # doctest: +SKIP
    >>> images, labels = next(iter(loader))  # doctest: +SKIP
    """

    def __init__(
        self,
        pack: PathLike | Pack,
        split: str | Split = "train",
        *,
        batch_size: int = 128,
        shuffle: bool = True,
        augment: Augment | None = None,
        normalize: Normalize = True,
        dtype: str = "float32",
        channels_last: bool = False,
        source: str | None = None,
        classes: str | Iterable[str] | None = None,
        drop_last: bool = False,
        seed: int | None = 0,
        epoch: int | None = None,
        num_workers: int | None = None,
        device: Any = "cpu",
        augment_on: str = "cpu",
        resident: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
        return_index: bool = False,
        output: str = "torch",
    ) -> None:
        arguments = locals().copy()
        del arguments["self"]
        others = {*vars(self)}
        self.pack = pack if isinstance(pack, Pack) else open_pack(pack)
        self.split = _check_split(self.pack, split)
        self.batch_size = _check_int("batch_size", batch_size, 1)
        self.shuffle = bool(shuffle)
        if augment is not None and not isinstance(augment, Augment):
            raise ArgumentError(f"expected augment to be an Augment or None, found {augment!r}")
        self.augment = augment
        self.source = source
        if classes is not None:
            classes = [classes] if isinstance(classes, str) else list(classes)
        self.classes = classes
        self.drop_last = bool(drop_last)
        if seed is not None:
            seed = _check_int("seed", seed, 0, 2**64)
        if epoch is not None:
            epoch = _check_int("epoch", epoch, 0, 2**32)
        self.num_workers = (
            _share_cores() if num_workers is None else _check_int("num_workers", num_workers, 0)
        )
        self._given_ranks = _check_ranks(rank, world_size)
        if augment_on not in ("cpu", "device"):
            raise ArgumentError(f"expected augment_on 'cpu' or 'device', found {augment_on!r}")
        dtype = _check_dtype(dtype)
        _check_output(output, dtype, device)
        height, width, _ = self.pack.image_shape
        self._format = BatchFormat(
            dtype, height, width, bool(channels_last), output, bool(return_index)
        )
        rows = self.split.where(source=source, classes=self.classes)
        if not len(rows):
            raise SelectionError(
                f"{self.split!r} has no images with source={source!r}, classes={self.classes!r}"
            )
        normalized, mean, std = _check_normalize(normalize, self.pack, dtype)
        self._draws_seed = seed is None
        self.seed = _draw_seed(self._given_ranks) if seed is None else seed
        # Whether ranks that come later would have other seeds.
        self._seed_is_own = self._draws_seed and self._resolve_ranks()[1] == 1
        self._samples = Samples(
            self.split, rows, augment, self.seed, self._format, mean, std, normalized
        )
        self._split_text = _describe_split(self.split)
        # With resident pixels threads only look up and launch, and each slab that is made ahead
        # takes 64 MiB of the device.
        self._threads = min(self.num_workers, 2) if resident else self.num_workers
        self._ahead = self._threads + 1
        self._maker = self._choose_maker(device, augment_on, bool(resident))
        # Where the last iterator is, and where the next starts if not at the epoch after that.
        self._position = _Position(0, 0)
        self._start: tuple[int, int] | None = (epoch or 0, 0)
        # Where the one after that starts, in a copy that was made after set_epoch() in mid-epoch.
        self._then: tuple[int, int] | None = None
        self._current: weakref.ref[_Epoch] | None = None
        # What gives the slabs, and where it is between two epochs.
        self._pipeline: Pipeline[Slab] | None = None
        self._pipeline_at: tuple[Share, int, int] | None = None
        self._closed = False
        self._cold = self.num_workers > 0 and not resident
        # For what an epoch begins and ends with, which several threads may want at once. Nothing
        # takes it that the garbage collector calls.
        self._lock = threading.RLock()
        _have_locks.add(self)
        # What loaders that repeat each other have in common; None: another one differs anyway.
        self._repeat: bytes | None = None
        if (self.shuffle or augment is not None) and not self._draws_seed:
            options = (self.batch_size, normalized, *mean, *std, self._format, self.num_workers)
            options += (str(device), augment_on, bool(resident), self._given_ranks)
            self._repeat = hashlib.sha256(repr((self._identity(), options)).encode()).digest()
            if epoch is not None:
                self._vary()
            elif repeats.is_next_due(self._repeat):
                warnings.warn(
                    f"{self!r} is the third loader with these options in this process, and those "
                    "before gave nothing but epoch 0, always in the same order with the same "
                    "augmentation, as this one will: make one loader for all rounds, or pass "
                    "epoch= (epoch=0 if that is meant), or seed=None for a fresh seed",
                    stacklevel=2,
                )
        # What a copy is made with: not with paths, which lead elsewhere tomorrow, nor with
        # iterators, which are used up.
        self._arguments = arguments | {
            "pack": self.pack,
            "split": self.split,
            "classes": self.classes,
            "normalize": normalize if isinstance(normalize, bool | np.bool_) else (mean, std),
        }
        self._own = {*vars(self), "_own"} - others

    def __setattr__(self, name: str, value: Any) -> None:
        """Set what is not an option: these cannot be changed, for all else was made for them."""
        if name in _OPTIONS and name in self.__dict__:
            raise ArgumentError(f"{name} of a Loader cannot be changed: make a new Loader")
        if name == "epoch":
            raise ArgumentError("epoch of a Loader is not assigned: call set_epoch()")
        super().__setattr__(name, value)

    def __len__(self) -> int:
        """Count the batches of an epoch, the same on every rank."""
        return self._share().batches(len(self._samples))

    def __iter__(self) -> "_Epoch":
        """Start the next epoch, or go on where a loaded state stopped.

        An iterator of this loader that is still running is closed.
        """
        self._check_open()
        with self._lock:
            if running := self._running():
                running.close()
            position = _Position(*self._following())
            iterator = _Epoch(self, position)
            # In this order, since another thread may be in `_place`.
            self._position = position
            self._current = weakref.ref(iterator)
            self._start, self._then = self._then, None
        if self._closed:
            # Meanwhile, by another thread, which may not have seen the iterator.
            self.close()
        if position.epoch:
            self._vary()
        return iterator

    @property
    def epoch(self) -> int:
        """The epoch of the running iterator, else that of the next ``iter()``.

        An iterator runs until ``next()`` has found no further batch, or until it is closed or
        dropped.

        >>> loader = cinicpack.Loader("cinic10.pack", epoch=3)  # doctest: +SKIP
        >>> for images, labels in loader:  # doctest: +SKIP
        ...     assert loader.epoch == 3
        >>> loader.epoch  # doctest: +SKIP
        4
        """
        current = None if self._current is None else self._current()
        if current is not None and not current.over:
            return self._position.epoch
        return self._following()[0]

    def set_epoch(self, epoch: int) -> None:
        """Set the number of the next epoch; those after it count on from there.

        Where a state of that same epoch was loaded, it still goes on in the middle.
        """
        epoch = _check_int("epoch", epoch, 0, 2**32)
        with self._lock:
            if self._start is None or self._start[0] != epoch:
                self._start = (epoch, 0)
            self._then = None
        self._vary()

    def state_dict(self) -> dict[str, Any]:
        """Return where the epoch is, as JSON can hold it, in less than 600 bytes.

        It counts what the consumer has received. After the last batch it is the start of the next
        epoch.
        """
        epoch, consumed = self._place()
        return {**self._identity(), "epoch": epoch, "samples": consumed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state: the next ``iter()`` gives exactly what would have come.

        Batch size, world size and number of threads may be others than when it was saved. A loader
        made with ``seed=None`` takes the state's seed.

        Raises:
            StateError: the state is of another pack or other options; they are named.
            LoaderError: an iterator is running.
        """
        if self._running():
            raise LoaderError(
                "expected a loader without a running iterator, found one in the middle of an "
                "epoch; load the state before iter(), or close() the iterator"
            )
        identity = self._identity()
        if not isinstance(state, dict) or state.keys() != {*identity, "epoch", "samples"}:
            raise StateError(f"expected what state_dict() returns, found {_shorten(state)}")
        different = [
            f"{key} {_shorten(state[key])} (here {_shorten(value)})"
            for key, value in identity.items()
            if state[key] != value and not (key == "seed" and self._draws_seed)
        ]
        if different:
            raise StateError(f"the state is of another loader: {', '.join(different)}")
        try:
            epoch = _check_int("epoch", state["epoch"], 0, 2**32)
            samples = _check_int("samples", state["samples"], 0, len(self._samples) + 1)
            seed = _check_int("seed", state["seed"], 0, 2**64)
        except ArgumentError as error:
            raise StateError(f"the state is damaged: {error}") from None
        if seed != self.seed:
            self._reseed(seed)
        self._seed_is_own = False
        self._start, self._then = (epoch, samples), None
        self._vary()

    def close(self) -> None:
        """End the running iterator with its threads and give back the memory."""
        self._closed = True
        if running := self._running():
            running.close()
        self._close_pipeline()
        self._maker.clear()

    def __getstate__(self) -> dict[str, Any]:
        """Collect what a copy is made of: no memory, but arguments and place."""
        with self._lock:
            return {
                "arguments": self._arguments | {"seed": self.seed},
                "draws_seed": self._draws_seed,
                "seed_is_own_in": os.getpid() if self._seed_is_own else None,
                "start": self._place(),
                "then": self._start if self._running() else self._then,
                "closed": self._closed,
                "others": {name: vars(self)[name] for name in vars(self).keys() - self._own},
            }

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state["others"])
        # Not that of a subclass, whose arguments are others.
        Loader.__init__(self, **state["arguments"])
        self._draws_seed = state["draws_seed"]
        # A copy in another process is what one process gives to all ranks, which share its seed.
        self._seed_is_own = state["seed_is_own_in"] == os.getpid()
        self._start, self._then = state["start"], state["then"]
        if state["closed"]:
            self.close()

    def __repr__(self) -> str:
        return (
            f"Loader({str(self.pack.path)!r}, {self.split.name!r}, {len(self._samples)} images, "
            f"batch_size={self.batch_size})"
        )

    def _choose_maker(self, device: Any, augment_on: str, resident: bool) -> Maker:
        on_host = str(device) == "cpu" and augment_on == "cpu" and not resident
        slab_bytes = _SLAB_BYTES if on_host else _DEVICE_SLAB_BYTES
        if resident:
            slab_bytes = _LAUNCH_BYTES
        self._slab_batches = max(1, slab_bytes // self._format.nbytes(self.batch_size))
        slab_images = min(self._slab_batches * self.batch_size, len(self._samples))
        if on_host:
            return HostMaker(self._samples, self._format, slab_images, self._ahead + 2)
        if self._format.output == "numpy":
            raise ArgumentError(
                "NumPy batches are made on the CPU: expected augment_on='cpu' and resident=False"
            )
        from cinicpack.load.device import DeviceMaker, check_device

        return DeviceMaker(
            self._samples,
            self._format,
            check_device(device),
            augment_on=augment_on,
            resident=resident,
            slab_images=slab_images,
            ahead=self._ahead,
        )

    def _check_open(self) -> None:
        if self._closed:
            raise LoaderError("expected an open loader, found one after close(); make a new one")

    def _running(self) -> "_Epoch | None":
        epoch = None if self._current is None else self._current()
        return epoch if epoch is not None and epoch.running else None

    def _place(self) -> tuple[int, int]:
        """Return the epoch, and how many of its samples the consumer has received.

        Other threads may begin or end an epoch meanwhile, hence the order in which this looks.
        """
        start, running = self._start, self._running()
        if start is not None and not running:
            return start
        position = self._position
        return position.epoch, position.consumed

    def _following(self) -> tuple[int, int]:
        """Say where the next iterator starts."""
        return self._start or (self._position.epoch + 1, 0)

    def _vary(self) -> None:
        """Note that whoever uses loaders with these options knows of epochs."""
        if self._repeat is not None:
            repeats.excuse(self._repeat)

    def _reseed(self, seed: int) -> None:
        # What was made ahead has the old seed.
        self._close_pipeline()
        self._samples.seed = np.uint64(seed)
        super().__setattr__("seed", seed)

    def _identity(self) -> dict[str, Any]:
        """Collect what makes the samples of this loader what they are."""
        return {
            "version": _STATE_VERSION,
            "seed": self.seed,
            "fingerprint": self.pack.fingerprint[:16],
            "split": self._split_text,
            "source": self.source,
            "classes": _abridge(self.classes),
            "shuffle": self.shuffle,
            "drop_last": self.drop_last,
            "augment": self.augment and dataclasses.asdict(self.augment),
        }

    def _share(self) -> Share:
        rank, world_size = self._resolve_ranks()
        if world_size > 1 and self._seed_is_own:
            raise LoaderError(
                "seed=None drew a seed before torch.distributed was initialised, so every rank has "
                "another: make the loader after init_process_group(), or pass seed="
            )
        return Share(self.batch_size, rank, world_size, self.drop_last)

    def _open_pipeline(self, share: Share, epoch: int, consumed: int) -> Pipeline[Slab]:
        """Return what gives the slabs from here on: that of the epoch before, or a new one."""
        here = (share, epoch, consumed)
        # After a fork its threads are not in this process.
        pipeline = self._pipeline
        if pipeline is None or self._pipeline_at != here or not pipeline.is_alive():
            self._close_pipeline()
            schedule = Schedule(
                len(self._samples),
                shuffle=self.shuffle,
                seed=self.seed,
                share=share,
                slab_batches=self._slab_batches,
                epoch=epoch,
                consumed=consumed,
            )
            # It must not refer to the loader, which would never end then.
            maker = self._maker
            pipeline = self._pipeline = Pipeline(
                lambda number: maker.make(*schedule[number]),
                len(schedule),
                self._threads,
                self._ahead,
            )
        self._pipeline_at = None
        return pipeline

    def _close_pipeline(self) -> None:
        pipeline, self._pipeline = self._pipeline, None
        if pipeline is not None:
            pipeline.close()

    def _resolve_ranks(self) -> tuple[int, int]:
        """Find rank and world size: as given, as torch.distributed has them, or one alone."""
        if self._given_ranks is not None:
            return self._given_ranks
        if (distributed := _find_group()) is not None:
            return distributed.get_rank(), distributed.get_world_size()
        if os.environ.get("WORLD_SIZE", "1") != "1":
            raise LoaderError(
                f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but torch.distributed is not "
                "initialised: every rank would load everything; call init_process_group() before "
                "the first iter(), or pass rank= and world_size="
            )
        return 0, 1


@dataclasses.dataclass(slots=True)
class _Position:
    """How many samples of an epoch all ranks together have had."""

    epoch: int
    consumed: int


class _Epoch(Unique):
    """The batches of one epoch, in order, from a position on, which it keeps up to date."""

    def __init__(self, loader: Loader, position: _Position) -> None:
        self.running = False
        # Of those who are in next(), one after the other.
        self._lock = threading.RLock()
        _have_locks.add(self)
        # Only after the last batch is done with, where `running` ends when it is handed out.
        self.over = False
        self._loader = loader
        self._position = position
        self._share = loader._share()
        self._step = self._share.step
        self._repeat = None if position.epoch else loader._repeat
        self._batches_left = self._share.batches(len(loader._samples) - position.consumed)
        self._ready: list[Batch] = []
        self._receive: Callable[[Batch], None] | None = None
        # Only once, since later the images are in the page cache, or there is no room for them.
        self._reading = loader._samples.read_ahead() if loader._cold else None
        loader._cold = False
        self._pipeline = loader._open_pipeline(self._share, position.epoch, position.consumed)
        self.running = True

    def __iter__(self) -> "_Epoch":
        return self

    def __next__(self) -> Batch:
        with self._lock:
            try:
                batch = (self._ready or self._refill()).pop()
                if self._receive is not None:
                    self._receive(batch)
                self._batches_left -= 1
                if self._batches_left:
                    self._position.consumed += self._step
                else:
                    self._finish()
                if self._repeat is not None and self._position.consumed > self._step:
                    self._count()
            except StopIteration:
                raise
            except BaseException:
                # An interrupt too, since a batch may be lost then.
                self.close()
                raise
        return batch

    def __del__(self) -> None:
        # Without waiting for the threads, see `Pipeline`.
        if self.running:
            self._pipeline.stop()

    def close(self) -> None:
        """End the epoch here; ``next()`` raises from now on, on other threads too."""
        # Without the lock: the garbage collector may get here on one of our threads, and whoever
        # has the lock may wait for that thread.
        was_running, self.running = self.running, False
        self.over = True
        self._ready = []
        self._batches_left = -1
        if was_running:
            self._pipeline.close()
        self._stop_reading()

    def _refill(self) -> list[Batch]:
        if not self._batches_left:
            # Also where there is no batch at all.
            self._finish()
            self.over = True
            raise StopIteration
        slab = next(self._pipeline, None) if self.running else None
        if slab is not None:
            self._ready, self._receive = slab
        # Not before, since another thread may close it in between.
        if slab is None or not self.running:
            self._ready = []
            raise LoaderError(
                "expected a running iterator, found one that was closed: by close(), by a newer "
                "iter() of its loader, by an error or interrupt in next(), or by a fork of the "
                "process while another thread was in next()"
            )
        return slab.batches

    def _stop_reading(self) -> None:
        if self._reading is not None:
            self._reading.close()

    def _count(self) -> None:
        """Let it be known that the loader gave epoch 0: all of it, or more than a first batch."""
        if self._repeat is not None:
            repeats.count(self._repeat)
            self._repeat = None

    def _finish(self) -> None:
        loader = self._loader
        with loader._lock:
            # Else a newer iter() has closed this one just now.
            if loader._position is self._position:
                following = (self._position.epoch + 1, 0)
                loader._pipeline_at = (self._share, *following)
                if loader._start is None:
                    loader._start = following
        self.running = False
        self._stop_reading()
        self._count()


_have_locks: weakref.WeakSet[Loader | _Epoch] = weakref.WeakSet()


def _open_locks() -> None:
    """Open in a forked process what another thread held, which is not there to do it."""
    for owner in list(_have_locks):
        if owner._lock.acquire(blocking=False):
            owner._lock.release()
            continue
        owner._lock = threading.RLock()
        if isinstance(owner, _Epoch):
            # That thread was amid taking a batch.
            owner.close()


os.register_at_fork(after_in_child=_open_locks)


def _find_group() -> Any:
    """Return torch.distributed if that is initialised."""
    if "torch" in sys.modules:
        from torch import distributed

        if distributed.is_available() and distributed.is_initialized():
            return distributed
    return None


def _draw_seed(given_ranks: tuple[int, int] | None) -> int:
    """Draw a seed, on rank 0 for all ranks."""
    seed = secrets.randbits(64)
    if given_ranks is not None:
        if given_ranks[1] > 1:
            raise ArgumentError(
                "with rank= and world_size= each rank would draw a seed of its own: pass seed="
            )
    elif (distributed := _find_group()) is not None:
        seeds = [seed]
        distributed.broadcast_object_list(seeds)
        (seed,) = seeds
    elif os.environ.get("WORLD_SIZE", "1") != "1":
        raise LoaderError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but torch.distributed is not initialised, "
            "so each rank would draw a seed of its own: call init_process_group() first, or pass "
            "seed="
        )
    return seed


def _share_cores() -> int:
    return max(1, usable_cores() // max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def _check_split(pack: Pack, split: str | Split) -> Split:
    if not isinstance(split, Split):
        return pack[split]
    if split.pack.fingerprint != pack.fingerprint:
        raise SelectionError(f"expected a split of {pack!r}, found {split!r}, which is of another")
    return split


def _check_int(name: str, value: Any, low: int, stop: int | None = None) -> int:
    """Return ``value`` as an int in [low, stop)."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or number < low or (stop and number >= stop):
        span = f"a whole number of at least {low}" + (f" and below {stop}" if stop else "")
        raise ArgumentError(f"expected {name} to be {span}, found {value!r}")
    return number


def _check_dtype(dtype: Any) -> str:
    # torch.float32 and numpy.float32 say their names like this.
    name = getattr(dtype, "__name__", str(dtype)).removeprefix("torch.")
    if name not in DTYPES:
        raise ArgumentError(f"expected dtype to be one of {', '.join(DTYPES)}, found {dtype!r}")
    return name


def _check_output(output: str, dtype: str, device: Any) -> None:
    if output not in ("torch", "numpy"):
        raise ArgumentError(f"expected output 'torch' or 'numpy', found {output!r}")
    if output == "numpy" and dtype == "bfloat16":
        raise ArgumentError("NumPy has no bfloat16: use output='torch', or another dtype")
    if output == "numpy" and str(device) != "cpu":
        raise ArgumentError(f"NumPy arrays are on the CPU: expected device='cpu', found {device!r}")


def _check_normalize(
    normalize: Any, pack: Pack, dtype: str
) -> tuple[bool, Sequence[float], Sequence[float]]:
    """Return whether to normalise, and with which mean and std."""
    if isinstance(normalize, bool | np.bool_):
        return bool(normalize) and dtype != "uint8", pack.mean, pack.std
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
    return True, mean, std


def _check_ranks(rank: int | None, world_size: int | None) -> tuple[int, int] | None:
    if rank is None and world_size is None:
        return None
    if rank is None or world_size is None:
        raise ArgumentError(
            f"expected rank and world_size together, found rank={rank!r}, world_size={world_size!r}"
        )
    world_size = _check_int("world_size", world_size, 1)
    return _check_int("rank", rank, 0, world_size), world_size


def _describe_split(split: Split) -> str:
    """Name a split, and a selection also by what is in it."""
    if split.rows is None:
        return split.name
    return f"{split.name}#{hashlib.sha256(split.rows.data).hexdigest()[:16]}"


def _abridge(classes: list[str] | None) -> list[str] | str | None:
    """Keep a state small whatever number of classes is selected."""
    text = json.dumps(classes)
    return classes if len(text) <= 200 else hashlib.sha256(text.encode()).hexdigest()[:16]


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
