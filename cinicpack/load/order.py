"""Order: which samples an epoch gives, in which sequence, and on which rank."""

import math
from contextlib import suppress
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cinicpack.load.engine.threads import ClosedQueueError, Queue
from cinicpack.load.kernels.random import SHUFFLE
from cinicpack.load.kernels.random import shuffle as shuffle_kernel
from cinicpack.load.kernels.task import address_of
from cinicpack.load.unique import Unique

__all__ = ["Orders", "Share", "Work", "epoch_order"]

# An order of so many samples takes 30 µs, as long as it takes to let a thread draw it.
_WORTHWHILE: Final = 10_000


def epoch_order(count: int, *, shuffle: bool, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the order of an epoch's samples: (count,) int64, a permutation of 0 to count - 1.

    A pure function of its arguments: drawn by Fisher and Yates' method from Philox4x32-10.
    """
    if not shuffle:
        return np.arange(count)
    order = np.empty(count, np.int64)
    task = _describe(order, seed, epoch)
    shuffle_kernel(np.uint64(task.ctypes.data), 0)
    return order


class Share(NamedTuple):
    """What a rank takes of an epoch.

    Global batch k is positions [k * B * W, (k + 1) * B * W) of what is left of the epoch's order;
    rank r takes every W-th of it, from the r-th on. So runs with equal B * W see the same global
    batches, every rank has the same number of batches, and a rank without a share in the last one
    has an empty batch there.

    Attributes:
        batch_size: B.
        rank: r.
        world_size: W.
        drop_last: leave out the global batch that is not full.
    """

    batch_size: int
    rank: int
    world_size: int
    drop_last: bool

    @property
    def step(self) -> int:
        """Samples in a global batch."""
        return self.batch_size * self.world_size

    def batches(self, left: int) -> int:
        """Count the batches of ``left`` samples."""
        return left // self.step if self.drop_last else math.ceil(left / self.step)

    def take(self, order: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the samples of this rank: all its batches, which are full but for the last."""
        mine = order[self.rank :: self.world_size]
        if self.drop_last:
            mine = mine[: self.batches(len(order)) * self.batch_size]
        return np.ascontiguousarray(mine)


class Work(NamedTuple):
    """What the batches of a rank are made of, in an epoch or the rest of one.

    Attributes:
        positions: (n,) int64, the samples, in order.
        batches: how many batches there are; the last ones may have few samples, or none.
        epoch: the epoch that the samples are of.
    """

    positions: NDArray[np.int64]
    batches: int
    epoch: int


class Orders(Unique):
    """Draws the order of every epoch, that of the next one while an epoch goes on.

    Args:
        count: samples of the split.
        shuffle: draw an order for every epoch.
        seed: of the orders.
        ahead: whether a thread of the engine may draw the next one.
    """

    def __init__(self, count: int, *, shuffle: bool, seed: int, ahead: bool) -> None:
        self._count = count
        self._shuffle = shuffle
        self._seed = seed
        self._ahead = ahead and shuffle and count >= _WORTHWHILE
        self._next: _Drawing | None = None

    def take(self, share: Share, epoch: int, consumed: int) -> Work:
        """Return what a rank makes batches of, after ``consumed`` samples of an epoch."""
        drawing, self._next = self._next, None
        order = None
        if drawing is not None and drawing.epoch == epoch:
            # A fork has left the drawing to its parent.
            with suppress(ClosedQueueError):
                order = drawing.wait()
        if order is None:
            order = epoch_order(self._count, shuffle=self._shuffle, seed=self._seed, epoch=epoch)
        return Work(share.take(order[consumed:]), share.batches(self._count - consumed), epoch)

    def prepare(self, epoch: int) -> None:
        """Draw the order of an epoch meanwhile."""
        if self._ahead:
            self._next = _Drawing(self._count, self._seed, epoch)

    def reseed(self, seed: int) -> None:
        """Draw from another seed from now on."""
        self._seed, self._next = seed, None

    def clear(self) -> None:
        """Forget what was drawn ahead."""
        self._next = None


class _Drawing(Unique):
    """An order that a thread of the engine draws."""

    def __init__(self, count: int, seed: int, epoch: int) -> None:
        self.epoch = epoch
        self._order = np.empty(count, np.int64)
        self._task = _describe(self._order, seed, epoch)
        self._queue = Queue(address_of(shuffle_kernel), [self._task.ctypes.data], 1)
        self._queue.post(0, 1)

    def __del__(self) -> None:
        if hasattr(self, "_queue"):
            self._queue.close()

    def wait(self) -> NDArray[np.int64]:
        self._queue.wait(0)
        return self._order


def _describe(order: NDArray[np.int64], seed: int, epoch: int) -> NDArray[np.void]:
    task = np.zeros(1, SHUFFLE)
    task[0] = (seed, epoch, len(order), order.ctypes.data)
    return task
