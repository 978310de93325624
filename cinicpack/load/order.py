"""Order: which samples an epoch gives, in which sequence, and on which rank."""

import math
from contextlib import suppress
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cinicpack.errors import ArgumentError
from cinicpack.load.engine.threads import ClosedQueueError, Queue
from cinicpack.load.kernels.choice import count_occurrences
from cinicpack.load.kernels.task import address_of
from cinicpack.load.recipes import Plan, Recipe
from cinicpack.load.unique import Unique

__all__ = ["Orders", "Share", "Work", "draw_order", "number_occurrences"]

# An order of so many samples takes 30 µs, as long as it takes to let a thread draw it.
_WORTHWHILE: Final = 10_000
# The counter of a sample's draws has 16 bits for how often its row came before.
_MOST: Final = 2**16


def draw_order(recipe: Recipe, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the order of an epoch's samples: (n,) int64, positions."""
    plan = recipe.plan(seed, epoch)
    for task in range(len(plan.tasks)):
        plan.kernel(np.uint64(plan.tasks[task:].ctypes.data), 0)
    return plan.finish()


def number_occurrences(order: NDArray[np.int64], count: int) -> NDArray[np.int64] | None:
    """Return how often each sample came before in the order, (n,); None: never.

    ``count`` is above every sample. Raises `ArgumentError` where one occurs too often.
    """
    occurrences = np.empty_like(order)
    most = count_occurrences(order, count, occurrences)
    if most >= _MOST:
        raise ArgumentError(
            f"expected each row up to {_MOST} times in an epoch, found one {most + 1} times: have "
            "fewer samples in an epoch"
        )
    return occurrences if most else None


class Share(NamedTuple):
    """What a rank takes of an epoch.

    Global batch k is positions [k * B * W, (k + 1) * B * W) of what is left of the epoch's order;
    rank r takes every W-th of it, from the r-th on. So runs with equal B * W see the same global
    batches, every rank has the same number of batches, and a rank without a share in the last one
    has an empty batch there.

    Attributes:
        batch_size: B.
        rank: r.
        world_size: W.
        drop_last: leave out the global batch that is not full.
    """

    batch_size: int
    rank: int
    world_size: int
    drop_last: bool

    @property
    def step(self) -> int:
        """Samples in a global batch."""
        return self.batch_size * self.world_size

    def batches(self, left: int) -> int:
        """Count the batches of ``left`` samples."""
        return left // self.step if self.drop_last else math.ceil(left / self.step)

    def take(self, order: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the samples of this rank: all its batches, which are full but for the last."""
        mine = order[self.rank :: self.world_size]
        if self.drop_last:
            mine = mine[: self.batches(len(order)) * self.batch_size]
        return np.ascontiguousarray(mine)


class Work(NamedTuple):
    """What the batches of a rank are made of, in an epoch or the rest of one.

    Attributes:
        positions: (n,) int64, the samples, in order.
        batches: how many batches there are; the last ones may have few samples, or none.
        epoch: the epoch that the samples are of.
        occurrences: (n,) int64, how often each came before in the epoch; None: never.
        place: of the first sample that any rank has of these batches, in the epoch.
        step: how much further that of the next batch is.
    """

    positions: NDArray[np.int64]
    batches: int
    epoch: int
    occurrences: NDArray[np.int64] | None = None
    place: int = 0
    step: int = 0

    @property
    def offset(self) -> int:
        """Say how many bytes behind each position its occurrence lies; 0: there are none."""
        if self.occurrences is None:
            return 0
        return self.occurrences.ctypes.data - self.positions.ctypes.data


class Orders(Unique):
    """Draws the order of every epoch, that of the next one while an epoch goes on.

    Args:
        recipe: what the order is.
        samples: how many there are.
        seed: of the orders.
        ahead: whether a thread of the engine may draw the next one.
    """

    def __init__(self, recipe: Recipe, samples: int, *, seed: int, ahead: bool) -> None:
        self._recipe = recipe
        self._samples = samples
        self._seed = seed
        self._ahead = ahead
        self._next: _Drawing | None = None

    def count(self, epoch: int) -> int:
        """Count the samples that all ranks together have in an epoch."""
        return self._recipe.count(epoch)

    def take(self, share: Share, epoch: int, consumed: int) -> Work:
        """Return what a rank makes batches of, after ``consumed`` samples of an epoch."""
        drawing, self._next = self._next, None
        order = None
        if drawing is not None and drawing.epoch == epoch:
            # A fork has left the drawing to its parent.
            with suppress(ClosedQueueError):
                order = drawing.wait()
        if order is None:
            order = draw_order(self._recipe, self._seed, epoch)
        occurrences = None
        if self._recipe.repeats:
            occurrences = number_occurrences(order, self._samples)
        return Work(
            share.take(order[consumed:]),
            share.batches(max(0, len(order) - consumed)),
            epoch,
            None if occurrences is None else share.take(occurrences[consumed:]),
            consumed,
            share.step,
        )

    def prepare(self, epoch: int) -> None:
        """Draw the order of an epoch meanwhile, where that takes long."""
        if self._ahead and self._samples >= _WORTHWHILE:
            plan = self._recipe.plan(self._seed, epoch)
            if len(plan.tasks):
                self._next = _Drawing(plan, epoch)

    def reseed(self, seed: int) -> None:
        """Draw from another seed from now on."""
        self._seed, self._next = seed, None

    def clear(self) -> None:
        """Forget what was drawn ahead."""
        self._next = None


class _Drawing(Unique):
    """An order that a thread of the engine draws."""

    def __init__(self, plan: Plan, epoch: int) -> None:
        self.epoch = epoch
        self._plan = plan
        first, places = plan.tasks.ctypes.data, range(len(plan.tasks))
        tasks = [first + place * plan.tasks.itemsize for place in places]
        self._queue = Queue(address_of(plan.kernel), tasks, 1)
        for place in places:
            self._queue.post(place, 1)

    def __del__(self) -> None:
        if hasattr(self, "_queue"):
            self._queue.close()

    def wait(self) -> NDArray[np.int64]:
        for place in range(len(self._plan.tasks)):
            self._queue.wait(place)
        return self._plan.finish()
