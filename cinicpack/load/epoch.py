"""An epoch: the iterator over its batches, which several threads may share."""

import os
import threading
import weakref
from collections.abc import Callable
from typing import Final, Protocol

from cinicpack.errors import LoaderError
from cinicpack.load.batches import Batch
from cinicpack.load.engine.threads import ClosedQueueError
from cinicpack.load.repeats import repeats
from cinicpack.load.samples import Reading
from cinicpack.load.unique import Unique

__all__ = ["Epoch", "Feed", "Locked", "Progress"]

_CLOSED: Final = (
    "expected a running iterator, found one that was closed: by close(), by a newer iter() of its "
    "loader, by an error or interrupt in next(), or by a fork of the process"
)


class Feed(Protocol):
    """What makes the batches of an epoch, on the host or on a device."""

    def take(self) -> Batch:
        """Return the next batch; `ClosedQueueError` after `close`, and in a forked process."""

    def finish(self) -> None:
        """Make no further batches: all were taken, and no thread is in `take`."""

    def close(self) -> None:
        """Make no further batches; this takes no lock."""


class Locked(Unique):
    """What has a lock, and can be used in a forked process, whatever thread had the lock."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        _all_locked.add(self)

    def unlock(self) -> bool:
        """Replace the lock if another thread has it, and return whether one has.

        In a forked process that thread does not exist, so that nothing else would free the lock.
        """
        if self._lock.acquire(blocking=False):
            self._lock.release()
            return False
        self._lock = threading.RLock()
        return True


_all_locked: weakref.WeakSet[Locked] = weakref.WeakSet()


def _unlock_all() -> None:
    for locked in list(_all_locked):
        locked.unlock()


os.register_at_fork(after_in_child=_unlock_all)


class Progress:
    """Where an iterator is: only the iterator writes this, and its stream reads it.

    The progress outlives an iterator that was dropped, and is then the loader's.
    """

    __slots__ = ("epoch", "samples")

    def __init__(self, epoch: int, samples: int = 0) -> None:
        self.epoch = epoch
        self.samples = samples


class Epoch(Locked):
    """Iterates over the batches of an epoch, in order, from some point on.

    Threads that call ``next()`` at once get their batches one after the other, by a lock.

    Args:
        progress: where the epoch starts; it is kept up to date.
        step: number of samples that all ranks together have of a batch.
        batches: number of batches from there on.
        feed: what gives the batches from there on.
        reading: what reads images ahead, and is closed with the epoch.
        finish: is called after the last batch, perhaps more than once.
        repeat: the hash by which `repeats` counts the loader; None: the loader is not counted.

    Attributes:
        is_running: whether it has batches left.
        is_over: whether ``next()`` has raised StopIteration, or the iterator was closed.
    """

    def __init__(
        self,
        progress: Progress,
        step: int,
        batches: int,
        feed: Feed,
        reading: Reading | None,
        finish: Callable[[], None],
        repeat: bytes | None,
    ) -> None:
        super().__init__()
        self._progress = progress
        self._step = step
        self._batches_left = batches
        self._feed = feed
        self._reading = reading
        self._tell_finished = finish
        self._repeat = None if progress.epoch else repeat
        self.is_over = False
        self.is_running = True

    def __iter__(self) -> "Epoch":
        return self

    def __next__(self) -> Batch:
        with self._lock:
            try:
                if not self._batches_left:
                    # Only an epoch without any batch is not finished yet.
                    self._finish()
                    self.is_over = True
                    raise StopIteration
                if not self.is_running:
                    raise LoaderError(_CLOSED)
                try:
                    batch = self._feed.take()
                except ClosedQueueError:
                    raise LoaderError(_CLOSED) from None
                # Another thread may have called `close` meanwhile.
                if not self.is_running:
                    raise LoaderError(_CLOSED)
                self._batches_left -= 1
                if self._batches_left:
                    self._progress.samples += self._step
                else:
                    self._finish()
                if self._repeat is not None and self._progress.samples > self._step:
                    self._count()
            except StopIteration:
                raise
            except BaseException:
                # Close it after an interrupt too, which may have come between taking a batch and
                # returning it: going on would skip that batch.
                self.close()
                raise
        return batch

    @property
    def number(self) -> int:
        """The number of the epoch."""
        return self._progress.epoch

    def close(self) -> None:
        """End the epoch here: ``next()`` raises `LoaderError` from now on, on any thread."""
        # The lock is not taken: the garbage collector or a signal handler may call this on a thread
        # that is in `next()`.
        self.is_running = False
        self.is_over = True
        self._batches_left = -1
        self._feed.close()
        self._stop_reading()

    def unlock(self) -> bool:
        """Close the iterator where another thread was in ``next()``, whose batch is lost."""
        was_locked = super().unlock()
        if was_locked:
            self.close()
        return was_locked

    def _finish(self) -> None:
        self._tell_finished()
        self.is_running = False
        self._feed.finish()
        self._stop_reading()
        self._count()

    def _stop_reading(self) -> None:
        if self._reading is not None:
            self._reading.close()

    def _count(self) -> None:
        """Count, once, that the loader gave epoch 0: all of it, or more than a first batch."""
        if self._repeat is not None:
            repeats.count(self._repeat)
            self._repeat = None
