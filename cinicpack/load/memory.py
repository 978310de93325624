"""The memory that batches lie in, used again as soon as nothing refers to it."""

import mmap
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from cinicpack.load.unique import Unique

__all__ = ["Interface", "Loan", "Pool", "allocate_aligned"]

T = TypeVar("T")
Interface: TypeAlias = dict[str, Any]

# A cache line is also as wide as the widest vector register.
_CACHE_LINE = 64
_HUGE_PAGE = 2 << 20


class Pool(Unique, Generic[T]):
    """Lends things that own memory, made by ``make`` where none is left.

    A thing comes back when its loan and all arrays of the loan are gone, with everything that
    shares their memory: views, tensors, NumPy arrays of tensors, DLPack capsules, what autograd has
    saved. Up to ``spares`` things are kept for the next `lend`, which takes the one that came back
    last, since that is the likeliest to be in the processor's cache.
    """

    def __init__(self, make: Callable[[], T], spares: int) -> None:
        self._make = make
        # append() to a full deque drops the spare that has waited the longest.
        self._spares: deque[T] = deque(maxlen=spares)

    def lend(self) -> "Loan[T]":
        """Lend a thing, its memory's contents arbitrary."""
        try:
            lent = self._spares.pop()
        except IndexError:
            lent = self._make()
        return Loan(lent, self._spares)

    def clear(self) -> None:
        """Let go of the spares, and keep none from now on."""
        self._spares = deque(maxlen=0)


class Loan(Unique, Generic[T]):
    """A thing that is lent, until this object and all of its arrays are gone."""

    __slots__ = ("_spares", "lent")

    def __init__(self, lent: T, spares: deque[T]) -> None:
        self.lent = lent
        self._spares = spares

    def array(self, interface: Interface) -> NDArray[Any]:
        """Return the array that NumPy's array interface describes, in memory that was lent."""
        return np.asarray(_Lent(interface, self))

    def __del__(self) -> None:
        self._spares.append(self.lent)


class _Lent:
    """The base of an array of a loan: keeps the loan alive for as long as the array is."""

    __slots__ = ("__array_interface__", "_loan")

    def __init__(self, interface: Interface, loan: Loan[Any]) -> None:
        self.__array_interface__ = interface
        self._loan = loan


def allocate_aligned(nbytes: int) -> NDArray[np.uint8]:
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
