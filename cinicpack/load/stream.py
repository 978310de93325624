"""The stream: which batches come next, epoch after epoch, and what makes them."""

import weakref
from functools import partial
from typing import Any

import numpy as np

from cinicpack.errors import LoaderError
from cinicpack.load.batches import Batch
from cinicpack.load.choice import check_rows
from cinicpack.load.epoch import Epoch, Locked, Progress
from cinicpack.load.makers import Maker
from cinicpack.load.options import Options
from cinicpack.load.order import Orders, Share, Work, number_occurrences
from cinicpack.load.recipes import make_recipe
from cinicpack.load.samples import Samples
from cinicpack.load.state import Position
from cinicpack.load.supply import Supply

__all__ = ["Stream"]


class Stream(Locked):
    """Where a loader is, and what makes the batches from there on.

    The stream's lock is held while an epoch is started, finished or set, which several threads may
    do at once. `close` and `position` take no lock: the garbage collector or a signal handler may
    call them on a thread that is amid one of these.

    Args:
        samples: of the loader.
        maker: what makes batches of the samples.
        options: of the loader.
    """

    def __init__(self, samples: Samples, maker: Maker, options: Options) -> None:
        super().__init__()
        self._samples = samples
        self._maker = maker
        self._options = options
        self._orders = Orders(
            make_recipe(options, samples),
            len(samples),
            seed=options.seed,
            ahead=options.num_workers > 0,
        )
        # Where the latest iterator is.
        self._progress = Progress(0)
        # Where the next iterator starts; None: at the epoch after that of the latest.
        self._start: Position | None = Position(options.epoch or 0, 0)
        # Where the second next iterator starts, likewise: set in a copy that was made in mid-epoch
        # after set_epoch(), whose next iterator has the rest of that epoch.
        self._then: Position | None = None
        self._current: weakref.ref[Epoch] | None = None
        self._supply: Supply | None = None
        if not options.resident:
            self._supply = Supply(samples, self._orders.window, options.num_workers)
        self._is_closed = False

    @property
    def position(self) -> Position:
        """The epoch, and how many of its samples the consumer has received."""
        # `_start` is read first: another thread may start or finish an epoch meanwhile, and `start`
        # clears `_start` only after `_progress` and `_current` are those of the new iterator.
        start, running = self._start, self.running()
        if start is not None and not running:
            return start
        progress = self._progress
        return Position(progress.epoch, progress.samples)

    @property
    def following(self) -> Position:
        """Where the next iterator starts."""
        return self._start or Position(self._progress.epoch + 1, 0)

    def count(self, epoch: int) -> int:
        """Count the samples that all ranks together have in an epoch."""
        return self._orders.count(epoch)

    @property
    def epoch(self) -> int:
        """The epoch of the latest iterator until that is over, then the epoch that comes next."""
        current = None if self._current is None else self._current()
        if current is not None and not current.is_over:
            return self._progress.epoch
        return self.following.epoch

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._is_closed

    def running(self) -> Epoch | None:
        """Return the latest iterator if it has batches left."""
        current = None if self._current is None else self._current()
        return current if current is not None and current.is_running else None

    def places(self) -> tuple[Position, Position | None]:
        """Return the arguments of `seek` with which another stream goes on like this one."""
        with self._lock:
            return self.position, self._start if self.running() else self._then

    def seek(self, start: Position, then: Position | None = None) -> None:
        """Set where the next iterator starts, and the second next; None: at the next epoch."""
        with self._lock:
            self._start, self._then = start, then

    def set_epoch(self, epoch: int) -> None:
        """Start the next iterator at an epoch, unless a loaded state is within that epoch."""
        with self._lock:
            if self._start is None or self._start.epoch != epoch:
                self._start = Position(epoch, 0)
            self._then = None

    def reseed(self, seed: int) -> None:
        """Draw with another seed from now on."""
        self._orders.reseed(seed)
        self._samples.reseed(seed)

    def start(self, share: Share, repeat: bytes | None) -> Epoch:
        """Start the next iterator, and close a running one.

        Args:
            share: what this rank takes of the epoch.
            repeat: the hash by which `repeats` counts the loader; None: the loader is not counted.

        Raises ``LoaderError`` after `close`, and ``PackError`` where images were written to.
        """
        self._check_open()
        self._samples.check_unchanged()
        with self._lock:
            if running := self.running():
                running.close()
            start = self.following
            progress = Progress(*start)
            work = self._orders.take(share, *start)
            reading = None
            if self._supply is not None:
                work, reading = self._supply.begin(work, share, start.samples)
            feed = self._maker.open(work)
            self._orders.prepare(start.epoch + 1)
            finish = partial(self._finish, progress)
            epoch = Epoch(progress, share.step, work.batches, feed, reading, finish, repeat)
            # `_start` is cleared last, since another thread may be in `position`.
            self._progress = progress
            self._current = weakref.ref(epoch)
            self._start, self._then = self._then, None
        if self._is_closed:
            # Another thread called `close` meanwhile, which may not have seen the new iterator.
            self.close()
        return epoch

    def make(self, rows: Any, epoch: int) -> Batch:
        """Make a batch of rows as they are in an epoch; what is running goes on.

        Raises ``ArgumentError`` for rows that the loader does not have, and ``LoaderError`` after
        `close`.
        """
        self._check_open()
        count, known = len(self._samples), self._samples.rows
        positions = np.searchsorted(known, check_rows("rows", rows, known))
        occurrences = number_occurrences(positions, count)
        # No more at once than the maker is ready for.
        size, batches = min(self._options.batch_size, count), []
        for start in range(0, len(positions), size):
            part = slice(start, start + size)
            before = None if occurrences is None else occurrences[part]
            feed = self._maker.open(Work(positions[part], 1, epoch, before, start))
            batches.append(feed.take())
            feed.finish()
        return self._options.batch_format.join(batches)

    def close(self) -> None:
        """End the running iterator, and free memory."""
        self._is_closed = True
        if running := self.running():
            running.close()
        self._orders.clear()
        self._maker.clear()

    def _finish(self, progress: Progress) -> None:
        """Go over to the next epoch, unless another thread has started a newer iterator."""
        with self._lock:
            if self._progress is progress and self._start is None:
                self._start = Position(progress.epoch + 1, 0)

    def _check_open(self) -> None:
        if self._is_closed:
            raise LoaderError("expected an open loader, found one after close(); make a new one")
