"""Equipment: what batches on the host are made with, in one epoch after the other."""

from collections import deque
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cinicpack.load.batches import BatchFormat
from cinicpack.load.engine.memory import Shelf, Slot
from cinicpack.load.engine.threads import Queue
from cinicpack.load.kernels.task import BATCHES
from cinicpack.load.mixing import Mixes, Mixing
from cinicpack.load.order import Work
from cinicpack.load.samples import Samples
from cinicpack.load.unique import Unique

__all__ = ["Equipment", "Kind", "find_equipment"]

# Images in a piece where those are read from the disk meanwhile.
_SMALL_PIECE: Final = 8


class Kind(NamedTuple):
    """What tells batches apart that cannot be made with the same equipment.

    Attributes:
        form: dtype, layout and kind of the batches.
        kernel: what makes them.
        views: of each sample.
        size: samples in a batch.
        ahead: how many batches are made while one is awaited; -1: not even that one.
        num_workers: how many threads may work at once.
    """

    form: BatchFormat
    kernel: Any
    views: int
    size: int
    ahead: int
    num_workers: int


class Equipment(Unique):
    """What batches are made with, in one epoch after the other, of whichever loader.

    Making it takes 30 µs, and what was used just before is in the cache: a third of what a short
    epoch of 250 samples takes.

    Args:
        kind: of the batches.
        samples: what they are made of.
        mixing: how they are mixed; None: not at all.
        work: of the first epoch; if that has a demand, or batches are mixed, it is the only one.

    Attributes:
        kind: as given.
        samples: of the epoch; they keep the files mapped that the engine reads.
        shelf: the memory of batches.
        slots: those of batches under way, in order.
        labels: of the batch at each place: int64 (size,), or where it is mixed float32 (size, K).
        rows: of the batch at each place: int64 (size,).
        tasks: of the batches.
        queue: where the engine gets them from.
        batches: address of the epoch's `BATCHES`.
    """

    def __init__(self, kind: Kind, samples: Samples, mixing: Mixing | None, work: Work) -> None:
        self.kind = kind
        self.samples: Samples | None = samples
        self.shelf = _find_shelf(kind.form, kind.size)
        self.slots: deque[Slot] = deque()
        # One more is made ahead of a consumer that finds its batches ready. Every second time it
        # takes one, threads are woken for two.
        places, size = kind.ahead + 2, kind.size
        columns = np.empty((places, 2, size), np.int64)
        self.labels: list[NDArray[Any]] = list(columns[:, 0])
        self.rows = list(columns[:, 1])
        piece = _plan_piece(size * max(1, places - 1), kind.num_workers)
        if work.demand is not None:
            # A piece may wait for the disk, and an interrupt for the piece.
            piece = _SMALL_PIECE
        self.tasks = samples.make_tasks(
            places, work.epoch, offset=work.offset, piece=piece, demand=work.demand
        )
        self.tasks.aim_all(columns)
        self._mixes = None if mixing is None else Mixes(mixing, self.tasks, places, size, work)
        if self._mixes is not None:
            self.labels = list(self._mixes.labels)
        self._is_for_one = _is_for_one(mixing, work)
        patience = (places - 1) // 2 + 1
        self.queue = Queue(self.tasks.function, self.tasks.addresses, kind.num_workers, patience)
        self._batches = np.zeros(BATCHES.itemsize // 8, np.uint64)
        self.batches = self._batches.ctypes.data
        self._plan(work)

    def renew(self, samples: Samples, work: Work) -> None:
        """Make the batches of an epoch of these samples from now on."""
        self.samples = samples
        samples.renew_tasks(self.tasks, work.epoch, work.offset)
        self._plan(work)

    def rest(self) -> None:
        """Wait for another epoch, of whichever loader."""
        if not self._is_for_one:
            self.samples = None
            self.tasks.forget()
            _find_idle(self.kind).append(self)

    def _plan(self, work: Work) -> None:
        """Write the `BATCHES` of an epoch."""
        queue, positions = self.queue, work.positions
        self._batches[:] = (
            queue.engine, queue.jobs[0], len(queue.jobs), queue.is_shared,
            positions.ctypes.data, len(positions), self.kind.size, work.batches, 0,
        )  # fmt: skip


def _plan_piece(images: int, num_workers: int) -> int:
    """Cut what is under way into two pieces for each thread, of a size that is worth it."""
    return max(16, min(64, images // max(1, 2 * num_workers)))


# As many kinds of batches as a program may have in turn; of others the memory is allocated anew.
@lru_cache(maxsize=16)
def _find_shelf(form: BatchFormat, size: int) -> Shelf:
    return Shelf(form.image_bytes * size, form.describe(size))


# So many loaders of a kind may take turns within their epochs.
@lru_cache(maxsize=16)
def _find_idle(_kind: Kind) -> deque[Equipment]:
    return deque(maxlen=8)


def find_equipment(kind: Kind, samples: Samples, mixing: Mixing | None, work: Work) -> Equipment:
    """Find what an epoch can be made with, or make it; the arguments are those of `Equipment`."""
    idle = None if _is_for_one(mixing, work) else _take_idle(kind)
    if idle is None:
        return Equipment(kind, samples, mixing, work)
    idle.renew(samples, work)
    return idle


def _is_for_one(mixing: Mixing | None, work: Work) -> bool:
    """Say whether what makes such batches serves one epoch alone."""
    return mixing is not None or work.demand is not None


def _take_idle(kind: Kind) -> Equipment | None:
    """Take what the last epoch of this kind was made with, if that is over and of this process."""
    idle = _find_idle(kind)
    while idle:
        try:
            equipment = idle.pop()
        except IndexError:
            # Another thread has taken the last one.
            break
        if equipment.queue.is_open:
            return equipment
    return None
