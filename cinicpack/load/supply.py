"""Supply: how the images of a loader come from the disk, which depends on whether they fit."""

import logging
import mmap
import time
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cinicpack.load.kernels.demand import Demand
from cinicpack.load.order import Share, Work
from cinicpack.load.samples import Reading, Samples
from cinicpack.load.unique import Unique
from cinicpack.memory import find_available

__all__ = ["Supply", "fit", "sort_windows"]

# Images of less than that fit everywhere, and to ask what memory is left would take too long.
_SMALL: Final = 64 << 20
# How much of the memory that is left images may take: the rest is for batches and for others.
_PART: Final = 0.9
# For how long what memory is left is taken to be the same: to ask takes 0.5 ms.
_SECONDS: Final = 1.0
# How many images that lie apart, and bytes of their pages, are read at once. That is more than a
# disk takes at a time, so that it has enough to do while a thread waits for one of them.
_IMAGES: Final = 1024
_BYTES: Final = 32 << 20
# How many samples of a window are asked for at a time: those of one of its blocks.
_GROUP: Final = 128


class Supply(Unique):
    """How the images of a loader come from the disk, decided at every start of an epoch.

    Images that fit in the memory that is left are read in the order of the files in the first
    epoch, in huge pages, and stay. Others are read shortly before they are needed: in the order of
    the files the kernel reads ahead by itself, and what lies apart is asked for by `Demand`.

    Args:
        samples: of the loader.
        window: how many samples of an order lie together in the files; 1: they lie apart; None:
            all of them come in the order of the files.
        num_workers: of the loader; 0: no thread may read all images in the first epoch.
    """

    def __init__(self, samples: Samples, window: int | None, num_workers: int) -> None:
        self._samples = samples
        self._window = window
        self._is_cold = num_workers > 0
        self._nbytes = samples.image_bytes * len(samples)
        self._mappings = samples.find_mappings() if self._nbytes >= _SMALL else []
        self._is_told = False
        # The memory that was left, and when the system was asked.
        self._left: int | None = None
        self._asked = -_SECONDS

    def begin(self, work: Work, share: Share, consumed: int) -> tuple[Work, Reading | None]:
        """Begin to read what an epoch needs.

        Args:
            work: what a rank makes batches of.
            share: which part of the epoch that is.
            consumed: how many samples of the epoch came before.

        Returns the work, with its demand where there is one, and what reads all images ahead.
        """
        left = self._find_left() if self._mappings else None
        fits = fit(self._nbytes, left)
        for mapping in self._mappings:
            mapping.advise(scattered=not fits and self._window is not None)
        if left is None or fits:
            # Images are read ahead in one epoch only: afterwards they are in the page cache.
            reading = self._samples.read_ahead() if self._is_cold else None
            self._is_cold = False
            return work, reading
        if not self._is_told:
            self._is_told = True
            self._tell(left)
        if self._window is not None:
            demand = self._plan(work.positions, left, share, consumed)
            demand.begin()
            work = work._replace(demand=demand)
        return work, None

    def _find_left(self) -> int | None:
        """Find out what memory is left, unless that was done a moment ago."""
        now = time.monotonic()
        if now - self._asked >= _SECONDS:
            self._left, self._asked = find_available(), now
        return self._left

    def _plan(self, positions: NDArray[np.int64], left: int, share: Share, consumed: int) -> Demand:
        addresses, size, window = self._samples.addresses, self._samples.image_bytes, self._window
        # The next window is read while there is still something of the present one to give.
        if window is not None and window > 1 and 2 * window * size <= _PART * left:
            order = sort_windows(positions, window, consumed + share.rank, share.world_size)
            ahead = -(-window // share.world_size) + _GROUP
            return Demand(addresses, size, positions, order, ahead, _GROUP)
        pages = size + 2 * mmap.PAGESIZE
        ahead = max(64, min(_IMAGES, min(_BYTES, left // 8) // pages))
        return Demand(addresses, size, positions, positions, ahead, 1)

    def _tell(self, left: int) -> None:
        advice = "" if self._window != 1 else "; shuffle='blocks' reads larger pieces of the files"
        logging.getLogger("cinicpack").warning(
            "%d MB of images do not fit into the %d MB of memory that are left, so every epoch "
            "reads them from the disk%s",
            self._nbytes // 10**6, left // 10**6, advice,
        )  # fmt: skip


def fit(nbytes: int, left: int | None) -> bool:
    """Say whether so many bytes of images are kept in the memory that is left; None: not known."""
    return left is None or nbytes <= _PART * left


def sort_windows(
    positions: NDArray[np.int64], window: int, first: int, step: int
) -> NDArray[np.int64]:
    """Sort the samples of each window of an epoch, as they lie in the files.

    Args:
        positions: (n,) int64, samples of an epoch.
        window: how many samples of the epoch are a window.
        first: the place in the epoch of the first of them.
        step: how many places further on each next one is.

    >>> sort_windows(np.array([5, 3, 4, 1, 0, 2]), window=4, first=1, step=1).tolist()
    [3, 4, 5, 0, 1, 2]
    """
    ordered = positions.copy()
    begin = 0
    while begin < len(ordered):
        # The first sample of the next window, counted among these.
        end = begin + -(-(window - (first + begin * step) % window) // step)
        ordered[begin:end].sort()
        begin = end
    return ordered
