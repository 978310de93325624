"""Batches in the host's memory: the kernels write them there, and there they are given."""

import os
from collections import deque
from functools import lru_cache
from typing import Final

import numpy as np

from cinicpack.load.batches import Batch, BatchFormat
from cinicpack.load.engine.memory import Shelf, Slot
from cinicpack.load.engine.threads import Queue
from cinicpack.load.kernels.task import begin
from cinicpack.load.order import Work
from cinicpack.load.samples import Samples
from cinicpack.load.unique import Unique

__all__ = ["HostMaker"]

# How much is made ahead, but 2 batches at least and 8 at most. What is under way, what the user
# has and what was just given back should all stay in the cache of a processor.
_AHEAD_BYTES: Final = 4 << 20
# Slots of this size are not kept for later when a loader is closed.
_LARGE: Final = 1 << 20


class HostMaker(Unique):
    """Makes batches in the host's memory.

    Args:
        samples: what batches are made of.
        batch_format: dtype, layout and kind of the batches.
        batch_size: samples in a batch.
        num_workers: how many threads may work at once; 0: only the one that takes the batches.
    """

    def __init__(
        self, samples: Samples, batch_format: BatchFormat, batch_size: int, num_workers: int
    ) -> None:
        self._samples = samples
        self._format = batch_format
        self._size = min(batch_size, len(samples))
        self._num_workers = num_workers

    def open(self, work: Work) -> "HostFeed":
        """Begin to make the batches of an epoch."""
        return HostFeed(self._samples, self._format, self._size, self._num_workers, work)

    def clear(self) -> None:
        """Free the memory that no batch needs, where it is much."""
        if self._format.image_bytes * self._size >= _LARGE:
            _find_shelf(self._format, self._size).clear()


class HostFeed(Unique):
    """The batches of an epoch, made ahead in the order in which they are taken."""

    def __init__(
        self, samples: Samples, form: BatchFormat, size: int, num_workers: int, work: Work
    ) -> None:
        ahead = max(2, min(8, _AHEAD_BYTES // (form.image_bytes * size))) if num_workers else 0
        if num_workers and 'CP_AHEAD' in os.environ: ahead=int(os.environ['CP_AHEAD'])
        self._samples = samples
        self._form = form
        self._size = size
        self._ahead = ahead
        self._positions = work.positions
        self._batches = work.batches
        self._posted = self._taken = 0
        self._shelf = _find_shelf(form, size)
        # The slots of batches under way, in order.
        self._slots: deque[Slot] = deque()
        self._rows, self._labels = np.empty((2, ahead + 1, size), np.int64)
        self._tasks = samples.make_tasks(ahead + 1, work.epoch)
        for place in range(ahead + 1):
            self._tasks.aim(place, self._labels[place], self._rows[place])
        self._queue = Queue(
            self._tasks.function, self._tasks.addresses, num_workers, patience=int(os.environ.get('CP_PAT',ahead // 2 + 1))
        )
        self._first = work.positions.ctypes.data
        for _ in range(min(ahead, work.batches)):
            self._post(0)

    def __del__(self) -> None:
        self.close()

    def take(self) -> Batch:
        """Return the next batch, for which the caller works as well if it has to wait.

        Raises ``ClosedQueueError`` after `close`.
        """
        place = self._taken % (self._ahead + 1)
        more = self._posted < self._batches
        if not (self._post(place) if more else self._queue.is_done(place)):
            self._queue.wait(place)
        count = min(self._size, len(self._positions) - self._taken * self._size)
        self._taken += 1
        slot = self._slots.popleft()
        labels = self._labels[place, :count].copy()
        rows = self._rows[place, :count].copy() if self._form.return_index else None
        batch = self._form.batch(slot.array[:count], labels, rows)
        self._shelf.put(slot)
        return batch

    def close(self) -> None:
        """Make no further batches."""
        if hasattr(self, "_queue"):
            self._queue.close()
            # No thread writes into these now.
            while self._slots:
                self._shelf.put(self._slots.popleft())

    def _post(self, awaited: int) -> bool:
        """Begin the next batch, and say whether the one at a place is done."""
        queue, number = self._queue, self._posted
        slot = self._shelf.lend()
        self._slots.append(slot)
        self._posted += 1
        start = number * self._size
        count = min(self._size, len(self._positions) - start)
        return bool(
            begin(
                queue.engine, queue.jobs[number % (self._ahead + 1)], self._first + 8 * start,
                count, slot.address, queue.is_shared, queue.jobs[awaited],
            )
        )  # fmt: skip


@lru_cache(maxsize=4)
def _find_shelf(form: BatchFormat, size: int) -> Shelf:
    return Shelf(form.image_bytes * size, form.describe(size))
