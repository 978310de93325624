"""The contents of a pack: whether its images are what the manifest says of them."""

import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cinicpack.cinic10 import Origin, parse_names
from cinicpack.errors import PackError
from cinicpack.store.fingerprints import (
    DIGEST_BYTES,
    digest_image,
    fingerprint_images,
    image_header,
)
from cinicpack.store.manifest import Group, Manifest
from cinicpack.store.mapping import map_files, view_arrays
from cinicpack.store.reader import check_labels, check_normalization
from cinicpack.store.region import Region, name_place

__all__ = ["check_contents"]

# How many bytes of images a thread measures at a time: with 341 images of 32x32, they stay in a
# core's second-level cache.
_BLOCK_BYTES: Final = 1 << 20
# The most pixels of which the squares are summed in 32 bits, without overflow: sums in 64 bits take
# twice as long.
_PIXELS_OF_32_BITS: Final = (2**32 - 1) // 255**2


class _Block(NamedTuple):
    """Some images of a split, which are in one shard, with their labels and names."""

    planes: NDArray[np.uint8]
    labels: list[int]
    names: list[bytes]


def check_contents(
    path: Path, manifest: Manifest, regions: list[Region], num_threads: int
) -> list[str]:
    """Compare splits with what the manifest of the pack at ``path`` says of them.

    ``regions`` are all arrays of the splits to look at. Returns one line for each problem.
    """
    places = {region.spec.name: name_place(region, regions) for region in regions}
    arrays = view_arrays(regions, map_files(regions))
    problems: list[str] = []
    try:
        check_normalization(path, manifest)
    except PackError as error:
        problems.append(str(error))
    with ThreadPoolExecutor(num_threads) as pool:
        for split in manifest.splits:
            if f"{split}/labels" in places:
                problems += _check_split(path, manifest, split, places, arrays, pool)
    return problems


def _check_split(
    path: Path,
    manifest: Manifest,
    split: str,
    places: dict[str, str],
    arrays: dict[str, NDArray[Any]],
    pool: ThreadPoolExecutor,
) -> Iterator[str]:
    info = manifest.splits[split]
    labels, names = arrays[f"{split}/labels"], arrays[f"{split}/names"]
    sources = arrays[f"{split}/sources"]
    try:
        check_labels(places[f"{split}/labels"], labels, manifest)
    except PackError as error:
        yield str(error)
        return
    shards = [arrays[f"{split}/images-{number:05d}"] for number in range(len(info.shards))]
    classes = [os.fsencode(name) for name in manifest.classes]
    measure = partial(_measure, classes, manifest.image_shape)
    measured = pool.map(measure, _cut(shards, labels.tolist(), names.tolist()))
    if problems := list(_check_names(places, split, labels, names, sources)):
        yield from problems
        return
    digests, sums = [], []
    for some_digests, some_sums in measured:
        digests.append(some_digests)
        sums.append(some_sums)
    if (found := fingerprint_images(np.concatenate(digests))) != info.fingerprint:
        yield (
            f"{path}: expected the fingerprint {info.fingerprint} of {split}, found {found}; "
            "pack again"
        )
    groups = _group(labels, sources["origin"], np.concatenate(sums))
    if tuple(groups) != info.groups:
        wrong = sorted(set(groups) ^ set(info.groups))[0]
        name = manifest.classes[wrong.label]
        yield (
            f"{path}: expected the count and sums that the manifest has for class {name!r}, origin "
            f"{wrong.origin} of {split}, found others; pack again"
        )


def _check_names(
    places: dict[str, str],
    split: str,
    labels: NDArray[Any],
    names: NDArray[np.bytes_],
    sources: NDArray[np.void],
) -> Iterator[str]:
    place = places[f"{split}/names"]
    raw = names.view(np.uint8).reshape(len(names), -1)
    bad = (raw == ord("/")).any(1) | (raw[:, 0] == 0) | np.isin(names, [b".", b".."])
    bad |= ((raw[:, 1:] != 0) & (raw[:, :-1] == 0)).any(1)
    if bad.any():
        row = int(bad.argmax())
        yield (
            f"{place}: expected names that files can have, found {raw[row].tobytes()!r} in row "
            f"{row}; pack again"
        )
        return
    if not raw[:, -1].any():
        yield f"{place}: expected a name of {raw.shape[1]} bytes, found only shorter; pack again"
    listed = names.tolist()
    keys = list(zip(labels.tolist(), listed, strict=True))
    if len(set(keys)) < len(keys):
        [((label, name), count)] = Counter(keys).most_common(1)
        yield (
            f"{place}: expected every name once in a class, found {name!r} {count} times with "
            f"label {label}; pack again"
        )
    told = parse_names(os.fsdecode(b"/".join(listed)).split("/"))
    if (held := sources.tolist()) != told:
        row = next(row for row, pair in enumerate(zip(held, told, strict=True)) if len({*pair}) > 1)
        yield (
            f"{places[f'{split}/sources']}: expected {told[row]}, which the name "
            f"{listed[row]!r} tells, found {held[row]} in row {row}; pack again"
        )


def _cut(
    shards: Sequence[NDArray[np.uint8]], labels: list[int], names: list[bytes]
) -> Iterator[_Block]:
    """Cut the images of a split into blocks."""
    first = 0
    for shard in shards:
        step = max(1, _BLOCK_BYTES // shard[0].nbytes)
        for start in range(0, len(shard), step):
            planes = shard[start : start + step]
            rows = slice(first + start, first + start + len(planes))
            yield _Block(planes, labels[rows], names[rows])
        first += len(shard)


def _measure(
    classes: list[bytes], shape: tuple[int, int, int], block: _Block
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the digest of every image, and (n, 6) sums and sums of squares of its channels."""
    planes = block.planes
    pixels = np.empty((len(planes), *shape), np.uint8)
    for channel in range(shape[2]):
        # NumPy copies one channel after the other four times as fast as it transposes the array.
        pixels[..., channel] = planes[:, channel]
    flat, size = pixels.data.cast("B"), math.prod(shape)
    joined = b"".join(
        digest_image(image_header(classes[label], name, shape), flat[start : start + size])
        for label, name, start in zip(
            block.labels, block.names, range(0, len(flat), size), strict=True
        )
    )
    digests = np.frombuffer(joined, np.uint8).reshape(-1, DIGEST_BYTES)
    values = planes.reshape(*planes.shape[:2], -1)
    accumulator = np.uint32 if values.shape[2] <= _PIXELS_OF_32_BITS else np.uint64
    squares = values.astype(np.uint16)
    np.multiply(squares, squares, out=squares)
    sums = [array.sum(2, dtype=accumulator) for array in (values, squares)]
    return digests, np.concatenate(sums, axis=1).astype(np.int64)


def _group(
    labels: NDArray[Any], origins: NDArray[np.uint8], sums: NDArray[np.int64]
) -> list[Group]:
    keys = labels.astype(np.int64) * len(Origin) + origins
    order = np.argsort(keys, kind="stable")
    kinds, starts, counts = np.unique(keys[order], return_index=True, return_counts=True)
    totals = np.add.reduceat(sums[order], starts).tolist()
    return [
        Group(kind // len(Origin), kind % len(Origin), count, tuple(total[:3]), tuple(total[3:]))
        for kind, count, total in zip(kinds.tolist(), counts.tolist(), totals, strict=True)
    ]
