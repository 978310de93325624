"""Assembly: converted images become the arrays of a pack, each in its place."""

import math
import mmap
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cinicpack import cinic10
from cinicpack.convert.layout import file_names
from cinicpack.convert.reservation import Reservation, divide_shards
from cinicpack.cores import usable_cores
from cinicpack.jit import jit
from cinicpack.store.container import Container
from cinicpack.store.fingerprints import fingerprint_images, fingerprint_splits
from cinicpack.store.format import (
    ArraySpec,
    Group,
    Manifest,
    Normalization,
    SplitInfo,
    channel_statistics,
    plan_arrays,
)
from cinicpack.store.publish import sync
from cinicpack.store.region import Region, map_file, write_all
from cinicpack.store.verify import hash_regions

__all__ = ["ConvertedImages", "Rows", "write_pack"]

_COPY_BYTES: Final = 8 << 20


class Rows(NamedTuple):
    """Which images are the rows of a split, in order, and their labels."""

    order: NDArray[np.int64]
    labels: NDArray[np.uint8 | np.uint16]


@dataclass(frozen=True)
class ConvertedImages:
    """All images of a source, converted, in the order in which they came.

    ``splits`` has for every split the numbers of its images in that order, and their labels.
    """

    paths: list[str]
    classes: tuple[str, ...]
    splits: dict[str, Rows]
    scratches: list[str]
    scratch: NDArray[np.int64]
    offsets: NDArray[np.int64]
    shapes: NDArray[np.int32]
    digests: NDArray[np.uint8]
    sums: NDArray[np.int64]
    sources: NDArray[np.void]
    bad: dict[int, str]
    reduced: list[int]
    skipped: tuple[tuple[str, str], ...] = ()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the first row's image, and so of all that are packed."""
        height, width = self.shapes[next(iter(self.splits.values())).order[0]].tolist()
        return height, width, 3

    def origins(self) -> list[int]:
        """Return the origins that occur among the rows of all splits, ascending."""
        rows = np.concatenate([rows.order for rows in self.splits.values()])
        found: list[int] = np.unique(self.sources["origin"][rows]).tolist()
        return found


def write_pack(
    images: ConvertedImages,
    new: Path,
    container: Container,
    shard_rows: int | None,
    num_workers: int | None,
    reservation: Reservation | None = None,
) -> None:
    """Write the whole pack as ``new``, in a container.

    The arrays of a reservation are taken if all images are in their places there.
    """
    names = {
        split: np.array(file_names([images.paths[i] for i in rows.order.tolist()]))
        for split, rows in images.splits.items()
    }
    shards = {
        split: divide_shards(len(rows.order), shard_rows) for split, rows in images.splits.items()
    }
    longest = {split: (shards[split], names[split].itemsize) for split in names}
    specs = list(plan_arrays(images.image_shape, len(images.classes), longest))
    threads = (usable_cores() if num_workers is None else num_workers) or 1
    if reservation is not None and _is_filled(reservation, images, specs):
        regions = reservation.move(new)
    else:
        regions = container.create(new, specs)
        _copy_planes(images, regions, threads)
    for region in regions:
        split, field = region.spec.name.rsplit("/", 1)
        if field in ("labels", "sources", "names"):
            order, labels = images.splits[split]
            if field == "labels":
                values: Any = labels
            elif field == "sources":
                values = images.sources[order]
            else:
                values = names[split]
            _write_region(region, np.asarray(values, region.spec.dtype))
    with ThreadPoolExecutor(2) as others:
        # Publishing waits for the disk: let it write meanwhile. What goes wrong there is told once,
        # so it has to be asked for.
        synced = others.submit(sync, new)
        described = others.submit(_describe, images, names, shards)
        # Here, where Ctrl-C ends it at once.
        hashes = hash_regions(regions, num_workers=threads)
        synced.result()
        manifest = replace(described.result(), arrays=hashes)
    container.finish(new, manifest, regions)


def _describe(
    images: ConvertedImages,
    names: dict[str, NDArray[np.bytes_]],
    shards: dict[str, tuple[int, ...]],
) -> Manifest:
    """Build the manifest, but for the digests of the arrays."""
    splits = {}
    for name, (order, _) in images.splits.items():
        splits[name] = SplitInfo(
            shards=shards[name],
            name_bytes=names[name].itemsize,
            fingerprint=fingerprint_images(_rows_of(images.digests[order])),
            groups=tuple(_groups(images, images.splits[name])),
        )
    if cinic10.is_cinic10(images.classes, images.origins()):
        normalization = Normalization(cinic10.MEAN, cinic10.STD, "published")
    else:
        origin = "train" if "train" in splits else next(iter(splits))
        mean, std = channel_statistics(splits[origin].groups, images.image_shape)
        normalization = Normalization(mean, std, origin)
    return Manifest(
        image_shape=images.image_shape,
        classes=images.classes,
        normalization=normalization,
        splits=splits,
        fingerprint=fingerprint_splits({name: info.fingerprint for name, info in splits.items()}),
        arrays={},
        skipped=images.skipped,
    )


def _groups(images: ConvertedImages, rows: Rows) -> Iterator[Group]:
    origins = images.sources["origin"][rows.order]
    keys = rows.labels.astype(np.int64) * len(cinic10.Origin) + origins
    for key in np.unique(keys).tolist():
        label, origin = divmod(key, len(cinic10.Origin))
        mine = rows.order[keys == key]
        sums = images.sums[mine].sum(0).tolist()
        yield Group(label, origin, len(mine), tuple(sums[:3]), tuple(sums[3:]))


def _is_filled(reservation: Reservation, images: ConvertedImages, specs: list[ArraySpec]) -> bool:
    """Tell whether the reservation is of these arrays, and every image in its place."""
    if reservation.specs() != specs:
        return False
    order = np.concatenate([rows.order for rows in images.splits.values()])
    for start, region in reservation.images():
        count, *shape = region.spec.shape
        rows = order[start : start + count]
        files = [number for number, file in enumerate(images.scratches) if file == str(region.file)]
        places = region.offset + np.arange(count) * math.prod(shape)
        if not np.isin(images.scratch[rows], files).all() or (images.offsets[rows] != places).any():
            return False
    return True


def _copy_planes(images: ConvertedImages, regions: list[Region], num_threads: int) -> None:
    """Copy the planes of all images from the scratch files to where they belong."""
    row_bytes = math.prod(images.image_shape)
    jobs = []
    for split, (order, _) in images.splits.items():
        start = 0
        for region in regions:
            if not region.spec.name.startswith(f"{split}/images-"):
                continue
            count = region.spec.shape[0]
            jobs += [
                (region, order[start : start + count], *piece)
                for piece in _cut_bytes(region.offset, region.offset + count * row_bytes)
            ]
            start += count
    # Threads that write to one file wait for each other.
    jobs.sort(key=lambda job: job[2])

    def copy(job: tuple[Region, NDArray[np.int64], int, int]) -> None:
        planes = buffers.get()
        try:
            fill(planes, *job)
        finally:
            buffers.put(planes)

    def fill(
        planes: NDArray[np.uint8], region: Region, order: NDArray[np.int64], begin: int, end: int
    ) -> None:
        # A piece may start and end amid an image.
        first = (begin - region.offset) // row_bytes
        rows = order[first : -((region.offset - end) // row_bytes)]
        numbers, offsets = images.scratch[rows], images.offsets[rows]
        for number in np.unique(numbers).tolist():
            places = np.flatnonzero(numbers == number)
            mapped = scratches[number]
            _gather(np.frombuffer(mapped, np.uint8), offsets[places], planes, places, row_bytes)
            if hasattr(mmap, "MADV_DONTNEED"):
                # It would else count as memory of this process, in the end all of it.
                mapped.madvise(mmap.MADV_DONTNEED)
        skipped = begin - region.offset - first * row_bytes
        with open(region.file, "r+b", buffering=0) as stream:
            write_all(stream.fileno(), planes[skipped : skipped + end - begin].data, begin)

    # Memory that is used again is twice as fast as new one. A piece has two rows in part.
    buffers: SimpleQueue[NDArray[np.uint8]] = SimpleQueue()
    for _ in range(num_threads):
        buffers.put(np.empty(_COPY_BYTES + 2 * row_bytes, np.uint8))
    # Mapped, since a call for every row would take as long as the copying.
    scratches = {
        number: map_file(Path(images.scratches[number]))
        for number in np.unique(images.scratch[images.offsets >= 0]).tolist()
    }
    with ThreadPoolExecutor(num_threads) as threads:
        deque(threads.map(copy, jobs), maxlen=0)


@jit
def _gather(
    source: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    target: NDArray[np.uint8],
    places: NDArray[np.int64],
    size: int,
) -> None:
    """Copy images of ``size`` bytes from their offsets in a file to their places in memory."""
    step = np.uint64(size)
    for image in range(places.size):
        start, to = np.uint64(offsets[image]), np.uint64(places[image]) * step
        for byte in range(step):
            target[to + byte] = source[start + byte]


def _cut_bytes(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Cut a part of a file into pieces that start at multiples of their size.

    So the operating system can keep them in huge pages, where it has any. The loader is up to a
    seventh faster then: an image in random order is on a page that the processor has to look for.
    """
    edges = [start, *range(start - start % _COPY_BYTES + _COPY_BYTES, stop, _COPY_BYTES), stop]
    yield from pairwise(edges)


def _write_region(region: Region, array: NDArray[Any]) -> None:
    with open(region.file, "r+b", buffering=0) as stream:
        write_all(stream.fileno(), memoryview(array.tobytes()), region.offset)


def _rows_of(digests: NDArray[np.uint8]) -> list[bytes]:
    joined, size = digests.tobytes(), digests.shape[1]
    return [joined[start : start + size] for start in range(0, len(joined), size)]
