"""The stream: which batches come next, epoch after epoch, and what makes them."""

import os
import threading
import weakref
from collections.abc import Callable

import numpy as np

from cinicpack.errors import LoaderError
from cinicpack.load.batches import Batch, Slab
from cinicpack.load.makers import Maker, Pace
from cinicpack.load.options import Options
from cinicpack.load.order import Schedule, Share
from cinicpack.load.pipeline import Pipeline
from cinicpack.load.repeats import repeats
from cinicpack.load.samples import Samples
from cinicpack.load.state import Position
from cinicpack.load.unique import Unique

__all__ = ["Epoch", "Stream"]


class _Locked(Unique):
    """What has a lock, and goes on in a forked process, where the lock's owner may not be."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        _all_locked.add(self)

    def unlock(self) -> bool:
        """Replace the lock if another thread has it; say whether that was so."""
        if self._lock.acquire(blocking=False):
            self._lock.release()
            return False
        self._lock = threading.RLock()
        return True


_all_locked: weakref.WeakSet[_Locked] = weakref.WeakSet()


def _unlock_all() -> None:
    for locked in list(_all_locked):
        locked.unlock()


os.register_at_fork(after_in_child=_unlock_all)


class Stream(_Locked):
    """Where a loader is, and what gives the batches from there on.

    Its lock is for what an epoch begins and ends with, which several threads may want at once.
    Nothing takes it that the garbage collector or a signal handler calls.

    Args:
        samples: of the loader.
        maker: what makes slabs of them.
        options: of the loader.
        pace: how much is made at a time.
    """

    def __init__(self, samples: Samples, maker: Maker, options: Options, pace: Pace) -> None:
        super().__init__()
        self._samples = samples
        self._maker = maker
        self._pace = pace
        self._shuffle = options.shuffle
        self._seed = options.seed
        # Where the last iterator is, and where the next starts if not at the epoch after that.
        self._place = _Place(0)
        self._start: Position | None = Position(options.epoch or 0, 0)
        # Where the one after that starts, in a copy that was made after set_epoch() in mid-epoch.
        self._then: Position | None = None
        self._current: weakref.ref[Epoch] | None = None
        # What gives the slabs, and where it is between two epochs.
        self._pipeline: Pipeline[Slab] | None = None
        self._pipeline_at: tuple[Share, Position] | None = None
        self._is_cold = options.num_workers > 0 and not options.resident
        self._is_closed = False

    @property
    def position(self) -> Position:
        """The epoch, and how many of its samples the consumer has received."""
        # Other threads may begin or end an epoch meanwhile, hence the order of these reads.
        start, running = self._start, self.running()
        if start is not None and not running:
            return start
        place = self._place
        return Position(place.epoch, place.samples)

    @property
    def following(self) -> Position:
        """Where the next iterator starts."""
        return self._start or Position(self._place.epoch + 1, 0)

    @property
    def epoch(self) -> int:
        """The epoch of the iterator until that has said that it is over, then the next one."""
        current = None if self._current is None else self._current()
        if current is not None and not current.is_over:
            return self._place.epoch
        return self.following.epoch

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._is_closed

    def running(self) -> "Epoch | None":
        """Return the iterator if it has batches left."""
        current = None if self._current is None else self._current()
        return current if current is not None and current.is_running else None

    def places(self) -> tuple[Position, Position | None]:
        """Return what `seek` takes for another stream to go on like this one."""
        with self._lock:
            return self.position, self._start if self.running() else self._then

    def seek(self, start: Position, then: Position | None = None) -> None:
        """Set where the next iterator starts, and the one after it if not at the next epoch."""
        with self._lock:
            self._start, self._then = start, then

    def set_epoch(self, epoch: int) -> None:
        """Set where the next iterator starts, unless it starts within that epoch anyway."""
        with self._lock:
            if self._start is None or self._start.epoch != epoch:
                self._start = Position(epoch, 0)
            self._then = None

    def reseed(self, seed: int) -> None:
        """Draw with another seed from now on; what was made ahead has the old one."""
        self._close_pipeline()
        self._seed = seed
        self._samples.seed = np.uint64(seed)

    def start(self, share: Share, repeat: bytes | None) -> "Epoch":
        """Start the next iterator, and close one that is still running.

        ``repeat`` is what `repeats` knows the loader by.
        """
        self._check_open()
        with self._lock:
            if running := self.running():
                running.close()
            start = self.following
            place = _Place(*start)
            batches = share.batches(len(self._samples) - start.samples)
            pipeline = self._open_pipeline(share, start)
            # Only once: later the images are in the page cache, or there is no room for them.
            reading = self._samples.read_ahead() if self._is_cold else None
            self._is_cold = False
            epoch = Epoch(self, place, share, batches, pipeline, reading, repeat)
            # In this order, since another thread may be in `position`.
            self._place = place
            self._current = weakref.ref(epoch)
            self._start, self._then = self._then, None
        if self._is_closed:
            # Meanwhile, by another thread, which may not have seen the iterator.
            self.close()
        return epoch

    def finish(self, place: "_Place", share: Share) -> None:
        """Go over to the next epoch, unless a newer iterator has been started just now."""
        with self._lock:
            if self._place is place:
                following = Position(place.epoch + 1, 0)
                self._pipeline_at = (share, following)
                if self._start is None:
                    self._start = following

    def close(self) -> None:
        """End the iterator with its threads and give back the memory."""
        self._is_closed = True
        if running := self.running():
            running.close()
        self._close_pipeline()
        self._maker.clear()

    def _check_open(self) -> None:
        if self._is_closed:
            raise LoaderError("expected an open loader, found one after close(); make a new one")

    def _open_pipeline(self, share: Share, start: Position) -> Pipeline[Slab]:
        """Return what gives the slabs from here on: that of the epoch before, or a new one."""
        # After a fork its threads are not in this process.
        pipeline = self._pipeline
        if pipeline is None or self._pipeline_at != (share, start) or not pipeline.is_alive():
            self._close_pipeline()
            schedule = Schedule(
                len(self._samples),
                shuffle=self._shuffle,
                seed=self._seed,
                share=share,
                slab_batches=self._pace.slab_batches,
                epoch=start.epoch,
                consumed=start.samples,
            )
            # It must not refer to the stream, which would never end then.
            maker = self._maker
            pipeline = self._pipeline = Pipeline(
                lambda number: maker.make(*schedule[number]),
                len(schedule),
                self._pace.threads,
                self._pace.ahead,
            )
        self._pipeline_at = None
        return pipeline

    def _close_pipeline(self) -> None:
        pipeline, self._pipeline = self._pipeline, None
        if pipeline is not None:
            pipeline.close()


class _Place:
    """Where an iterator is: it writes this, and its stream reads it, also when it is gone."""

    __slots__ = ("epoch", "samples")

    def __init__(self, epoch: int, samples: int = 0) -> None:
        self.epoch = epoch
        self.samples = samples


class Epoch(_Locked):
    """The batches of one epoch, in order, from a place on.

    Its lock is for those who are in ``next()``, one after the other.

    Attributes:
        is_running: whether it has batches left.
        is_over: whether ``next()`` has said that there are none, or it was closed.
    """

    def __init__(
        self,
        stream: Stream,
        place: _Place,
        share: Share,
        batches: int,
        pipeline: Pipeline[Slab],
        reading: Pipeline[int] | None,
        repeat: bytes | None,
    ) -> None:
        super().__init__()
        self._stream = stream
        self._place = place
        self._share = share
        self._step = share.step
        self._batches_left = batches
        self._pipeline = pipeline
        self._reading = reading
        self._repeat = None if place.epoch else repeat
        self._ready: list[Batch] = []
        self._receive: Callable[[Batch], None] | None = None
        self.is_over = False
        self.is_running = True

    def __iter__(self) -> "Epoch":
        return self

    def __next__(self) -> Batch:
        with self._lock:
            try:
                batch = (self._ready or self._refill()).pop()
                if self._receive is not None:
                    self._receive(batch)
                self._batches_left -= 1
                if self._batches_left:
                    self._place.samples += self._step
                else:
                    self._finish()
                if self._repeat is not None and self._place.samples > self._step:
                    self._count()
            except StopIteration:
                raise
            except BaseException:
                # An interrupt too, since a batch may be lost then.
                self.close()
                raise
        return batch

    def __del__(self) -> None:
        # Without waiting for the threads, see `Pipeline`.
        if self.is_running:
            self._pipeline.stop()

    @property
    def number(self) -> int:
        """The number of the epoch."""
        return self._place.epoch

    def close(self) -> None:
        """End the epoch here; ``next()`` raises from now on, on other threads too."""
        # Without the lock: the garbage collector may get here on one of our threads, and whoever
        # has the lock may wait for that thread.
        was_running, self.is_running = self.is_running, False
        self.is_over = True
        self._ready = []
        self._batches_left = -1
        if was_running:
            self._pipeline.close()
        self._stop_reading()

    def unlock(self) -> bool:
        """Close it where another thread was amid taking a batch, which is lost."""
        was_locked = super().unlock()
        if was_locked:
            self.close()
        return was_locked

    def _refill(self) -> list[Batch]:
        if not self._batches_left:
            # Also where there is no batch at all.
            self._finish()
            self.is_over = True
            raise StopIteration
        slab = next(self._pipeline, None) if self.is_running else None
        if slab is not None:
            self._ready, self._receive = slab
        # Not before, since another thread may close it in between.
        if slab is None or not self.is_running:
            self._ready = []
            raise LoaderError(
                "expected a running iterator, found one that was closed: by close(), by a newer "
                "iter() of its loader, by an error or interrupt in next(), or by a fork of the "
                "process while another thread was in next()"
            )
        return slab.batches

    def _finish(self) -> None:
        self._stream.finish(self._place, self._share)
        self.is_running = False
        self._stop_reading()
        self._count()

    def _stop_reading(self) -> None:
        if self._reading is not None:
            self._reading.close()

    def _count(self) -> None:
        """Let it be known that the loader gave epoch 0: all of it, or more than a first batch."""
        if self._repeat is not None:
            repeats.count(self._repeat)
            self._repeat = None
