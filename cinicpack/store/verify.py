"""Verification: every byte of a pack is hashed again, and what its manifest says is checked."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

from cinicpack.cores import usable_cores
from cinicpack.errors import ArgumentError
from cinicpack.store.contents import check_contents
from cinicpack.store.format import PIECE_BYTES
from cinicpack.store.reader import locate_pack, read_steadily
from cinicpack.store.region import HASH_BLOCK_BYTES, Region, hash_span, name_place, open_file

__all__ = ["Verification", "hash_regions", "verify_pack"]


class Verification(NamedTuple):
    """What `verify_pack` found: bytes hashed, and one line for each problem."""

    nbytes: int
    problems: list[str]


def verify_pack(path: str | os.PathLike[str], *, num_workers: int | None = None) -> Verification:
    """Hash all data of the pack at ``path``, and compare the images with what the manifest says.

    A problem is an array whose bytes are not those that were recorded. In splits without one it is
    a label of no class, a file name that is there twice in a class or that no file can have, a
    source that is not what the name tells, and counts, sums, mean, std or a fingerprint that are
    not those of the images.

    Raises `PackError` if the pack cannot even be opened: manifest, sizes and headers are checked
    first, as `open_pack` does.
    """
    return read_steadily(Path(path), partial(_verify, num_workers=num_workers))


def _verify(path: Path, num_workers: int | None) -> Verification:
    _, manifest, regions = locate_pack(path)
    found = hash_regions(regions, num_workers=num_workers)
    damaged = [
        region for region in regions if found[region.spec.name] != manifest.arrays[region.spec.name]
    ]
    problems = [
        _describe(
            name_place(region, regions),
            region,
            manifest.arrays[region.spec.name],
            found[region.spec.name],
        )
        for region in damaged
    ]
    # Splits with a damaged array are left out: what is wrong with their images follows from it.
    splits = {_split_of(region) for region in damaged}
    whole = [region for region in regions if _split_of(region) not in splits]
    problems += check_contents(path, manifest, whole, _count_threads(num_workers))
    return Verification(sum(region.spec.nbytes for region in regions), problems)


def _split_of(region: Region) -> str:
    return region.spec.name.rpartition("/")[0]


def _describe(place: str, region: Region, expected: tuple[str, ...], found: tuple[str, ...]) -> str:
    bad = [i for i, (a, b) in enumerate(zip(expected, found, strict=True)) if a != b]
    spans = ", ".join(
        f"{region.offset + i * PIECE_BYTES}..."
        f"{region.offset + min((i + 1) * PIECE_BYTES, region.spec.nbytes)}"
        for i in bad
    )
    return f"{place}: differs from the manifest within bytes {spans}"


def hash_regions(
    regions: Sequence[Region],
    *,
    num_workers: int | None = None,
    piece_bytes: int = PIECE_BYTES,
    block_bytes: int = HASH_BLOCK_BYTES,
) -> dict[str, tuple[str, ...]]:
    """Compute the SHA-256 of every piece of every region, by array name, on all cores.

    Pieces are of ``piece_bytes``, which are read ``block_bytes`` at a time.
    """
    pieces = [
        (region.file, region.offset + start, min(piece_bytes, region.spec.nbytes - start))
        for region in regions
        for start in range(0, region.spec.nbytes, piece_bytes)
    ]
    with ThreadPoolExecutor(_count_threads(num_workers)) as pool:
        digests = pool.map(partial(_hash_piece, block_bytes=block_bytes), pieces)
        return {
            region.spec.name: tuple(
                next(digests) for _ in range(0, region.spec.nbytes, piece_bytes)
            )
            for region in regions
        }


def _count_threads(num_workers: int | None) -> int:
    if num_workers is not None and num_workers < 0:
        raise ArgumentError(f"expected num_workers of at least 0, found {num_workers}")
    return (usable_cores() if num_workers is None else num_workers) or 1


def _hash_piece(piece: tuple[Path, int, int], block_bytes: int) -> str:
    file, offset, nbytes = piece
    digest = hashlib.sha256()
    with open_file(file) as stream:
        hash_span(stream, offset, nbytes, digest, block_bytes)
    return digest.hexdigest()
