"""Makers: what makes the batches of a loader, and of which samples."""

from typing import Protocol

from cinicpack.interrupts import holding_interrupts
from cinicpack.load.epoch import Feed
from cinicpack.load.host import HostMaker
from cinicpack.load.mixing import Mixing
from cinicpack.load.options import Options
from cinicpack.load.order import Work
from cinicpack.load.samples import Samples
from cinicpack.load.transform import make_transform

__all__ = ["Maker", "make_maker", "make_samples"]


class Maker(Protocol):
    """What makes batches, on the host or on a device, in one epoch after the other."""

    def open(self, work: Work) -> Feed:
        """Begin to make the batches of an epoch."""

    def clear(self) -> None:
        """Free all memory that no batch needs."""


def make_samples(options: Options) -> Samples:
    """Choose the rows of a loader, and how their pixels become those of a batch.

    Raises:
        SelectionError: no rows are left, or the pack has no such source or class.
        ArgumentError: a std is not above 0, the augmentation does not fit the size of images, or
            labels that are no classes cannot be mixed.
    """
    pack, split, normalize = options.pack, options.split, options.normalize
    rows = split.where(source=options.source, classes=options.classes, unique=options.unique)
    if not len(rows):
        # For its error, which names what leaves no row.
        split.select(source=options.source, classes=options.classes)
    mean, std = (pack.mean, pack.std) if isinstance(normalize, bool) else normalize
    normalized = normalize is not False and options.dtype != "uint8"
    first, *more = (
        make_transform(
            augment, pack.image_shape, mean, std, normalized=normalized, dtype=options.dtype
        )
        for augment in options.views or [options.augment]
    )
    form = options.batch_format
    mixed = None if options.mix is None else len(pack.classes)
    return Samples(split, rows, first, options.seed, form, options.labels, more, mixed)


def make_maker(options: Options, samples: Samples) -> Maker:
    """Make what makes the batches, on the host or on a device.

    Raises:
        ArgumentError: there is no such device.
        LoaderError: memory for copies to a GPU cannot be pinned.
    """
    form, size, num_workers = options.batch_format, options.batch_size, options.num_workers
    mixing = None if options.mix is None else Mixing(options.mix, samples, form)
    if _is_on_host(options):
        return HostMaker(samples, form, size, num_workers, mixing)
    with holding_interrupts():
        from cinicpack.load.device import DeviceMaker, check_device
        from cinicpack.load.slabs import Slabs

    slabs = Slabs(
        samples,
        form,
        check_device(options.device),
        augment_on=options.augment_on,
        resident=options.resident,
        batch_size=size,
        num_workers=num_workers,
        mixing=mixing,
    )
    return DeviceMaker(slabs)


def _is_on_host(options: Options) -> bool:
    return str(options.device) == "cpu" and options.augment_on == "cpu" and not options.resident
