"""A mapping: the bytes of a file as read-only memory, without a descriptor that stays open.

`mmap.mmap` keeps a descriptor for as long as it lives, twelve for one pack of CINIC-10, so the C
library is called instead.
"""

import ctypes
import errno
import mmap
import os
import warnings
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cinicpack.errors import PackError
from cinicpack.store.region import HUGE_PAGE, Region, open_file

__all__ = ["Mapping", "map_arrays", "map_file"]

# What a file system answers that cannot map a file, or not so that others see changes: FUSE with
# direct_io, shared folders of virtual machines.
_REFUSED: Final = (errno.ENODEV, errno.EINVAL, errno.ENOTSUP)
_FAILED: Final = ctypes.c_void_p(-1).value


class Mapping:
    """Bytes of a file in memory, (N,) uint8 for ``np.asarray``; they stay while an array is there.

    Attributes:
        is_copy: whether the memory is the process's own, and not pages of the file.
    """

    def __init__(self, address: int, nbytes: int, library: Any, owner: Any = None) -> None:
        self.is_copy = owner is not None
        self._address, self._nbytes, self._library = address, nbytes, library
        self._owner = owner
        self.__array_interface__ = {
            "version": 3,
            "data": (address, True),
            "shape": (nbytes,),
            "typestr": "|u1",
        }

    def __len__(self) -> int:
        return self._nbytes

    def drop_pages(self) -> None:
        """Take pages of the file out of this process's memory; they come back when they are used.

        Memory of the process's own is kept.
        """
        if not self.is_copy and hasattr(mmap, "MADV_DONTNEED"):
            self._library.madvise(self._address, self._nbytes, mmap.MADV_DONTNEED)


# The mappings that there are, by device, inode, size and time of change of their files. While a
# file is mapped, no other file gets its inode number.
_MAPPINGS: Final[weakref.WeakValueDictionary[tuple[int, ...], Mapping]] = (
    weakref.WeakValueDictionary()
)


def map_arrays(regions: Sequence[Region], *, in_memory: bool = False) -> dict[str, NDArray[Any]]:
    """Map every region read-only, one mapping per file, or read the files into memory.

    Raises `PackError` if a file has become too short since it was located.
    """
    library = _open_library()
    get = _read_file if in_memory else map_file
    files = {file: get(file, library) for file in dict.fromkeys(region.file for region in regions)}
    arrays = {}
    for spec, file, offset in regions:
        if len(files[file]) < offset + spec.nbytes:
            raise PackError(
                f"{file}: expected {offset + spec.nbytes} bytes, found {len(files[file])}"
            )
        data = np.asarray(files[file])
        array: NDArray[Any] = np.ndarray(spec.shape, spec.dtype, data, offset)
        arrays[spec.name] = array
    if not in_memory and (copies := [file for file in files if files[file].is_copy]):
        warnings.warn(
            f"{copies[0]}: its file system cannot map files, so "
            f"{sum(len(files[file]) for file in copies):,} bytes of the pack were read into memory",
            stacklevel=2,
        )
    return arrays


def map_file(file: Path, library: Any = None) -> Mapping:
    """Map a whole file, once for all who do so in this process; nothing is read.

    Where the file system shares no mappings, the file is mapped privately: the same bytes, though
    a later change of the file may not be seen. Where it maps nothing, the file is read.

    Raises `PackError` for what is no regular file, and ``OSError`` with the name of the file.
    """
    library = library or _open_library()
    with open_file(file) as stream:
        status = os.fstat(stream.fileno())
        key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        if (found := _MAPPINGS.get(key)) is not None:
            return found
        for flags in (mmap.MAP_SHARED, mmap.MAP_PRIVATE):
            address = library.mmap(None, status.st_size, mmap.PROT_READ, flags, stream.fileno(), 0)
            if address != _FAILED:
                mapping = _MAPPINGS[key] = Mapping(address, status.st_size, library)
                # Not at the interpreter's end, when threads may still read: the system unmaps then.
                finalizer = weakref.finalize(mapping, library.munmap, address, status.st_size)
                finalizer.atexit = False
                _ask_for_huge_pages(address, status.st_size, library)
                return mapping
            if (code := ctypes.get_errno()) not in _REFUSED:
                raise OSError(code, os.strerror(code), str(file))
    return _read_file(file, library)


def _read_file(file: Path, library: Any) -> Mapping:
    """Read a whole file into memory of its own."""
    with open_file(file) as stream:
        nbytes = os.fstat(stream.fileno()).st_size
        # One byte more, since a mapping cannot be empty.
        memory = mmap.mmap(-1, nbytes + 1, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        data: NDArray[np.uint8] = np.frombuffer(memory, np.uint8)
        _ask_for_huge_pages(data.ctypes.data, nbytes, library)
        try:
            # Less is found where the file has become shorter since it was opened.
            found = stream.readinto(memoryview(memory)[:nbytes])
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(file)) from error
        return Mapping(data.ctypes.data, found, library, owner=data)


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
