"""A region: the bytes of one array inside a file of the pack."""

import errno
import io
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from cinicpack.errors import PackError
from cinicpack.store.format import ArraySpec

__all__ = [
    "HASH_BLOCK_BYTES",
    "HUGE_PAGE",
    "Region",
    "hash_span",
    "name_place",
    "open_descriptor",
    "open_file",
    "reserve_space",
    "write_all",
]

# The size of a huge page, and what the offset of one is a multiple of.
HUGE_PAGE: Final = 2 << 20
# Files are hashed in blocks of this size, which stay in a core's second-level cache meanwhile.
HASH_BLOCK_BYTES: Final = 256 << 10


class _Hash(Protocol):
    def update(self, data: memoryview, /) -> None: ...


class Region(NamedTuple):
    """Where the data of one array lies: ``spec.nbytes`` bytes from ``offset`` of ``file``."""

    spec: ArraySpec
    file: Path
    offset: int


def name_place(region: Region, regions: Iterable[Region]) -> str:
    """Call an array as errors do: by its file, or FILE:ARRAY if others of ``regions`` are there."""
    alone = sum(other.file == region.file for other in regions) == 1
    return str(region.file) if alone else f"{region.file}:{region.spec.name}"


def reserve_space(descriptor: int, size: int) -> None:
    """Give a file its full size on disk, so that a full disk is found before the work is done."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        # macOS has no posix_fallocate; there a full disk is found only when it is written to.
        os.ftruncate(descriptor, size)


def write_all(descriptor: int, data: memoryview, offset: int) -> None:
    """Write ``data`` (bytes) at ``offset``, whole: the kernel may take less at a time."""
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


def open_file(file: Path) -> io.BufferedReader:
    """Open a regular file to read it; raises `PackError` for anything else."""
    return open(open_descriptor(file), "rb")


def open_descriptor(file: Path) -> int:
    """Open a regular file to read it, and return its descriptor.

    Raises `PackError` for anything else: to open a pipe would wait for ever, and a device has no
    end.
    """
    found = "a pipe, a socket or a device"
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        if stat.S_ISREG(mode := os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(file))
    except OSError as error:
        if error.errno == errno.ELOOP:
            found = "a symbolic link that leads in a circle"
        # ENXIO is what opening a socket gives, and ENODEV a device whose driver is not there.
        elif error.errno not in (errno.ENXIO, errno.ENODEV):
            raise
    raise PackError(
        f"{file}: expected a regular file, found {found}; restore the file or pack again"
    )


def hash_span(
    stream: io.BufferedReader,
    offset: int,
    nbytes: int,
    digest: _Hash,
    block_bytes: int = HASH_BLOCK_BYTES,
) -> None:
    """Add ``nbytes`` of a file from ``offset`` to a hash, or what there is of them."""
    block = memoryview(bytearray(min(nbytes, block_bytes)))
    stream.seek(offset)
    while nbytes and (count := stream.readinto(block[: min(nbytes, len(block))])):
        digest.update(block[:count])
        nbytes -= count
