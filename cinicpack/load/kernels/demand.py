"""Demand: which images the disk is asked for before they are needed, and the code that asks."""

import mmap
from typing import Any, Final

import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray

from cinicpack.jit import jit
from cinicpack.load.engine import posix
from cinicpack.load.engine.posix import array_at, record_at
from cinicpack.load.unique import Unique

__all__ = ["Demand", "ask_for_piece"]

_u64 = np.uint64

#: What is asked for in an epoch, and when.
#:
#:     start      of int64 (n,)     the samples of the epoch, in their order
#:     order      of int64 (n,)     the same samples, in the order in which they are asked for
#:     count                        n
#:     addresses  of uint64 (N,)    where the images of all samples lie in memory
#:     images                       N
#:     size                         bytes of an image
#:     ahead                        how many samples are asked for before they are needed
#:     group                        how many are asked for at a time
DEMAND: Final = np.dtype(
    [
        (name, "u8")
        for name in ("start", "order", "count", "addresses", "images", "size", "ahead", "group")
    ]
)
_PAGE: Final = _u64(mmap.PAGESIZE)
# The numbers of POSIX, for systems whose Python has no names for them.
_WILL_NEED: Final = getattr(mmap, "MADV_WILLNEED", 3)
_DO_NOT_NEED: Final = getattr(mmap, "MADV_DONTNEED", 4)
# How many samples are asked for between two looks at signals, when an epoch begins.
_STEP: Final = 64


class Demand(Unique):
    """The images of an epoch that are asked for before they are needed.

    As many samples as begin to be made are asked for at the same time, ``ahead`` places further on.

    Args:
        addresses: (N,) uint64, where the images of all samples lie in memory.
        image_bytes: size of each image.
        positions: (n,) int64, the samples of the epoch.
        order: (n,) int64, the same samples as they are asked for: each at most ``ahead`` places
            later than in ``positions``.
        ahead: how many samples are asked for before they are needed.
        group: how many are asked for at a time.

    Attributes:
        address: of the record that kernels read.
    """

    def __init__(
        self,
        addresses: NDArray[np.uint64],
        image_bytes: int,
        positions: NDArray[np.int64],
        order: NDArray[np.int64],
        ahead: int,
        group: int,
    ) -> None:
        self._read = (addresses, positions, order)
        self._first = min(ahead, len(order))
        self._record = np.zeros(1, DEMAND)
        self._record[0] = (
            positions.ctypes.data, order.ctypes.data, len(order), addresses.ctypes.data,
            len(addresses), image_bytes, ahead, group,
        )  # fmt: skip
        self.address = self._record.ctypes.data

    def begin(self) -> None:
        """Ask for what is needed first, a little at a time, so that an interrupt is soon seen."""
        for first in range(0, self._first, _STEP):
            _ask_between(self.address, first, min(first + _STEP, self._first))


@jit(inlines=(posix,))
def _ask_between(address: int, first: int, stop: int) -> None:
    """Ask for the samples at some places of the order of a `DEMAND`.

    The disk reads meanwhile: this waits only while the disk's queue is full.
    """
    _advise(record_at(_u64(address), DEMAND), _u64(first), _u64(stop), _WILL_NEED)


@register_jitable
def ask_for_piece(address: Any, samples: Any, count: Any) -> None:
    """Ask for as many samples as are about to be made, so that always as many are under way.

    Args:
        address: of a `DEMAND`.
        samples: where the positions of the piece lie, among those of the epoch.
        count: how many samples the piece has.
    """
    d = record_at(address, DEMAND)
    first = (samples - d.start) >> _u64(3)
    _advise(d, _reach(d, first), _reach(d, first + count), _WILL_NEED)
    if d.group > _u64(1):
        # A window that is over is not needed before the next epoch, and the kernel has less work
        # with pages that are not mapped when it looks for some to free.
        _advise(d, _leave(d, first), _leave(d, first + count), _DO_NOT_NEED)


@register_jitable
def _reach(d: Any, begun: Any) -> Any:
    """Say how many samples were asked for when so many are begun."""
    return min(d.count, begun // d.group * d.group + d.ahead)


@register_jitable
def _leave(d: Any, begun: Any) -> Any:
    """Say how many samples, as they were asked for, are done with when so many are begun."""
    return max(begun // d.group * d.group, d.ahead) - d.ahead


@register_jitable
def _advise(d: Any, first: Any, stop: Any, advice: Any) -> None:
    """Give advice about the images of samples, at once for those that lie side by side."""
    order = array_at(d.order, d.count, np.int64)
    addresses = array_at(d.addresses, d.images, np.uint64)
    begin, end = _u64(0), _u64(0)
    for place in range(first, stop):
        image = addresses[_u64(order[_u64(place)])]
        if begin <= image <= end + _PAGE:
            end = max(end, image + d.size)
            continue
        if end:
            posix.advise(begin, end - begin, advice)
        # Advice is about whole pages.
        begin, end = image // _PAGE * _PAGE, image + d.size
    if end:
        posix.advise(begin, end - begin, advice)
