"""A mapping: the bytes of a file as read-only memory, without a descriptor that stays open.

`mmap.mmap` keeps a descriptor for as long as it lives, twelve for one pack of CINIC-10, so the C
library is called instead.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import warnings
import weakref
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cinicpack.errors import PackError
from cinicpack.store.region import HUGE_PAGE, Region, open_descriptor

__all__ = ["Mapping", "Stamp", "check_unchanged", "map_file", "map_files", "view_arrays"]

# What a file system answers that cannot map a file, or not so that others see changes: FUSE with
# direct_io, shared folders of virtual machines.
_REFUSED: Final = (errno.ENODEV, errno.EINVAL, errno.ENOTSUP)
_FAILED: Final = ctypes.c_void_p(-1).value
# A file is read into memory in pieces of this size, so many at once.
_PIECE: Final = HUGE_PAGE
_READERS: Final = 4


class Stamp(NamedTuple):
    """What a file was when it was mapped: device and inode number, size, time of last change."""

    device: int
    inode: int
    nbytes: int
    changed_ns: int


class Mapping:
    """Bytes of a file in memory, (N,) uint8 for ``np.asarray``; they stay while an array is there.

    Attributes:
        stamp: of the file that is mapped; None: the memory is a copy of the file's bytes.
        is_scattered: what `advise` was told last.
    """

    def __init__(
        self, address: int, nbytes: int, library: Any, stamp: Stamp | None, owner: Any = None
    ) -> None:
        self.stamp = stamp
        self.is_scattered = False
        self._address, self._nbytes, self._library = address, nbytes, library
        self._owner = owner
        if stamp is not None:
            # A finalizer, since weak references end before it runs. While a `__del__` ran, another
            # thread could still get the mapping from `_MAPPINGS`. None runs at exit, when threads
            # may still read the memory.
            weakref.finalize(self, library.munmap, address, nbytes).atexit = False
        self.__array_interface__ = {
            "version": 3,
            "data": (address, True),
            "shape": (nbytes,),
            "typestr": "|u1",
        }

    @property
    def is_copy(self) -> bool:
        """Whether the memory is the process's own, and no pages of the file."""
        return self.stamp is None

    def __len__(self) -> int:
        return self._nbytes

    def drop_pages(self) -> None:
        """Take pages of the file out of this process's memory; they come back when they are used.

        Memory of the process's own is kept.
        """
        if not self.is_copy and hasattr(mmap, "MADV_DONTNEED"):
            self._library.madvise(self._address, self._nbytes, mmap.MADV_DONTNEED)

    def holds(self, addresses: NDArray[np.uint64]) -> bool:
        """Say whether any of these addresses lie in the mapping."""
        start = self._address
        return bool(((addresses >= start) & (addresses < start + self._nbytes)).any())

    def advise(self, *, scattered: bool) -> None:
        """Say how the file will be read from now on, by all who share the mapping.

        Scattered: what is missing is read alone, in small pages. Otherwise the kernel reads 2 MiB
        and more for each page that is missing, and keeps that in huge pages where it can.
        """
        if self.is_copy or scattered == self.is_scattered or not hasattr(mmap, "MADV_RANDOM"):
            return
        self.is_scattered = scattered
        advice = mmap.MADV_RANDOM if scattered else mmap.MADV_NORMAL
        self._library.madvise(self._address, self._nbytes, advice)
        if hasattr(mmap, "MADV_NOHUGEPAGE"):
            huge = mmap.MADV_NOHUGEPAGE if scattered else mmap.MADV_HUGEPAGE
            self._library.madvise(self._address, self._nbytes, huge)


# The mappings that there are. While a file is mapped, no other file gets its inode number.
_MAPPINGS: Final[weakref.WeakValueDictionary[Stamp, Mapping]] = weakref.WeakValueDictionary()


# Likewise what was read into memory, by the stamps of the files.
_COPIES: Final[weakref.WeakValueDictionary[Stamp, Mapping]] = weakref.WeakValueDictionary()


def map_files(regions: Iterable[Region], *, in_memory: bool = False) -> dict[Path, Mapping]:
    """Map the files of all regions, each once, or read them into memory."""
    library = _open_library()
    get = _read_file if in_memory else map_file
    files = {file: get(file, library) for file in dict.fromkeys(region.file for region in regions)}
    if not in_memory and (copies := [file for file in files if files[file].is_copy]):
        warnings.warn(
            f"{copies[0]}: its file system cannot map files, so "
            f"{sum(len(files[file]) for file in copies):,} bytes of the pack were read into memory",
            stacklevel=2,
        )
    return files


def view_arrays(regions: Iterable[Region], files: dict[Path, Mapping]) -> dict[str, NDArray[Any]]:
    """Show the regions of some files as arrays, read-only, by their names.

    Raises `PackError` if a file has become too short since it was located.
    """
    arrays = {}
    for spec, file, offset in regions:
        if len(files[file]) < offset + spec.nbytes:
            raise PackError(
                f"{file}: expected {offset + spec.nbytes} bytes, found {len(files[file])}"
            )
        array: NDArray[Any] = np.ndarray(spec.shape, spec.dtype, np.asarray(files[file]), offset)
        arrays[spec.name] = array
    return arrays


def check_unchanged(files: Iterable[tuple[Path, str, Stamp]]) -> None:
    """Raise `PackError` if a file was written to since it was mapped.

    A file that is gone, or another file in its place, is no change of the one that is mapped.

    Args:
        files: of each, what it is called, its absolute path, and what it was.
    """
    for name, path, stamp in files:
        try:
            status = os.stat(path)
        except OSError:
            continue
        # Nearly always so, and an epoch of a small loader starts in 50 µs.
        if status.st_mtime_ns == stamp.changed_ns and status.st_size == stamp.nbytes:
            continue
        found = _stamp(status)
        if found[:2] == stamp[:2]:
            raise PackError(
                f"{name}: expected {_describe(stamp)}, found {_describe(found)}: the file was "
                "written to after it was opened; restore it or pack again, and open it anew "
                "(open_pack(..., in_memory=True) does not depend on the file any more)"
            )


def _stamp(status: os.stat_result) -> Stamp:
    return Stamp(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _describe(stamp: Stamp) -> str:
    changed = datetime.fromtimestamp(stamp.changed_ns / 1e9).isoformat(" ", "microseconds")
    return f"{stamp.nbytes} bytes last changed at {changed}"


def map_file(file: Path, library: Any = None) -> Mapping:
    """Map a whole file, once for all who do so in this process; nothing is read.

    Where the file system shares no mappings, the file is mapped privately: the same bytes, though
    a later change of the file may not be seen. Where it maps nothing, the file is read.

    Raises `PackError` for what is no regular file, and ``OSError`` with the name of the file.
    """
    library = library or _open_library()
    descriptor = open_descriptor(file)
    try:
        status = os.fstat(descriptor)
        stamp = _stamp(status)
        if (found := _MAPPINGS.get(stamp)) is not None:
            return found
        for flags in (mmap.MAP_SHARED, mmap.MAP_PRIVATE):
            address = library.mmap(None, status.st_size, mmap.PROT_READ, flags, descriptor, 0)
            if address != _FAILED:
                mapping = _MAPPINGS[stamp] = Mapping(address, status.st_size, library, stamp)
                _ask_for_huge_pages(address, status.st_size, library)
                return mapping
            if (code := ctypes.get_errno()) not in _REFUSED:
                raise OSError(code, os.strerror(code), str(file))
    finally:
        os.close(descriptor)
    return _read_file(file, library)


def _read_file(file: Path, library: Any = None) -> Mapping:
    """Read a whole file into memory, once for all who do so in this process."""
    descriptor = open_descriptor(file)
    try:
        status = os.fstat(descriptor)
        # No other file has this stamp: the inode of one that is gone may be another's by now, but
        # hardly one of the same size and time.
        if (found := _COPIES.get(stamp := _stamp(status))) is not None:
            return found
        nbytes = status.st_size
        # On huge pages from the first byte on, and with room for the whole of the last page.
        memory = mmap.mmap(-1, nbytes + 2 * HUGE_PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        data: NDArray[np.uint8] = np.frombuffer(memory, np.uint8)
        data = data[-data.ctypes.data % HUGE_PAGE :]
        address = data.ctypes.data
        _ask_for_huge_pages(address, nbytes, library or _open_library())
        try:
            # Less is found where the file has become shorter since it was opened.
            count = _read_pieces(descriptor, data.data, nbytes)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(file)) from error
        mapping = _COPIES[stamp] = Mapping(address, count, library, None, owner=data)
        return mapping
    finally:
        os.close(descriptor)


def _read_pieces(descriptor: int, memory: memoryview, nbytes: int) -> int:
    """Read a file in pieces, several at once; return how many bytes were found."""
    # Past the page cache, which would hold every byte a second time.
    _set_direct(descriptor, True)

    def read(start: int) -> int:
        place, stop, tries_again = start, min(start + _PIECE, nbytes), True
        while place < stop:
            # What goes past the page cache is whole pages.
            room = memory[place : place + -(-(stop - place) // mmap.PAGESIZE) * mmap.PAGESIZE]
            try:
                count = os.preadv(descriptor, [room], place)
            except OSError as error:
                # A file system may have no way past the page cache, and say so only here.
                if error.errno != errno.EINVAL or not tries_again:
                    raise
                tries_again = False
                _set_direct(descriptor, False)
                continue
            if not count:
                break
            place += count
        return min(place, stop) - start

    starts = range(0, nbytes, _PIECE)
    if len(starts) < 2:
        return sum(map(read, starts))
    pool = ThreadPoolExecutor(_READERS)
    try:
        return sum(pool.map(read, starts))
    finally:
        pool.shutdown(cancel_futures=True)


def _set_direct(descriptor: int, direct: bool) -> None:
    """Read past the page cache from now on, where the system can do that, or through it."""
    if hasattr(os, "O_DIRECT"):
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        with suppress(OSError):
            flags = flags | os.O_DIRECT if direct else flags & ~os.O_DIRECT
            fcntl.fcntl(descriptor, fcntl.F_SETFL, flags)


def _ask_for_huge_pages(address: int, nbytes: int, library: Any) -> None:
    """Let the kernel read a file in pieces of 2 MiB, and keep it in huge pages where it can."""
    if hasattr(mmap, "MADV_HUGEPAGE") and nbytes >= HUGE_PAGE:
        # A kernel without huge pages refuses the advice, and nothing is lost.
        library.madvise(address, nbytes, mmap.MADV_HUGEPAGE)


def _open_library() -> Any:
    library: Any = ctypes.CDLL(None, use_errno=True)
    pointer, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    library.mmap.restype = pointer
    library.mmap.argtypes = [pointer, size, number, number, number, ctypes.c_long]
    library.munmap.argtypes = [pointer, size]
    library.madvise.argtypes = [pointer, size, number]
    return library
