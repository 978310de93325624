"""Jobs of compiled code that count how often each of their pieces is done, and by how many."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cinicpack.jit import jit
from cinicpack.load.engine import posix
from cinicpack.load.engine.posix import MUTEX, TIME, array_at, init_mutex, record_at
from cinicpack.load.engine.threads import Queue
from cinicpack.load.kernels.task import address_of

__all__ = ["Counting"]

#: What the jobs of a queue share: how many threads work on them, and worked at most.
_SHARED: Final = np.dtype(
    [("mutex", *MUTEX), ("now", *TIME), ("active", "i8"), ("most", "i8")], align=True
)
#: A job: how long a piece takes, in looks at the clock; which piece fails; and the counts.
_COUNTED: Final = np.dtype(
    [("shared", "u8"), ("looks", "i8"), ("failing", "i8"), ("counts", "u8")], align=True
)
_NOW: Final = np.uint64(_SHARED.fields["now"][1])  # type: ignore[index]


@jit(inlines=(posix,))
def count(address: Any, piece: Any) -> Any:
    """Count a piece."""
    job = record_at(address, _COUNTED)
    shared = record_at(job.shared, _SHARED)
    posix.lock(job.shared)
    shared.active += 1
    shared.most = max(shared.most, shared.active)
    posix.unlock(job.shared)
    for _ in range(job.looks):
        posix.read_clock(job.shared + _NOW)
    posix.lock(job.shared)
    shared.active -= 1
    array_at(job.counts, piece + 1, np.int64)[piece] += 1
    posix.unlock(job.shared)
    return 0 if piece == job.failing else 1


class Counting:
    """A queue of such jobs.

    Attributes:
        queue: the queue.
        counts: of each job that was posted, in order: how often each piece was done.
    """

    def __init__(self, places: int, num_workers: int, patience: int = 1) -> None:
        self._shared = np.zeros(1, _SHARED)
        init_mutex(self._shared.ctypes.data)
        self._jobs = np.zeros(places, _COUNTED)
        self._jobs["shared"] = self._shared.ctypes.data
        first = self._jobs.ctypes.data
        arguments = [first + place * _COUNTED.itemsize for place in range(places)]
        self.queue = Queue(address_of(count), arguments, num_workers, patience)
        self.counts: list[NDArray[np.int64]] = []

    @property
    def most(self) -> int:
        """How many threads worked on the jobs at once, at most."""
        return int(self._shared["most"][0])

    def post(self, place: int, pieces: int, looks: int = 0, failing: int = -1) -> None:
        """Post a job at a place."""
        counts = np.zeros(pieces, np.int64)
        self.counts.append(counts)
        job: Any = self._jobs[place]
        job["looks"], job["failing"], job["counts"] = looks, failing, counts.ctypes.data
        self.queue.post(place, pieces)
