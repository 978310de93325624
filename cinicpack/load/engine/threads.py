"""The engine's threads, shared by all loaders of the process, and the queues of their work."""

import atexit
import os
import threading
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cinicpack.cores import usable_cores
from cinicpack.errors import LoaderError
from cinicpack.load.engine import monitor
from cinicpack.load.engine.memory import allocate_aligned
from cinicpack.load.engine.posix import init_condition, init_mutex
from cinicpack.load.unique import Unique

__all__ = ["ClosedQueueError", "Queue"]

_CLOSED: Final = "expected a queue of this process that is open, found one that was closed"


def _allocate(nbytes: int) -> NDArray[np.uint8]:
    memory = allocate_aligned(nbytes)
    memory[:] = 0
    return memory


def _place(kind: np.dtype[Any], field: str) -> int:
    fields: Any = kind.fields
    return int(fields[field][1])


_CHANGED: Final = _place(monitor.QUEUE, "changed")
# A queue's record, and the jobs behind it, start on cache lines.
_QUEUE_BYTES: Final = monitor.QUEUE.itemsize + -monitor.QUEUE.itemsize % 64


class ClosedQueueError(LoaderError):
    """The queue was closed while somebody waited for a job of it, or before."""


class _Engine(Unique):
    """The threads, and the list of jobs that they work on. They sleep where there is no work."""

    def __init__(self) -> None:
        self._memory = _allocate(monitor.ENGINE.itemsize)
        self.address = self._memory.ctypes.data
        init_mutex(self.address + _place(monitor.ENGINE, "mutex"))
        init_condition(self.address + _place(monitor.ENGINE, "work"))
        # The list is empty: before its begin comes its end.
        [first] = self._memory.view(monitor.ENGINE)["list"]
        first["next"] = first["previous"] = self.address
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    def staff(self, count: int) -> None:
        """Have that many threads, but no more than leave a core to the thread that iterates."""
        count = min(count, max(1, usable_cores() - 1))
        if len(self._threads) >= count:
            return
        with self._lock:
            while len(self._threads) < count:
                number = len(self._threads) + 1
                thread = threading.Thread(
                    target=monitor.work, args=(self.address, number), name="cinicpack", daemon=True
                )
                thread.start()
                self._threads.append(thread)

    def stop(self) -> None:
        """End the threads, each after its piece of work."""
        monitor.stop(self.address)
        for thread in self._threads:
            thread.join()


_engine: _Engine | None = None
_lock = threading.Lock()


def _get_engine() -> _Engine:
    global _engine
    if _engine is None:
        with _lock:
            if _engine is None:
                # The kernels that end queues and engines are loaded here: their first call may
                # come while the interpreter exits, when it is too late to load or compile them.
                _Engine().stop()
                _engine = _Engine()
                Queue(0, [0], 0).close()
    return _engine


def _forget_engine() -> None:
    """Leave the engine to the parent of this forked process: its threads are not here."""
    global _engine, _lock
    _engine, _lock = None, threading.Lock()


@atexit.register
def _stop_engine() -> None:
    # A daemon thread must not be in a kernel while the interpreter frees what the kernel reads.
    if _engine is not None:
        _engine.stop()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_engine)


class Queue(Unique):
    """Jobs that are posted in turn, each at the next of a few places, and done by the engine.

    The one who has a queue keeps all memory that its jobs use until `close` has returned, which
    `__del__` also calls; and has at each place one job at a time.

    Args:
        run: address of the C function that does a piece: it gets an argument and the number of the
            piece, both 64 bits, and returns 0 where it fails.
        arguments: the argument of the jobs at each place.
        num_workers: how many threads may work on the queue's jobs at once, one that waits for them
            included; 0: only one that waits.
        patience: how many jobs have to wait before a thread is woken for them, which takes the one
            who posts 5 µs.

    Attributes:
        engine: address of the engine.
        jobs: address of the job at each place.
        is_shared: whether the engine's threads work on the jobs.
    """

    def __init__(
        self, run: int, arguments: Sequence[int], num_workers: int, patience: int = 1
    ) -> None:
        self.is_shared = num_workers > 0
        self._engine = _get_engine()
        self.engine = self._engine.address
        if self.is_shared:
            self._engine.staff(num_workers)
        self._memory = _allocate(_QUEUE_BYTES + monitor.JOB.itemsize * len(arguments))
        queue = self._memory[: monitor.QUEUE.itemsize].view(monitor.QUEUE)
        jobs = self._memory[_QUEUE_BYTES:].view(monitor.JOB)
        queue["limit"], queue["patience"] = max(1, num_workers), patience
        queue["parts"] = min(monitor.PARTS, max(1, num_workers))
        start = queue.ctypes.data
        init_condition(start + _CHANGED)
        first, size = jobs.ctypes.data, monitor.JOB.itemsize
        self.jobs = [first + place * size for place in range(len(arguments))]
        jobs["queue"], jobs["run"], jobs["argument"] = start, run, arguments
        jobs["following"] = self.jobs[1:] + self.jobs[:1]
        self._is_open = True

    def __del__(self) -> None:
        if getattr(self, "_is_open", False):
            self.close()

    @property
    def is_open(self) -> bool:
        """Whether the queue was not closed, and is not from before a fork."""
        return self._is_open and self._engine is _engine

    def check_open(self) -> None:
        """Raise `ClosedQueueError` if the queue was closed, or is from before a fork."""
        if not self._is_open or self._engine is not _engine:
            raise ClosedQueueError(_CLOSED)

    def post(self, place: int, pieces: int) -> None:
        """Post the job at a place, cut into that many pieces."""
        monitor.post(self.engine, self.jobs[place], pieces, self.is_shared)

    def is_done(self, place: int) -> bool:
        """Say whether the job at a place is done."""
        return self._engine is _engine and monitor.is_done(self.engine, self.jobs[place])

    def wait(self, place: int) -> None:
        """Work on the job at a place, and on those behind it, until it is done.

        Raises:
            ClosedQueueError: the queue was closed, or is from before a fork of the process.
            LoaderError: a piece of the job failed.
        """
        while (status := self._wait(place)) == monitor.LATE:
            pass
        if status == monitor.CANCELLED:
            raise ClosedQueueError(_CLOSED)
        if status == monitor.FAILED:
            raise LoaderError("a kernel failed, for want of memory as its message above says")

    def close(self) -> None:
        """Take back all jobs that nobody has begun, and wait for pieces that are under way.

        This takes as long as a piece, and no lock of Python.
        """
        self._is_open = False
        if self._engine is _engine:
            monitor.cancel(self.engine, self.jobs[0])

    def _wait(self, place: int) -> int:
        if self._engine is not _engine:
            return monitor.CANCELLED
        return monitor.wait(self.engine, self.jobs[place])
