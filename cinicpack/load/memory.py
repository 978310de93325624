"""The memory that batches lie in, used again as soon as nothing refers to it."""

import mmap
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Pool", "allocate"]

# Also the widest vector register.
_CACHE_LINE = 64
_HUGE_PAGE = 2 << 20


class Pool:
    """Lends arrays of ``nbytes`` bytes.

    An array goes back when it and everything that shares its memory is gone: views, tensors, NumPy
    arrays of tensors, DLPack capsules, what autograd has saved. Up to ``spares`` are kept for the
    next `lend`, the one that came back last first, since it is the likeliest to be in the cache.
    """

    def __init__(
        self, nbytes: int, spares: int, allocate: Callable[[int], NDArray[np.uint8]]
    ) -> None:
        self._nbytes = nbytes
        self._allocate = allocate
        # A full deque drops what is at the other end.
        self._spares: deque[NDArray[np.uint8]] = deque(maxlen=spares)

    def lend(self) -> NDArray[np.uint8]:
        """Return an array of uint8, its contents arbitrary."""
        try:
            memory = self._spares.pop()
        except IndexError:
            memory = self._allocate(self._nbytes)
        return np.asarray(_Loan(memory, self._spares))

    def clear(self) -> None:
        """Let go of the spares, and keep none from now on."""
        self._spares = deque(maxlen=0)


class _Loan:
    """What an array that was lent is based on; gives the memory back when it is gone."""

    __slots__ = ("__array_interface__", "_memory", "_spares")

    def __init__(self, memory: NDArray[np.uint8], spares: deque[NDArray[np.uint8]]) -> None:
        self._memory = memory
        self._spares = spares
        self.__array_interface__: dict[str, Any] = memory.__array_interface__

    def __del__(self) -> None:
        self._spares.append(self._memory)


def allocate(nbytes: int) -> NDArray[np.uint8]:
    """Allocate bytes that start on a cache line, or for 1 MiB and more on a huge page.

    A kernel writes 12 kB for an image, each plane to another page: with pages of 4 kB the loader
    spends a third of its time on finding out where they are.
    """
    if nbytes < _HUGE_PAGE // 2 or not hasattr(mmap, "MADV_HUGEPAGE"):
        memory = np.empty(nbytes + _CACHE_LINE, np.uint8)
        alignment = _CACHE_LINE
    else:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        mapped = mmap.mmap(-1, nbytes + 2 * _HUGE_PAGE, flags)
        mapped.madvise(mmap.MADV_HUGEPAGE)
        memory = np.frombuffer(mapped, np.uint8)
        alignment = _HUGE_PAGE
    start = -memory.ctypes.data % alignment
    return memory[start : start + nbytes]
