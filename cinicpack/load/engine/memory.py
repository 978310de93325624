"""The memory of batches, used again as soon as nothing refers to a batch any longer."""

import mmap
from collections import deque
from sys import getrefcount
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cinicpack.load.unique import Unique

__all__ = ["Interface", "Shelf", "Slot", "allocate_aligned"]

Interface: TypeAlias = dict[str, Any]

# A cache line is also as wide as the widest vector register.
_CACHE_LINE: Final = 64
_HUGE_PAGE: Final = 2 << 20
# How many batches, and how much, a shelf goes on looking after once they were given to the user. At
# the end of an epoch these are all that were under way, and what the user held: otherwise each
# epoch would allocate what the one before has freed, which for 25 MB takes 4 ms.
_SLOTS: Final = 16
_SHELF_BYTES: Final = 48 << 20
_FEWEST: Final = 5


class Slot(Unique):
    """Memory for a batch of images.

    Attributes:
        address: where it starts.
        array: the array of a full batch. All that shares its memory refers to it: views, tensors,
            NumPy arrays of tensors, DLPack capsules, what autograd has saved.
        references: how many references to the array there are where nobody has the batch.
    """

    __slots__ = ("address", "array", "references")

    def __init__(self, nbytes: int, interface: Interface) -> None:
        memory = allocate_aligned(nbytes)
        self.address = memory.ctypes.data
        self.array = np.asarray(_Described(interface | {"data": (self.address, False)}, memory))
        self.references = getrefcount(self.array)


class _Described:
    """The base of a slot's array. Were it an array, views of views would refer to that instead."""

    __slots__ = ("__array_interface__", "_memory")

    def __init__(self, interface: Interface, memory: NDArray[np.uint8]) -> None:
        self.__array_interface__ = interface
        self._memory = memory


class Shelf(Unique):
    """Slots of one kind, for all loaders of the process that make such batches.

    A slot is lent to be filled and handed over to the user; it stays on the shelf, and is lent
    again when the user has let go of it. The shelf looks after the slots that were handed over
    last: 5 of them, or up to 16 in 48 MiB. The memory of others is freed when the user lets go.

    Args:
        nbytes: size of a batch.
        interface: how NumPy describes a full batch of images, without its address.

    Attributes:
        nbytes: size of a batch.
    """

    def __init__(self, nbytes: int, interface: Interface) -> None:
        self.nbytes = nbytes
        self._interface = interface
        # append() to a full deque drops the slot that was handed over first.
        self._slots: deque[Slot] = deque(
            maxlen=max(_FEWEST, min(_SLOTS, _SHELF_BYTES // max(1, nbytes)))
        )

    def lend(self) -> Slot:
        """Lend a slot, its contents arbitrary."""
        slots = self._slots
        in_use: list[Slot] = []
        try:
            # The one that came back last is the likeliest to be in the processor's cache.
            while getrefcount((slot := slots.pop()).array) != slot.references:
                in_use.append(slot)
        except IndexError:
            slot = Slot(self.nbytes, self._interface)
        if in_use:
            slots.extend(in_use[::-1])
        return slot

    def put(self, slot: Slot) -> None:
        """Look after a slot from now on, which is needed no longer."""
        self._slots.append(slot)

    def hand_over(self, slot: Slot, batch: Any) -> Any:
        """Look after a slot from now on, and return the batch that was made of its array.

        The batch has to be there first: what nothing refers to may be lent to another thread.
        """
        self._slots.append(slot)
        return batch

    def clear(self) -> None:
        """Free the memory that nobody uses."""
        self._slots.clear()


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
