"""Order: which samples an epoch gives, in which sequence, and on which rank."""

import math
import sys
import threading
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cinicpack.load.kernels.random import shuffle as _shuffle

__all__ = ["Schedule", "Share", "Work", "epoch_order"]


def epoch_order(count: int, *, shuffle: bool, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the order of an epoch's samples: (count,) int64, a permutation of 0 to count - 1.

    A pure function of its arguments: drawn by Fisher and Yates' method from Philox4x32-10.
    """
    if not shuffle:
        return np.arange(count)
    return _shuffle(np.uint64(seed), np.uint64(epoch), count)


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
    """What a slab is made of.

    Attributes:
        positions: (n,) int64, its samples.
        edges: where its batches lie among them: batch k is [edges[k], edges[k + 1]).
        epoch: the epoch that the samples are of.
    """

    positions: NDArray[np.int64]
    edges: list[int]
    epoch: int


class Schedule:
    """What slabs are made of, in one epoch after the other without end.

    Args:
        count: samples of the split.
        shuffle: draw an order for every epoch.
        seed: of the orders.
        share: what this rank takes.
        slab_batches: batches in a slab at most.
        epoch: the first epoch.
        consumed: how many samples of the first epoch all ranks together have had already.
    """

    def __init__(
        self,
        count: int,
        *,
        shuffle: bool,
        seed: int,
        share: Share,
        slab_batches: int,
        epoch: int,
        consumed: int,
    ) -> None:
        self._count = count
        self._shuffle = shuffle
        self._seed = seed
        self._share = share
        self._slab_batches = slab_batches
        self._first = (epoch, consumed)
        self._first_slabs = math.ceil(share.batches(count - consumed) / slab_batches)
        self._slabs = math.ceil(share.batches(count) / slab_batches)
        self._samples: dict[int, NDArray[np.int64]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Count the slabs: none, or more than will ever be asked for."""
        return sys.maxsize if self._slabs else 0

    def __getitem__(self, number: int) -> Work:
        """Return the work for slab ``number``, on any thread."""
        epoch, consumed = self._first
        if number >= self._first_slabs:
            further, number = divmod(number - self._first_slabs, self._slabs)
            epoch, consumed = epoch + 1 + further, 0
        size, batches = self._share.batch_size, self._slab_batches
        samples = self._order(epoch, consumed)
        positions = samples[number * batches * size :][: batches * size]
        last = self._share.batches(self._count - consumed) - number * batches
        edges = [min(batch * size, len(positions)) for batch in range(min(batches, last) + 1)]
        return Work(positions, edges, epoch)

    def _order(self, epoch: int, consumed: int) -> NDArray[np.int64]:
        with self._lock:
            samples = self._samples.get(epoch)
            if samples is None:
                order = epoch_order(
                    self._count, shuffle=self._shuffle, seed=self._seed, epoch=epoch
                )
                samples = self._share.take(order[consumed:])
                # Keep the epoch before, too: other threads may still make slabs of it.
                self._samples = {
                    key: self._samples[key] for key in self._samples if key == epoch - 1
                }
                self._samples[epoch] = samples
            return samples
