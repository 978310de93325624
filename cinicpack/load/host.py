"""Batches in the host's memory: the kernels write them there, and there they are given."""

from collections import deque
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cinicpack.load.batches import Batch, BatchFormat, Builder, Wrapper
from cinicpack.load.engine.memory import Shelf, Slot
from cinicpack.load.engine.threads import ClosedQueueError, Queue
from cinicpack.load.kernels.task import begin
from cinicpack.load.mixing import Mixes, Mixing
from cinicpack.load.order import Work
from cinicpack.load.samples import Samples
from cinicpack.load.unique import Unique

__all__ = ["HostMaker"]

# How much is made ahead, but 1 batch at least and 8 at most. What is under way, what the user has
# and what was just given back should all stay in the cache of a processor.
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
        # What the latest epoch was made with, if it came to its end.
        self._idle: deque[_Equipment] = deque(maxlen=1)

    def open(self, work: Work) -> "HostFeed":
        """Begin to make the batches of an epoch."""
        size = max(1, min(self._batch_size, len(work.positions)))
        ahead = -1
        if self._num_workers:
            batch_bytes = self._samples.batch_bytes(size) * len(self._samples.transforms)
            ahead = min(_plan_ahead(batch_bytes), max(0, work.batches - 2))
        equipment = self._take_idle()
        if equipment is None or not equipment.suits(size, ahead):
            self._latest = shelf = _find_shelf(self._format, size)
            equipment = _Equipment(
                self._samples, shelf, size, ahead, self._num_workers, self._mixing
            )
        equipment.renew(work)
        return HostFeed(equipment, self._idle, self._build, self._format.wrap, work)

    def clear(self) -> None:
        """Free the memory that no batch needs, where it is much."""
        self._idle.clear()
        if self._latest is not None and self._latest.nbytes >= _LARGE:
            self._latest.clear()

    def _take_idle(self) -> "_Equipment | None":
        try:
            return self._idle.pop()
        except IndexError:
            return None


class _Equipment(Unique):
    """What batches are made with, in one epoch after the other, as making it takes 20 µs.

    Args:
        samples: what batches are made of.
        shelf: the memory of batches.
        size: samples in a batch.
        ahead: how many batches are made while one is awaited; -1: not even that one.
        num_workers: how many threads may work at once.
        mixing: how batches are mixed; None: not at all.

    Attributes:
        samples: as given; they keep the files mapped that the engine reads.
        shelf: as given.
        size: as given.
        slots: those of batches under way, in order.
        labels: of the batch at each place: int64 (size,), or where it is mixed float32 (size, K).
        rows: of the batch at each place: int64 (size,).
        tasks: of the batches.
        queue: where the engine gets them from.
    """

    def __init__(
        self,
        samples: Samples,
        shelf: Shelf,
        size: int,
        ahead: int,
        num_workers: int,
        mixing: Mixing | None,
    ) -> None:
        self.samples = samples
        self.shelf = shelf
        self.size = size
        self._kind = size, ahead
        self.slots: deque[Slot] = deque()
        # One more is made ahead of a consumer that finds its batches ready. Every second time it
        # takes one, threads are woken for two.
        columns = np.empty((ahead + 2, 2, size), np.int64)
        self.labels: list[NDArray[Any]] = list(columns[:, 0])
        self.rows = list(columns[:, 1])
        piece = _plan_piece(size * max(1, ahead + 1), num_workers)
        self.tasks = samples.make_tasks(ahead + 2, 0, piece=piece)
        self.tasks.aim_all(columns)
        self._mixes = None if mixing is None else Mixes(mixing, self.tasks, ahead + 2, size)
        if self._mixes is not None:
            self.labels = list(self._mixes.labels)
        self.queue = Queue(
            self.tasks.function, self.tasks.addresses, num_workers, patience=(ahead + 1) // 2 + 1
        )

    def suits(self, size: int, ahead: int) -> bool:
        """Say whether this is for such batches, and can be used in this process."""
        return self._kind == (size, ahead) and self.queue.is_open

    def renew(self, work: Work) -> None:
        """Make the batches of another epoch from now on."""
        self.tasks.renew(work.epoch, work.offset)
        if self._mixes is not None:
            self._mixes.renew(work)


class HostFeed(Unique):
    """The batches of an epoch, made ahead in the order in which they are taken.

    Args:
        equipment: what they are made with.
        idle: where the equipment is put after the last batch.
        build: makes a batch of its arrays, see `BatchFormat.builder`.
        wrap: makes the images of a batch of their array.
        work: which samples, in which order.

    Attributes:
        take: returns the next batch, for which the caller works as well if it has to wait; raises
            ``ClosedQueueError`` after `close`.
    """

    def __init__(
        self,
        equipment: _Equipment,
        idle: "deque[_Equipment]",
        build: Builder,
        wrap: Wrapper,
        work: Work,
    ) -> None:
        self._idle = idle
        # Whoever takes it out of here, `finish` or `close`, decides what becomes of it.
        self._equipment = [equipment]
        # The generator must not refer to the feed, which would then be a cycle.
        views = None
        if others := len(equipment.samples.transforms) - 1:
            views = _Views(equipment, build, wrap, others)
        batches = _make_batches(equipment, build, work, views)
        next(batches)
        self.take: Callable[[], Batch] = batches.__next__

    def __del__(self) -> None:
        self.close()

    def finish(self) -> None:
        """Make no further batches: all were taken, and no thread is in `take`."""
        if equipment := self._let_go():
            self._idle.append(equipment)

    def close(self) -> None:
        """Make no further batches."""
        if equipment := self._let_go():
            equipment.queue.close()
            # No thread writes into these now.
            while equipment.slots:
                equipment.shelf.put(equipment.slots.popleft())

    def _let_go(self) -> _Equipment | None:
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

    def __init__(self, equipment: _Equipment, build: Builder, wrap: Wrapper, count: int) -> None:
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
    equipment: _Equipment, build: Builder, work: Work, views: _Views | None
) -> Iterator[Batch]:
    """Post batches, wait for them and give them, one at a time and with little Python for each."""
    queue, shelf, slots = equipment.queue, equipment.shelf, equipment.slots
    engine, jobs, shared = queue.engine, queue.jobs, queue.is_shared
    depth, total, batches = len(jobs), len(work.positions), work.batches
    size, labels, rows = equipment.size, equipment.labels, equipment.rows
    first, full = work.positions.ctypes.data, total // size
    posted, is_done = 0, False
    for number in range(-1, batches):
        # A fork may have come while the engine's mutex was held, which nobody frees here then.
        queue.check_open()
        place = number % depth
        stop = min(max(number + 1, number + depth - (not is_done)), batches)
        if posted >= stop:
            is_done = queue.is_done(place)
        while posted < stop:
            slot = shelf.lend()
            slots.append(slot)
            if views:
                views.lend(posted % depth)
            start = min(posted * size, total)
            count = min(size, total - start)
            is_done = begin(
                engine, jobs[posted % depth], first + 8 * start, count, slot.address, shared,
                jobs[place],
            )  # fmt: skip
            posted += 1
        if number < 0:
            # Threads begin with an epoch before its first batch is asked for.
            yield ()
            continue
        if not is_done:
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


def _plan_ahead(batch_bytes: int) -> int:
    return max(1, min(8, _AHEAD_BYTES // batch_bytes))


def _plan_piece(images: int, num_workers: int) -> int:
    """Cut what is under way into two pieces for each thread, of a size that is worth it."""
    return max(16, min(64, images // max(1, 2 * num_workers)))


# As many kinds of batches as a program may have in turn; of others the memory is allocated anew.
@lru_cache(maxsize=16)
def _find_shelf(form: BatchFormat, size: int) -> Shelf:
    return Shelf(form.image_bytes * size, form.describe(size))
