"""Verification: every byte of a pack is hashed again."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from cinicpack.cores import usable_cores
from cinicpack.errors import ArgumentError
from cinicpack.store.format import PIECE_BYTES
from cinicpack.store.reader import locate_pack, read_steadily
from cinicpack.store.region import Region

__all__ = ["Verification", "hash_regions", "verify_pack"]

# Read in blocks that stay in a core's second-level cache until they are hashed.
_BLOCK_BYTES: Final = 256 << 10


class Verification(NamedTuple):
    """What `verify_pack` found: bytes hashed, and one line for each array that differs."""

    nbytes: int
    problems: list[str]


def verify_pack(path: str | os.PathLike[str], *, num_workers: int | None = None) -> Verification:
    """Hash all data of the pack at ``path`` and compare with its manifest.

    Raises `PackError` if the pack cannot even be opened: manifest, sizes and headers are checked
    first, as `open_pack` does.
    """
    return read_steadily(Path(path), partial(_verify, num_workers=num_workers))


def _verify(path: Path, num_workers: int | None) -> Verification:
    manifest, regions = locate_pack(path)
    found = hash_regions(regions, num_workers=num_workers)
    problems = []
    for region in regions:
        expected = manifest.arrays[region.spec.name]
        pieces = found[region.spec.name]
        bad = [i for i, (a, b) in enumerate(zip(expected, pieces, strict=True)) if a != b]
        if bad:
            where = f"{region.file}" + (
                "" if region.file.suffix == ".npy" else f":{region.spec.name}"
            )
            spans = ", ".join(
                f"{region.offset + i * PIECE_BYTES}..."
                f"{region.offset + min((i + 1) * PIECE_BYTES, region.spec.nbytes)}"
                for i in bad
            )
            problems.append(f"{where}: differs from the manifest within bytes {spans}")
    return Verification(sum(region.spec.nbytes for region in regions), problems)


def hash_regions(
    regions: list[Region], *, num_workers: int | None = None
) -> dict[str, tuple[str, ...]]:
    """Compute the SHA-256 of every piece of every region, by array name, on all cores."""
    if num_workers is not None and num_workers < 0:
        raise ArgumentError(f"expected num_workers of at least 0, found {num_workers}")
    threads = (usable_cores() if num_workers is None else num_workers) or 1
    pieces = [
        (region.file, region.offset + start, min(PIECE_BYTES, region.spec.nbytes - start))
        for region in regions
        for start in range(0, region.spec.nbytes, PIECE_BYTES)
    ]
    with ThreadPoolExecutor(threads) as pool:
        digests = pool.map(lambda piece: _hash_piece(*piece), pieces)
        return {
            region.spec.name: tuple(
                next(digests) for _ in range(0, region.spec.nbytes, PIECE_BYTES)
            )
            for region in regions
        }


def _hash_piece(file: Path, offset: int, nbytes: int) -> str:
    digest = hashlib.sha256()
    block = memoryview(bytearray(min(nbytes, _BLOCK_BYTES)))
    with open(file, "rb", buffering=0) as stream:
        stream.seek(offset)
        while nbytes and (count := stream.readinto(block[: min(nbytes, len(block))])):
            digest.update(block[:count])
            nbytes -= count
    return digest.hexdigest()
