"""A pipeline: results made ahead by threads, handed out in order.

Made for jobs of 50 µs and more that release the GIL: handing one over costs about 3 µs, where an
executor's future costs 30.
"""

import atexit
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeAlias, TypeVar

from cinicpack.errors import LoaderError
from cinicpack.load.unique import Unique

__all__ = ["Pipeline"]

T = TypeVar("T")


class Pipeline(Unique, Generic[T]):
    """Iterates over ``make(0), make(1), ... make(count - 1)``, made ahead on threads.

    At most ``ahead`` results are under way or waiting. With ``num_threads`` 0 a result is made when
    it is asked for, on the thread that asks. An error in ``make`` is raised where its result was
    due, and ends the iteration. Whatever else interrupts ``next()`` ends it too, since a result may
    be lost then. The threads end with the iteration, with `close`, or with the pipeline itself.
    """

    def __init__(self, make: Callable[[int], T], count: int, num_threads: int, ahead: int) -> None:
        self._make = make
        self._count = count
        self._next = 0
        self._pid = os.getpid()
        self._due: deque[_Job[T]] = deque()
        self._jobs: _Jobs = SimpleQueue()
        self._threads = [_Worker(self._jobs) for _ in range(min(num_threads, count))]
        # The callback must not refer to the pipeline, which would then never be dropped.
        self._dismiss = weakref.finalize(self, _dismiss, self._jobs, len(self._threads))
        try:
            for thread in self._threads:
                thread.start()
        except BaseException:
            self.close()
            raise
        if self._threads:
            for _ in range(min(ahead, count)):
                self._submit()

    def __iter__(self) -> "Pipeline[T]":
        return self

    def __next__(self) -> T:
        try:
            return self._take()
        except BaseException:
            self.close()
            raise

    def is_alive(self) -> bool:
        """Say whether it can go on: not after `close`, an error, or a fork of the process."""
        return self._dismiss.alive and os.getpid() == self._pid

    def stop(self) -> None:
        """Drop what was made ahead and let the threads end, without waiting for them."""
        self._count = self._next
        self._due.clear()
        self._dismiss()

    def close(self) -> None:
        """Drop what was made ahead and wait for the threads to end; later calls do nothing."""
        self.stop()
        _join(self._threads)

    def _take(self) -> T:
        if not self._threads:
            if self._next >= self._count:
                raise StopIteration
            self._next += 1
            return self._make(self._next - 1)
        if not self._dismiss.alive:
            raise StopIteration
        try:
            job = self._due.popleft()
        except IndexError:
            # Another thread may have stopped the pipeline just now.
            raise StopIteration from None
        if not job.done.acquire(blocking=False):
            if os.getpid() != self._pid:
                raise LoaderError(
                    "expected an iterator of this process, found one from before a fork, whose "
                    "threads are not here; make a new one with iter()"
                )
            job.done.acquire()
        if job.error is not None:
            raise job.error
        if self._next < self._count:
            self._submit()
        return job.result

    def _submit(self) -> None:
        job = _Job(self._make, self._next)
        self._next += 1
        self._due.append(job)
        self._jobs.put(job)


class _Job(Generic[T]):
    """One result to be; ``done`` is released when ``result`` or ``error`` is there."""

    __slots__ = ("done", "error", "make", "number", "result")

    result: T

    def __init__(self, make: Callable[[int], T], number: int) -> None:
        self.make = make
        self.number = number
        self.error: BaseException | None = None
        self.done = threading.Lock()
        self.done.acquire()

    def run(self) -> None:
        try:
            self.result = self.make(self.number)
        except BaseException as error:
            self.error = error
        finally:
            self.done.release()

    def cancel(self) -> None:
        self.error = StopIteration()
        self.done.release()


_Jobs: TypeAlias = SimpleQueue[_Job[Any] | None]


class _Worker(threading.Thread):
    """A thread that runs jobs until it gets None."""

    def __init__(self, jobs: _Jobs) -> None:
        super().__init__(name="cinicpack", daemon=True)
        self._jobs = jobs
        _workers.add(self)

    def run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.run()
            # The name would otherwise keep the last result alive while the thread is idle.
            del job

    def dismiss(self) -> None:
        self._jobs.put(None)


_workers: weakref.WeakSet[_Worker] = weakref.WeakSet()


def _dismiss(jobs: _Jobs, count: int) -> None:
    """Tell threads to end after their present job, and cancel the jobs that nobody has begun.

    This does not wait: the garbage collector may call it on any thread, such as one of these, or
    one that holds a lock which these threads need.
    """
    try:
        while True:
            if (job := jobs.get_nowait()) is not None:
                job.cancel()
    except Empty:
        pass
    for _ in range(count):
        jobs.put(None)


def _join(threads: list[_Worker]) -> None:
    # A worker thread must not join its siblings: they may be waiting for a lock that it holds.
    if threading.current_thread() in threads:
        return
    for thread in threads:
        if thread.ident is not None:
            thread.join()


@atexit.register
def _end_all() -> None:
    # A daemon thread must not be in a kernel while the interpreter frees what the kernel reads.
    workers = list(_workers)
    for worker in workers:
        worker.dismiss()
    _join(workers)
