"""Batches on a device: the engine writes them, or what they are made of, and the rest is queued."""

import math
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from cinicpack.errors import ArgumentError
from cinicpack.load.batches import Batch
from cinicpack.load.engine.threads import ClosedQueueError, Queue
from cinicpack.load.kernels.task import begin_at
from cinicpack.load.on_torch import mix_with_torch
from cinicpack.load.order import Work
from cinicpack.load.slabs import AHEAD, Slab, Slabs
from cinicpack.load.unique import Unique

__all__ = ["DeviceMaker", "check_device"]


def check_device(device: Any) -> torch.device:
    """Return the torch device that ``device`` names.

    Raises ``ArgumentError`` if it names none, or one that is not there.
    """
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ArgumentError(f"expected a torch device, found {device!r} ({error})") from None
    if found.type not in ("cpu", "cuda"):
        raise ArgumentError(f"expected device 'cpu' or 'cuda', found {device!r}")
    if found.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        # "cuda" without a number means the current GPU. Its index is None, which torch's stubs do
        # not know.
        index: int | None = found.index
        if count:
            index = torch.cuda.current_device() if index is None else index
        if index is None or index >= count:
            raise ArgumentError(
                f"device {str(found)!r} is not there: torch {torch.__version__} sees {count} GPUs; "
                "use device='cpu', or one of those"
            )
        found = torch.device("cuda", index)
    return found


class DeviceMaker(Unique):
    """Makes batches on a device, in slabs of several at once.

    Threads of the engine write what is sent. All else is done by the thread that takes the batches:
    it queues the work of the device a few slabs ahead, and waits for none of it.

    Args:
        slabs: what makes them.
    """

    def __init__(self, slabs: Slabs) -> None:
        self._slabs = slabs

    def open(self, work: Work) -> "DeviceFeed":
        """Begin to make the batches of an epoch."""
        self._slabs.fit(len(work.positions))
        return DeviceFeed(self._slabs, work)

    def clear(self) -> None:
        """Let go of all memory that no batch needs; nothing can be made any more."""
        self._slabs.clear()


class _Made(NamedTuple):
    """Batches whose work is queued, the first one last, and the event behind that work."""

    batches: list[Batch]
    event: Any


class DeviceFeed(Unique):
    """The batches of an epoch on a device.

    Threads of the engine write the next slabs, as far as there is memory; those that are written
    are sent, as far as the device does not lag behind; and one after the other is handed out.

    Args:
        slabs: what makes them.
        work: what they are made of.
    """

    def __init__(self, slabs: Slabs, work: Work) -> None:
        self._slabs = slabs
        self._work = work
        self._makes_ahead = slabs.num_workers > 0
        self._count = math.ceil(work.batches / slabs.batches)
        # How many slabs were begun, and how many of these were sent.
        self._begun = self._sent = 0
        # Slabs that the engine writes, and slabs that were sent, oldest first.
        self._written: deque[Slab] = deque()
        self._made: deque[_Made] = deque()
        self._current = _Made([], None)
        mixing = slabs.mixing
        self._mixes = None if mixing is None else mixing.draw(work, slabs.batch_size)
        self._listing = slabs.describe(work)
        self._tasks = slabs.make_tasks(work)
        self._queue = Queue(self._tasks.function, self._tasks.addresses, slabs.num_workers)
        if self._makes_ahead:
            self._advance()

    def __del__(self) -> None:
        self.close()

    def take(self) -> Batch:
        """Return the next batch, and keep device and engine at work.

        Raises ``ClosedQueueError`` after `close`.
        """
        self._queue.check_open()
        if self._makes_ahead:
            self._advance()
        if not self._current.batches:
            if not self._made:
                self._make_next()
            self._current = self._made.popleft()
        batch = self._current.batches.pop()
        self._slabs.transfers.receive(self._current.event, batch)
        return batch

    def finish(self) -> None:
        """Make no further batches: all were taken, and no thread is in `take`."""
        self.close()

    def close(self) -> None:
        """Make no further batches."""
        if hasattr(self, "_queue"):
            self._queue.close()
            # No thread writes into these now.
            while self._written:
                memory = self._written.popleft().memory
                if memory is not None:
                    self._slabs.transfers.take_back(memory)

    def _advance(self) -> None:
        """Begin and send what can be begun and sent without waiting."""
        while self._begun < self._count and len(self._written) < AHEAD:
            if not self._begin(waits=False):
                break
        while self._written and len(self._made) < AHEAD and self._is_first_done():
            if self._slabs.transfers.lags():
                break
            self._send_first()

    def _make_next(self) -> None:
        """Send the next slab, and wait for all that this takes."""
        if not self._written:
            if self._begun == self._count:
                # Another thread has closed the feed, and taken back what was under way.
                raise ClosedQueueError
            self._begin(waits=True)
        if not self._slabs.is_resident:
            self._queue.wait(self._sent % AHEAD)
        self._slabs.transfers.catch_up()
        self._send_first()

    def _begin(self, *, waits: bool) -> bool:
        """Let the engine write the next slab, if there is memory for it or the caller waits."""
        slab = self._slabs.lend(self._work, self._begun * self._slabs.images, waits=waits)
        if slab is None:
            return False
        place = self._begun % AHEAD
        self._begun += 1
        self._written.append(slab)
        if not self._slabs.is_resident:
            first = self._slabs.aim(self._tasks, place, slab)
            begin_at(self._queue, place, slab.positions, first)
        return True

    def _is_first_done(self) -> bool:
        return self._slabs.is_resident or self._queue.is_done(self._sent % AHEAD)

    def _send_first(self) -> None:
        """Queue the work of the device for the oldest slab that was not sent."""
        slabs, number = self._slabs, self._sent
        try:
            slab = self._written.popleft()
        except IndexError:
            # Another thread has closed the feed since the slab was done.
            raise ClosedQueueError from None
        self._sent += 1
        with slabs.transfers.on_stream():
            columns = slabs.send(slab, self._listing)
            batches = self._cut(columns, len(slab.positions), number * slabs.batches)
            if self._mixes is not None:
                mixes = self._mixes[number * slabs.batches :]
                for batch, mix in zip(batches, mixes, strict=False):
                    mix_with_torch(batch[: slabs.mixed], mix)
            event = slabs.transfers.record()
        self._made.append(_Made(batches[::-1], event))

    def _cut(self, columns: Sequence[torch.Tensor], count: int, number: int) -> list[Batch]:
        """Cut ``count`` samples into batches, of which the first one is that ``number``."""
        size = self._slabs.batch_size
        places = range(min(self._slabs.batches, self._work.batches - number))
        sizes = [min(size, max(0, count - place * size)) for place in places]
        # Views by `split` would share a version counter: autograd would take what is written into
        # the next batch for a change of this one.
        parts = [torch.unsafe_split_with_sizes(column, sizes) for column in columns]
        return list(zip(*parts, strict=True))
