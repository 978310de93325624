"""Makers: what makes the slabs of a loader, of which samples, and how much at a time."""

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from cinicpack.errors import SelectionError
from cinicpack.load.batches import Slab
from cinicpack.load.host import HostMaker
from cinicpack.load.options import Options
from cinicpack.load.samples import Samples

__all__ = ["Maker", "Pace", "make_maker", "make_samples", "plan_pace"]

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


class Pace(NamedTuple):
    """How much is made at a time.

    Attributes:
        slab_batches: batches in a slab.
        threads: how many make slabs; 0: whoever asks for them.
        ahead: slabs that are under way or waiting.
    """

    slab_batches: int
    threads: int
    ahead: int


def plan_pace(options: Options) -> Pace:
    """Work out how much is made at a time."""
    slab_bytes = _SLAB_BYTES if _is_on_host(options) else _DEVICE_SLAB_BYTES
    threads = options.num_workers
    if options.resident:
        # Threads only look up and launch then, and each slab takes 64 MiB of the device.
        slab_bytes, threads = _LAUNCH_BYTES, min(threads, 2)
    slab_batches = max(1, slab_bytes // options.batch_format.nbytes(options.batch_size))
    return Pace(slab_batches, threads, threads + 1)


def make_samples(options: Options) -> Samples:
    """Choose the rows of a loader, and how their pixels become those of a batch.

    Raises ``SelectionError`` where there are none, or no such source or class.
    """
    pack, split, normalize = options.pack, options.split, options.normalize
    rows = split.where(source=options.source, classes=options.classes)
    if not len(rows):
        raise SelectionError(
            f"{split!r} has no images with source={options.source!r}, classes={options.classes!r}"
        )
    mean, std = (pack.mean, pack.std) if isinstance(normalize, bool) else normalize
    normalized = normalize is not False and options.dtype != "uint8"
    return Samples(
        split, rows, options.augment, options.seed, options.batch_format, mean, std, normalized
    )


def make_maker(options: Options, samples: Samples, pace: Pace) -> Maker:
    """Choose what makes the slabs.

    Raises:
        ArgumentError: there is no such device.
        LoaderError: memory for copies to a GPU cannot be pinned.
    """
    slab_images = min(pace.slab_batches * options.batch_size, len(samples))
    if _is_on_host(options):
        return HostMaker(samples, options.batch_format, slab_images, pace.ahead + 2)
    from cinicpack.load.device import DeviceMaker, check_device

    return DeviceMaker(
        samples,
        options.batch_format,
        check_device(options.device),
        augment_on=options.augment_on,
        resident=options.resident,
        slab_images=slab_images,
        ahead=pace.ahead,
    )


def _is_on_host(options: Options) -> bool:
    return str(options.device) == "cpu" and options.augment_on == "cpu" and not options.resident
