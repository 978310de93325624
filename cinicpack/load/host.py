"""Batches in the host's memory: the kernels write them there, and there they are given."""

from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cinicpack.load.batches import Batch, BatchFormat, Builder, Wrapper
from cinicpack.load.engine.memory import Shelf, Slot
from cinicpack.load.engine.monitor import DONE, is_done, wait
from cinicpack.load.engine.threads import ClosedQueueError
from cinicpack.load.equipment import Equipment, Kind, find_equipment
from cinicpack.load.kernels.task import begin_next
from cinicpack.load.mixing import Mixing
from cinicpack.load.order import Work
from cinicpack.load.samples import Samples
from cinicpack.load.unique import Unique

__all__ = ["HostMaker"]

# How much is made ahead for each thread, and how many batches: what is under way, what the user has
# and what was just given back should all stay in the caches of these threads' cores, and yet there
# should be enough that many threads do not often wait for one another.
_AHEAD_BYTES: Final = 2 << 20
_AHEAD_LEAST: Final = 4 << 20
_AHEAD_BATCHES: Final = 8
# Slots of this size are not kept for later when a loader is closed.
_LARGE: Final = 1 << 20


class HostMaker(Unique):
    """Makes batches in the host's memory.

    Args:
        samples: what batches are made of.
        batch_format: dtype, layout and kind of the batches.
        batch_size: samples in a batch.
        num_workers: how many threads may work at once; 0: only the one that takes the batches.
        mixing: how batches are mixed; None: not at all.
    """

    def __init__(
        self,
        samples: Samples,
        batch_format: BatchFormat,
        batch_size: int,
        num_workers: int,
        mixing: Mixing | None = None,
    ) -> None:
        self._samples = samples
        self._format = batch_format
        self._batch_size = batch_size
        self._num_workers = num_workers
        self._mixing = mixing
        # The kernel that mixes looks the labels up.
        self._build = batch_format.builder(samples.looked_up if mixing is None else None)
        self._latest: Shelf | None = None

    def open(self, work: Work) -> "HostFeed":
        """Begin to make the batches of an epoch."""
        samples = self._samples
        size = max(1, min(self._batch_size, len(work.positions)))
        views, ahead = len(samples.transforms), -1
        if self._num_workers:
            batch_bytes = samples.batch_bytes(size) * views
            ahead = _plan_ahead(batch_bytes, self._num_workers)
            ahead = min(ahead, max(0, work.batches - 2))
        kind = Kind(self._format, samples.kernel, views, size, ahead, self._num_workers)
        equipment = find_equipment(kind, samples, self._mixing, work)
        self._latest = equipment.shelf
        return HostFeed(equipment, self._build, self._format.wrap, work)

    def clear(self) -> None:
        """Free the memory that no batch needs, where it is much."""
        if self._latest is not None and self._latest.nbytes >= _LARGE:
            self._latest.clear()


class HostFeed(Unique):
    """The batches of an epoch, made ahead in the order in which they are taken.

    Args:
        equipment: what they are made with.
        build: makes a batch of its arrays, see `BatchFormat.builder`.
        wrap: makes the images of a batch of their array.
        work: which samples, in which order.

    Attributes:
        take: returns the next batch, for which the caller works as well if it has to wait; raises
            ``ClosedQueueError`` after `close`.
    """

    def __init__(
        self,
        equipment: Equipment,
        build: Builder,
        wrap: Wrapper,
        work: Work,
    ) -> None:
        # Whoever takes it out of here, `finish` or `close`, decides what becomes of it.
        self._equipment = [equipment]
        # The generator must not refer to the feed, which would then be a cycle.
        views = None
        if others := equipment.kind.views - 1:
            views = _Views(equipment, build, wrap, others)
        batches = _make_batches(equipment, build, work, views)
        next(batches)
        self.take: Callable[[], Batch] = batches.__next__

    def __del__(self) -> None:
        self.close()

    def finish(self) -> None:
        """Make no further batches: all were taken, and no thread is in `take`."""
        if equipment := self._let_go():
            equipment.rest()

    def close(self) -> None:
        """Make no further batches."""
        if equipment := self._let_go():
            equipment.queue.close()
            # No thread writes into these now.
            while equipment.slots:
                equipment.shelf.put(equipment.slots.popleft())

    def _let_go(self) -> Equipment | None:
        try:
            return self._equipment.pop()
        except (AttributeError, IndexError):
            return None


class _Views:
    """The memory and the images of all views of a batch but the first, which is made as ever.

    Args:
        equipment: what batches are made with; the slots of a batch lie one behind the other.
        build: makes a batch of its first view.
        wrap: makes the images of another view of their array.
        count: how many other views there are.
    """

    def __init__(self, equipment: Equipment, build: Builder, wrap: Wrapper, count: int) -> None:
        self._tasks, self._shelf, self._slots = equipment.tasks, equipment.shelf, equipment.slots
        self._build, self._wrap, self._count = build, wrap, count

    def lend(self, place: int) -> None:
        """Lend memory for the batch that comes to a place, behind that of its first view."""
        for view in range(1, self._count + 1):
            slot = self._shelf.lend()
            self._slots.append(slot)
            self._tasks.aim_view(place, view, slot.address)

    def take(self) -> list[Slot]:
        """Take the memory of the batch whose first view was taken before."""
        return [self._slots.popleft() for _ in range(self._count)]

    def give(self, slots: list[Slot], labels: NDArray[Any], rows: NDArray[np.int64]) -> Batch:
        """Make a batch of all of its views, and look after their memory from now on."""
        first, *others = (slot.array[: len(rows)] for slot in slots)
        images, *rest = self._build(first, labels, rows)
        batch = (images, *map(self._wrap, others), *rest)
        for slot in slots:
            self._shelf.put(slot)
        return batch


def _make_batches(
    equipment: Equipment, build: Builder, work: Work, views: _Views | None
) -> Iterator[Batch]:
    """Post batches, wait for them and give them, one at a time and with little Python for each."""
    queue, shelf, slots = equipment.queue, equipment.shelf, equipment.slots
    planned, engine, jobs = equipment.batches, queue.engine, queue.jobs
    depth, total, batches = len(jobs), len(work.positions), work.batches
    size, labels, rows = equipment.kind.size, equipment.labels, equipment.rows
    full, begun, done = total // size, 0, False
    for number in range(-1, batches):
        # A fork may have come while the engine's mutex was held, which nobody frees here then.
        queue.check_open()
        place = number % depth
        # A call of min() or max() would take as long as all of these lines.
        stop = number + depth - (not done)
        if stop == number:
            stop += 1
        if stop > batches:
            stop = batches
        if begun >= stop:
            done = is_done(engine, jobs[place])
        while begun < stop:
            slot = shelf.lend()
            slots.append(slot)
            if views:
                views.lend(begun % depth)
            done = begin_next(planned, slot.address, number)
            begun += 1
        if number < 0:
            # Threads begin with an epoch before its first batch is asked for.
            yield ()
            continue
        if not done and wait(engine, jobs[place]) != DONE:
            queue.wait(place)
        try:
            slot = slots.popleft()
            others = views.take() if views else []
        except IndexError:
            # Another thread has closed the feed since the batch was done.
            raise ClosedQueueError from None
        # No name may refer to the arrays of a batch: its memory could not be used again.
        if views:
            count = min(size, max(0, total - number * size))
            yield views.give([slot, *others], labels[place][:count], rows[place][:count])
        elif number < full:
            yield shelf.hand_over(slot, build(slot.array, labels[place], rows[place]))
        else:
            count = max(0, total - number * size)
            yield shelf.hand_over(
                slot, build(slot.array[:count], labels[place][:count], rows[place][:count])
            )


def _plan_ahead(batch_bytes: int, num_workers: int) -> int:
    """Say how many batches are made ahead: at least 1."""
    nbytes = max(_AHEAD_LEAST, num_workers * _AHEAD_BYTES)
    return max(1, min(max(_AHEAD_BATCHES, num_workers), nbytes // batch_bytes))
