"""The disk: how fast it reads images that lie apart, and files from their start."""

import ctypes
import fcntl
import mmap
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import numba
import numpy as np
from numpy.typing import NDArray

from cinicpack.jit import jit

__all__ = ["DEPTH", "count_resident", "evict", "measure_random", "measure_sequential"]

# How many reads are under way at once.
DEPTH: Final = 32
_PIECE: Final = 8 << 20
# Between two looks at the clock.
_READS: Final = 64

_types: Any = numba.types
_pread: Any = _types.ExternalFunction(
    "pread", _types.int64(_types.int32, _types.uint64, _types.uint64, _types.int64)
)


def measure_random(file: Path, nbytes: int, seconds: float = 1.0) -> float:
    """Measure how many reads a second a disk does of ``nbytes`` each, anywhere in a file.

    So many are under way at once as `DEPTH` says. They go past the page cache where the file system
    allows that, and then read the whole pages that the bytes lie on.
    """
    count = file.stat().st_size // nbytes
    room = -(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE + mmap.PAGESIZE
    with _opened(file) as descriptor, ThreadPoolExecutor(DEPTH) as pool:

        def read(thread: int) -> int:
            draw, memory, done = np.random.default_rng(thread), mmap.mmap(-1, room), 0
            address = np.frombuffer(memory, np.uint8).ctypes.data
            while not done or time.perf_counter() < start + seconds:
                starts = draw.integers(0, count, _READS) * nbytes
                _read_all(descriptor, address, starts, nbytes, mmap.PAGESIZE)
                done += _READS
            return done

        # To compile takes longer than to read.
        _read_all(descriptor, 0, np.zeros(0, np.int64), nbytes, mmap.PAGESIZE)
        start = time.perf_counter()
        done = sum(pool.map(read, range(DEPTH)))
        return done / (time.perf_counter() - start)


def measure_sequential(file: Path, seconds: float = 1.0) -> float:
    """Measure how many bytes a second a disk reads from the start of a file on, past the cache."""
    memory, done = memoryview(mmap.mmap(-1, _PIECE)), 0
    with _opened(file) as descriptor:
        start = time.perf_counter()
        while time.perf_counter() < start + seconds:
            if not (count := os.preadv(descriptor, [memory], done)):
                break
            done += count
        return done / (time.perf_counter() - start)


def evict(file: Path) -> None:
    """Take a file out of the page cache, but for pages that some process has mapped and used."""
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def count_resident(file: Path) -> int:
    """Count the bytes of a file that are in the page cache."""
    library, nbytes = ctypes.CDLL(None, use_errno=True), file.stat().st_size
    with file.open("rb") as stream:
        mapped = mmap.mmap(stream.fileno(), nbytes, prot=mmap.PROT_READ)
    pages: NDArray[np.uint8] = np.zeros(-(-nbytes // mmap.PAGESIZE), np.uint8)
    address = np.frombuffer(mapped, np.uint8).ctypes.data
    if library.mincore(
        ctypes.c_void_p(address), ctypes.c_size_t(nbytes), ctypes.c_void_p(pages.ctypes.data)
    ):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(file))
    return int((pages & 1).sum()) * mmap.PAGESIZE


@contextmanager
def _opened(file: Path) -> Iterator[int]:
    """Open a file to read past the page cache, where the file system allows that."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        with suppress(OSError, AttributeError):
            fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_DIRECT)
        yield descriptor
    finally:
        os.close(descriptor)


@jit
def _read_all(
    descriptor: int, address: int, starts: NDArray[np.int64], nbytes: int, page: int
) -> None:
    """Read the pages that ``nbytes`` lie on, from each of some places in a file."""
    for start in starts:
        begin = start // page * page
        size = (start + nbytes - begin + page - 1) // page * page
        _pread(descriptor, address, size, begin)
