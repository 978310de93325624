"""The HDF5 container: one file with a contiguous dataset per array and ``pack.json``.

HDF5 makes the file and is never asked again: where everything lies is in the manifest, and where
that lies is in the footer, which `store.format` specifies.
"""

import hashlib
import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from struct import Struct
from typing import Any, Final, NamedTuple

import numpy as np

from cinicpack.errors import FormatVersionError, PackError
from cinicpack.store.format import HDF5_VERSION, MANIFEST_NAME, MAX_MANIFEST_BYTES, ArraySpec
from cinicpack.store.manifest import Manifest
from cinicpack.store.region import Region, hash_span, open_file, reserve_space, write_all

__all__ = ["Hdf5"]

_SIGNATURE: Final = b"\x89HDF\r\n\x1a\n"
# Datasets of at least a page of memory start on a page, so that mapped arrays do.
_PAGE: Final = 4096
_ALIGNED: Final[dict[str, Any]] = {"alignment_threshold": _PAGE, "alignment_interval": _PAGE}
_FOOTER: Final = Struct("<16s3Q32s")
_MAGIC: Final = b"cinicpack footer"
_DIGEST_BYTES: Final = 32
# What HDF5 may take for a dataset besides its data, several times what it does take: a larger file
# full of nothing would be hashed for hours.
_OVERHEAD_BYTES: Final = 1 << 16
# How a superblock of version 0 with addresses of 8 bytes begins, up to and with the end of HDF5's
# address space.
_SUPERBLOCK: Final = Struct("<8sB4xB26xQ")
# The manifest of a pack of version 1: only padding and some structures of HDF5 came after it, so it
# is looked for in the last bytes of the file.
_FORMER: Final = re.compile(
    rb'\{\n"format": "cinicpack",\n"version": 1,\n.*?"file_bytes": (\d+),\n', re.DOTALL
)
_FORMER_BYTES: Final = 16 << 20


class _Footer(NamedTuple):
    """The end of the file, as `store.format` specifies it."""

    magic: bytes
    file_bytes: int
    offset: int
    nbytes: int
    digest: bytes


class Hdf5:
    """The `Container` of HDF5 files: the ``path`` of a pack is that of its file."""

    name = "hdf5"
    suffixes: tuple[str, ...] = (".h5", ".hdf5")

    def holds(self, path: Path) -> bool:
        """Tell whether this is a file that starts as HDF5 does."""
        if not path.is_file():
            return False
        with open_file(path) as stream:
            return stream.read(len(_SIGNATURE)) == _SIGNATURE

    def find_others(self, path: Path) -> list[str]:
        """Name what keeps a file from being a pack and nothing else; nothing, if it is that.

        Whatever a program adds to the file either lies behind the footer or changes structures of
        HDF5, and so their digest. A pack of another version, or with damaged images, is a pack.
        """
        changed = ["HDF5 that is not as a pack was written (something was added, or it is damaged)"]
        with open_file(path) as stream:
            try:
                _read_footer(stream, path)
            except FormatVersionError:
                return [] if _find_former(stream) == os.fstat(stream.fileno()).st_size else changed
            except PackError:
                return changed
        try:
            with suppress(FormatVersionError):
                self.open(path)
        except PackError:
            return changed
        return []

    def create(self, path: Path, specs: Sequence[ArraySpec]) -> list[Region]:
        """Create the HDF5 file with a dataset at full size for every one of ``specs``."""
        with _writing(path, "x") as h5:
            regions = [Region(spec, path, _create_dataset(h5, spec)) for spec in specs]
        with open(path, "r+b", buffering=0) as stream:
            reserve_space(stream.fileno(), os.fstat(stream.fileno()).st_size)
        return regions

    def finish(self, path: Path, manifest: Manifest, regions: Sequence[Region]) -> None:
        """Write the manifest as the last dataset, and the footer after all that is HDF5's."""
        offsets = {region.spec.name: region.offset for region in regions}
        text = replace(manifest, offsets=offsets).to_json()
        with _writing(path, "r+") as h5:
            offset = _create_dataset(h5, ArraySpec(MANIFEST_NAME, np.dtype("u1"), (len(text),)))
        with open(path, "r+b", buffering=0) as stream:
            descriptor = stream.fileno()
            write_all(descriptor, memoryview(text), offset)
            size = os.fstat(descriptor).st_size + _FOOTER.size
            _move_end(descriptor, size)
            footer = _FOOTER.pack(_MAGIC, size, offset, len(text), bytes(_DIGEST_BYTES))
            write_all(descriptor, memoryview(footer), size - _FOOTER.size)
            with open_file(path) as written:
                digest = _hash_outside(written, regions, size - _DIGEST_BYTES)
            write_all(descriptor, memoryview(digest), size - _DIGEST_BYTES)

    def open(self, path: Path) -> tuple[Manifest, list[Region]]:
        """Read and check the manifest, and all bytes outside of the arrays."""
        with open_file(path) as stream:
            footer = _read_footer(stream, path)
            stream.seek(footer.offset)
            text = stream.read(footer.nbytes)
            manifest = Manifest.from_json(text, f"{path}:{MANIFEST_NAME}", version=HDF5_VERSION)
            offsets = manifest.offsets or {}
            regions = [Region(spec, path, offsets[spec.name]) for spec in manifest.specs()]
            _check_size(footer, regions)
            found = _hash_outside(stream, regions, footer.file_bytes - _DIGEST_BYTES)
        if found != footer.digest:
            raise PackError(
                f"{path}: what is outside of the arrays was changed or damaged (expected SHA-256 "
                f"{footer.digest.hex()}, found {found.hex()}); restore the file or pack again"
            )
        return manifest, regions


def _read_footer(stream: io.BufferedReader, file: Path) -> _Footer:
    """Read the footer and check it, but for the digest."""
    size = os.fstat(stream.fileno()).st_size
    stream.seek(max(0, size - _FOOTER.size))
    end = stream.read(_FOOTER.size)
    if not end.startswith(_MAGIC) or len(end) < _FOOTER.size:
        if _find_former(stream) is not None:
            raise FormatVersionError(
                f"{file}: found an HDF5 pack of format version 1, this cinicpack reads version "
                f"{HDF5_VERSION} of them; pack the images again (--overwrite replaces this file)"
            )
        raise PackError(
            f"{file}: expected a pack, found HDF5 that does not end with the footer of one; if it "
            "was a pack, it was cut off or written to: restore it or pack again"
        )
    footer = _Footer(*_FOOTER.unpack(end))
    if footer.file_bytes != size:
        raise PackError(
            f"{file}: expected {footer.file_bytes} bytes, found {size}; "
            "restore the file or pack again"
        )
    if footer.nbytes > MAX_MANIFEST_BYTES:
        raise PackError(
            f"{file}: expected a manifest of at most {MAX_MANIFEST_BYTES} bytes, found a footer "
            f"that says {footer.nbytes}; restore the file or pack again"
        )
    if footer.offset + footer.nbytes > size:
        raise PackError(
            f"{file}: expected the manifest within the file, found a footer that has it at bytes "
            f"{footer.offset}...{footer.offset + footer.nbytes}; restore the file or pack again"
        )
    return footer


def _check_size(footer: _Footer, regions: Sequence[Region]) -> None:
    """Raise `PackError` if there is more outside of the arrays than HDF5 needs to describe them."""
    outside = footer.file_bytes - sum(region.spec.nbytes for region in regions)
    most = footer.nbytes + (len(regions) + 1) * _OVERHEAD_BYTES
    if outside > most:
        raise PackError(
            f"{regions[0].file}: expected at most {most} bytes outside of the arrays, found "
            f"{outside}; restore the file or pack again"
        )


def _find_former(stream: io.BufferedReader) -> int | None:
    """Return the size that a pack of version 1 says that it has; None: it is none."""
    size = os.fstat(stream.fileno()).st_size
    stream.seek(max(0, size - _FORMER_BYTES))
    found = _FORMER.search(stream.read(_FORMER_BYTES))
    return None if found is None else int(found[1])


def _hash_outside(stream: io.BufferedReader, regions: Iterable[Region], end: int) -> bytes:
    """Compute the SHA-256 of the bytes before ``end`` that are in no region."""
    digest = hashlib.sha256()
    position = 0
    for region in sorted(regions, key=lambda region: region.offset):
        if not position <= region.offset <= end - region.spec.nbytes:
            raise PackError(
                f"{region.file}:{region.spec.name}: expected it within the file and apart from "
                f"other arrays, found offset {region.offset}; restore the file or pack again"
            )
        hash_span(stream, position, region.offset - position, digest)
        position = region.offset + region.spec.nbytes
    hash_span(stream, position, end - position, digest)
    return digest.digest()


@contextmanager
def _writing(file: Path, mode: str) -> Iterator[Any]:
    import h5py

    try:
        with h5py.File(file, mode, libver=("earliest", "v110"), **_ALIGNED) as h5:
            yield h5
    except Exception as error:
        # Where reading or writing fails, h5py raises OSError with two lines of text and addresses
        # in memory, ValueError or RuntimeError, depending on what HDF5 was about to do; the number
        # of the error is in the text of all of them.
        if (found := re.search(r"errno = (\d+)", str(error))) is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(file)) from error


def _create_dataset(h5: Any, spec: ArraySpec) -> int:
    """Create a dataset that is not filled, and say where in the file its data lies."""
    from h5py import h5d, h5p

    creation = h5p.create(h5p.DATASET_CREATE)
    creation.set_layout(h5d.CONTIGUOUS)
    creation.set_alloc_time(h5d.ALLOC_TIME_EARLY)
    creation.set_fill_time(h5d.FILL_TIME_NEVER)
    dataset = h5.create_dataset(spec.name, spec.shape, spec.dtype, dcpl=creation, track_times=False)
    offset: int = dataset.id.get_offset()
    return offset


def _move_end(descriptor: int, size: int) -> None:
    """Move the end of HDF5's address space to ``size``.

    HDF5 cuts off what is behind that end when it closes a file that it could have written to.
    """
    found = _SUPERBLOCK.unpack(os.pread(descriptor, _SUPERBLOCK.size, 0))
    if found != (_SIGNATURE, 0, 8, os.fstat(descriptor).st_size):
        raise RuntimeError(f"expected HDF5 to write a superblock of version 0, found {found}")
    write_all(descriptor, memoryview(size.to_bytes(8, "little")), _SUPERBLOCK.size - 8)
