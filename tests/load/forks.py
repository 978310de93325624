"""Forks of the test's process, at the worst times."""

import ctypes
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from cinicpack.load.engine import monitor
from cinicpack.load.engine.threads import Queue

__all__ = ["held_mutex", "run_in_fork"]


def run_in_fork(function: Callable[[], None]) -> int:
    """Return the status of a forked process that calls it; it ends by a signal if that hangs."""
    child = os.fork()
    if not child:
        status = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(20)
            function()
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1]


@contextmanager
def held_mutex(queue: Queue) -> Iterator[None]:
    """Hold the mutex of a queue's engine."""
    fields: Any = monitor.ENGINE.fields
    mutex, library = ctypes.c_void_p(queue.engine + fields["mutex"][1]), ctypes.CDLL(None)
    library.pthread_mutex_lock(mutex)
    try:
        yield
    finally:
        library.pthread_mutex_unlock(mutex)
