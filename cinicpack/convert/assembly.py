"""Assembly: converted images become the arrays of a pack, each in its place."""

import math
import stat
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cinicpack import cinic10
from cinicpack.convert.plan import Plan, Rows
from cinicpack.convert.reservation import Reservation
from cinicpack.convert.results import ConvertedImages
from cinicpack.cores import usable_cores
from cinicpack.jit import jit
from cinicpack.store.container import Container
from cinicpack.store.fingerprints import fingerprint_images, fingerprint_splits
from cinicpack.store.format import ArraySpec
from cinicpack.store.manifest import Group, Manifest, Normalization, SplitInfo, channel_statistics
from cinicpack.store.mapping import Mapping, map_file
from cinicpack.store.publish import sync
from cinicpack.store.region import Region, write_all
from cinicpack.store.verify import hash_regions

__all__ = ["write_pack"]

_COPY_BYTES: Final = 8 << 20
# So many rows are gathered at a time.
_BLOCK_ROWS: Final = 1 << 14
_WRITABLE: Final = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH


def write_pack(
    plan: Plan,
    images: ConvertedImages,
    new: Path,
    container: Container,
    num_workers: int | None,
    reservation: Reservation | None = None,
    copy_bytes: int = _COPY_BYTES,
) -> None:
    """Write the whole pack as ``new``, in a container.

    The arrays of a reservation are taken if all images are in their places there; else images are
    copied, ``copy_bytes`` at a time.
    """
    specs = plan.specs(images.image_shape(plan.rows))
    threads = (usable_cores() if num_workers is None else num_workers) or 1
    if reservation is not None and _is_filled(reservation, plan, images, specs):
        regions = reservation.move(new)
    else:
        regions = container.create(new, specs)
        _copy_planes(plan, images, regions, threads, copy_bytes)
    for region in regions:
        _write_values(plan, images, region)
    with ThreadPoolExecutor(2) as others:
        # Publishing has to wait for the disk, so the disk may as well write from now on. Linux
        # reports a write error to one fsync only, so the result of this one must be checked.
        synced = others.submit(sync, new)
        described = others.submit(_describe, plan, images)
        # The arrays are hashed in this thread, where Ctrl-C ends the hashing at once.
        hashes = hash_regions(regions, num_workers=threads)
        synced.result()
        manifest = replace(described.result(), arrays=hashes)
    container.finish(new, manifest, regions)
    _make_read_only(new)


def _make_read_only(new: Path) -> None:
    """Let nobody write to the files by accident: loaders will have them mapped."""
    for file in (new, *new.rglob("*")):
        if file.is_file():
            # A file system without permissions refuses, and loses nothing by it.
            with suppress(OSError):
                file.chmod(file.stat().st_mode & ~_WRITABLE)


def _describe(plan: Plan, images: ConvertedImages) -> Manifest:
    """Build the manifest, but for the digests of the arrays."""
    image_shape = images.image_shape(plan.rows)
    splits = {}
    for name, rows in plan.splits.items():
        splits[name] = SplitInfo(
            shards=plan.shards[name],
            name_bytes=plan.name_bytes[name],
            fingerprint=fingerprint_images(images.digests[rows.order]),
            groups=tuple(_groups(images, rows, len(plan.classes))),
        )
    if cinic10.is_cinic10(plan.classes, images.origins(plan.rows)):
        normalization = Normalization(cinic10.MEAN, cinic10.STD, "published")
    else:
        origin = "train" if "train" in splits else next(iter(splits))
        mean, std = channel_statistics(splits[origin].groups, image_shape)
        normalization = Normalization(mean, std, origin)
    return Manifest(
        image_shape=image_shape,
        classes=plan.classes,
        normalization=normalization,
        splits=splits,
        fingerprint=fingerprint_splits({name: info.fingerprint for name, info in splits.items()}),
        arrays={},
        skipped=plan.skipped,
        resize=plan.resize,
    )


def _groups(images: ConvertedImages, rows: Rows, num_classes: int) -> Iterator[Group]:
    """Sum up the images of every class and origin, of which there are few."""
    kinds = len(cinic10.Origin)
    counts = np.zeros(num_classes * kinds, np.int64)
    totals = np.zeros((len(counts), 6), np.int64)
    for block in _cut_blocks(len(rows.order)):
        mine = rows.order[block]
        keys = rows.labels[block].astype(np.int64) * kinds + images.provenance["origin"][mine]
        counts += np.bincount(keys, minlength=len(counts))
        np.add.at(totals, keys, images.sums[mine])
    for key in np.flatnonzero(counts).tolist():
        label, origin = divmod(key, kinds)
        sums = totals[key].tolist()
        yield Group(label, origin, int(counts[key]), tuple(sums[:3]), tuple(sums[3:]))


def _is_filled(
    reservation: Reservation, plan: Plan, images: ConvertedImages, specs: list[ArraySpec]
) -> bool:
    """Tell whether the reservation is of these arrays, and every image in its place."""
    if reservation.specs() != specs:
        return False
    for start, region in reservation.images():
        count, *shape = region.spec.shape
        rows = plan.rows[start : start + count]
        files = [number for number, file in enumerate(images.scratches) if file == str(region.file)]
        places = region.offset + np.arange(count) * math.prod(shape)
        if not np.isin(images.scratch[rows], files).all() or (images.offsets[rows] != places).any():
            return False
    return True


class _Piece(NamedTuple):
    """A part of an array's file, from byte ``begin`` to byte ``end``, which may cut images.

    Attributes:
        region: where the array lies.
        order: the images of the array, in order.
    """

    region: Region
    order: NDArray[np.int64]
    begin: int
    end: int


def _copy_planes(
    plan: Plan,
    images: ConvertedImages,
    regions: list[Region],
    num_threads: int,
    copy_bytes: int,
) -> None:
    """Copy the planes of all images from the scratch files to where they belong."""
    row_bytes = math.prod(images.image_shape(plan.rows))
    pieces = list(_cut_pieces(plan, regions, row_bytes, copy_bytes))
    # Threads that write to one file wait for each other, so neighbours in this list are pieces of
    # different files, at like offsets.
    pieces.sort(key=lambda piece: piece.begin)
    # Scratch files are mapped, since a call to read every row would take as long as the copying.
    scratches = {
        number: map_file(Path(images.scratches[number]))
        for number in np.unique(images.scratch[images.offsets >= 0]).tolist()
    }
    # Buffers take turns, since used memory is twice as fast as new one. Each has room for a piece
    # and for the two rows that a piece may cut.
    buffers: SimpleQueue[NDArray[np.uint8]] = SimpleQueue()
    for _ in range(num_threads):
        buffers.put(np.empty(copy_bytes + 2 * row_bytes, np.uint8))

    def copy(piece: _Piece) -> None:
        planes = buffers.get()
        try:
            _copy_piece(piece, images, scratches, planes, row_bytes)
        finally:
            buffers.put(planes)

    with ThreadPoolExecutor(num_threads) as threads:
        deque(threads.map(copy, pieces), maxlen=0)


def _cut_pieces(
    plan: Plan, regions: list[Region], row_bytes: int, copy_bytes: int
) -> Iterator[_Piece]:
    for split, (order, _) in plan.splits.items():
        start = 0
        for region in regions:
            if region.spec.name.startswith(f"{split}/images-"):
                count = region.spec.shape[0]
                rows = order[start : start + count]
                stop = region.offset + count * row_bytes
                for begin, end in _cut_bytes(region.offset, stop, copy_bytes):
                    yield _Piece(region, rows, begin, end)
                start += count


def _copy_piece(
    piece: _Piece,
    images: ConvertedImages,
    scratches: dict[int, Mapping],
    planes: NDArray[np.uint8],
    row_bytes: int,
) -> None:
    """Copy one piece by way of the memory ``planes``."""
    region, order, begin, end = piece
    first = (begin - region.offset) // row_bytes
    rows = order[first : -((region.offset - end) // row_bytes)]
    numbers, offsets = images.scratch[rows], images.offsets[rows]
    for number in np.unique(numbers).tolist():
        places = np.flatnonzero(numbers == number)
        mapped = scratches[number]
        _gather(np.asarray(mapped), offsets[places], planes, places, row_bytes)
        # Drop the mapped pages now; otherwise the whole scratch file ends up in this process's
        # resident memory.
        mapped.drop_pages()
    skipped = begin - region.offset - first * row_bytes
    with open(region.file, "r+b", buffering=0) as stream:
        write_all(stream.fileno(), planes[skipped : skipped + end - begin].data, begin)


@jit
def _gather(
    read_from: NDArray[np.uint8],
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
            target[to + byte] = read_from[start + byte]


def _cut_bytes(start: int, stop: int, size: int) -> Iterator[tuple[int, int]]:
    """Cut a part of a file into pieces that start at multiples of their size.

    Such pieces can be kept in huge pages by an operating system that has them. The loader is up to
    a seventh faster then, since the processor has to look for the page of every random image.
    """
    edges = [start, *range(start - start % size + size, stop, size), stop]
    yield from pairwise(edges)


def _cut_blocks(rows: int) -> Iterator[slice]:
    for start in range(0, rows, _BLOCK_ROWS):
        yield slice(start, start + _BLOCK_ROWS)


def _write_values(plan: Plan, images: ConvertedImages, region: Region) -> None:
    """Write an array of a split, some rows at a time, unless it has images."""
    split, field = region.spec.name.rsplit("/", 1)
    order, labels = plan.splits[split]
    give: dict[str, Callable[[slice], NDArray[Any]]] = {
        "labels": lambda block: labels[block],
        "sources": lambda block: images.provenance[order[block]],
        "names": lambda block: plan.paths.encoded(order[block]),
    }
    if field not in give:
        return
    with open(region.file, "r+b", buffering=0) as stream:
        for block in _cut_blocks(len(order)):
            values = np.asarray(give[field](block), region.spec.dtype)
            offset = region.offset + block.start * values.itemsize
            write_all(stream.fileno(), memoryview(values.tobytes()), offset)
