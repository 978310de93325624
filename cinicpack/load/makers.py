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
from cinicpack.load.transform import make_transform

__all__ = ["Maker", "Pace", "make_maker", "make_samples", "plan_pace"]

# Size of a slab on the host: 680 images of float32, 1.5 ms of work for a thread. Between two slabs
# a thread waits 20 to 100 µs for Python's lock, so larger slabs waste less time; but the larger
# slabs are, the less of them stays in the processor's cache.
_SLAB_BYTES: Final = 8 << 20
# Size of a slab for a device: Python's lock is held for 0.2 ms and more for each. With 8 threads an
# H100 gets 2.3 million images of float32 a second, and 0.6 to 1 million in slabs of 8 MiB.
_DEVICE_SLAB_BYTES: Final = 32 << 20
# Size of a slab of resident pixels, which one launch makes: writing it takes the memory of a GPU
# 30 µs, a few times as long as the launch.
_LAUNCH_BYTES: Final = 64 << 20


class Maker(Protocol):
    """What makes slabs, on the host or on a device."""

    def make(self, positions: NDArray[np.int64], edges: Sequence[int], epoch: int) -> Slab:
        """Make the samples at ``positions`` into batches with these edges."""

    def clear(self) -> None:
        """Free all memory that no batch needs."""


class Pace(NamedTuple):
    """How much is made at a time.

    Attributes:
        slab_batches: batches in a slab.
        threads: number of threads that make slabs; 0: the consumer makes each when it needs it.
        ahead: number of slabs that are being made or waiting.
    """

    slab_batches: int
    threads: int
    ahead: int


def plan_pace(options: Options) -> Pace:
    """Work out how much is made at a time."""
    slab_bytes = _SLAB_BYTES if _is_on_host(options) else _DEVICE_SLAB_BYTES
    threads = options.num_workers
    if options.resident:
        # Two threads suffice: the device does the work, and each slab takes 64 MiB of its memory.
        slab_bytes, threads = _LAUNCH_BYTES, min(threads, 2)
    slab_batches = max(1, slab_bytes // options.batch_format.nbytes(options.batch_size))
    return Pace(slab_batches, threads, threads + 1)


def make_samples(options: Options) -> Samples:
    """Choose the rows of a loader, and how their pixels become those of a batch.

    Raises:
        SelectionError: no rows are left, or the pack has no such source or class.
        ArgumentError: a std is not above 0, or the augmentation does not fit the size of images.
    """
    pack, split, normalize = options.pack, options.split, options.normalize
    rows = split.where(source=options.source, classes=options.classes)
    if not len(rows):
        raise SelectionError(
            f"{split!r} has no images with source={options.source!r}, classes={options.classes!r}"
        )
    mean, std = (pack.mean, pack.std) if isinstance(normalize, bool) else normalize
    normalized = normalize is not False and options.dtype != "uint8"
    transform = make_transform(
        options.augment, pack.image_shape, mean, std, normalized=normalized, dtype=options.dtype
    )
    return Samples(split, rows, transform, options.seed, options.batch_format)


def make_maker(options: Options, samples: Samples, pace: Pace) -> Maker:
    """Make what makes the slabs, on the host or on a device.

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
