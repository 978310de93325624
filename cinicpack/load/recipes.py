"""Recipes: how the order of an epoch's samples is drawn."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from cinicpack.errors import ArgumentError
from cinicpack.load.choice import Repeated, Weighted, check_rows
from cinicpack.load.draws import BALANCED, BLOCKS, ORDER
from cinicpack.load.kernels.choice import WEIGHTED, draw_weighted
from cinicpack.load.kernels.random import SHUFFLE, shuffle
from cinicpack.load.options import Options
from cinicpack.load.samples import Samples

__all__ = ["Blocks", "InOrder", "Plan", "Recipe", "Shuffled", "make_recipe"]

Positions = NDArray[np.int64]


class Plan(NamedTuple):
    """What has to be done for the order of an epoch.

    Attributes:
        kernel: what draws, of the address of a task and the number 0.
        tasks: records for it, perhaps none.
        finish: returns the order, once the kernel has done all tasks; it keeps their memory.
    """

    kernel: Any
    tasks: NDArray[np.void]
    finish: Callable[[], Positions]


class Recipe(Protocol):
    """What an epoch is, a pure function of seed and epoch."""

    @property
    def repeats(self) -> bool:
        """Whether a sample may occur several times in an epoch."""

    @property
    def window(self) -> int | None:
        """How many samples of an epoch lie together in the files, in blocks; 1: they lie apart.

        None: all samples come as they lie in the files.
        """

    def count(self, epoch: int) -> int:
        """Count the samples of an epoch."""

    def plan(self, seed: int, epoch: int) -> Plan:
        """Say what has to be done for the order of an epoch: of positions, (n,) int64."""


class InOrder:
    """Every sample once, in order."""

    repeats = False
    window = None

    def __init__(self, count: int) -> None:
        self._count = count

    def count(self, _epoch: int) -> int:
        """Count the samples of an epoch."""
        return self._count

    def plan(self, _seed: int, _epoch: int) -> Plan:
        """Say what has to be done for the order of an epoch."""
        return _plan_nothing(lambda: np.arange(self._count))


class Shuffled:
    """Every sample several times, side by side, in a new order every epoch.

    Args:
        count: how many samples there are.
        times: how often each of them comes.
        number: how many samples an epoch has, at most ``times * count``; None: that.
    """

    window = 1

    def __init__(self, count: int, times: int = 1, number: int | None = None) -> None:
        self._samples, self._times = count, times
        self._number = times * count if number is None else min(number, times * count)
        self.repeats = times > 1

    def count(self, _epoch: int) -> int:
        """Count the samples of an epoch."""
        return self._number

    def plan(self, seed: int, epoch: int) -> Plan:
        """Say what has to be done for the order of an epoch."""
        tasks, [order] = _plan_shuffles(seed, epoch, {ORDER: self._samples})
        times, number = self._times, self._number
        if times == 1:
            return Plan(shuffle, tasks, lambda: order[:number])
        return Plan(shuffle, tasks, lambda: np.repeat(order, times)[:number])


class Blocks:
    """Every sample once, in blocks of neighbours that are drawn, and shuffled within windows.

    The samples are cut into blocks of 128, the last one perhaps shorter. The blocks follow one
    another in an order that is drawn, and every 16,384 samples of that, 128 blocks, are a window.
    The samples of a window come in the order in which they are in a permutation of all samples.
    With a single window that is the permutation itself, the order of `Shuffled`.
    """

    repeats = False
    window = 16_384
    block = 128

    def __init__(self, count: int) -> None:
        self._count = count

    def count(self, _epoch: int) -> int:
        """Count the samples of an epoch."""
        return self._count

    def plan(self, seed: int, epoch: int) -> Plan:
        """Say what has to be done for the order of an epoch."""
        count, size = self._count, self.block
        tasks, [order, blocks] = _plan_shuffles(
            seed, epoch, {ORDER: count, BLOCKS: -(-count // size)}
        )

        def finish() -> Positions:
            sizes = np.minimum(size, count - blocks * size)
            # Where each block starts among the samples, once blocks have changed places.
            starts = np.empty_like(blocks)
            starts[blocks] = np.cumsum(sizes) - sizes
            windows = (starts[order // size] + order % size) // self.window
            # NumPy sorts 16 bits ten times as fast as 64.
            kind = np.min_scalar_type(count // self.window)
            return order[np.argsort(windows.astype(kind), kind="stable")]

        return Plan(shuffle, tasks, finish)


class _Balanced:
    """As many samples as there are, and every label as often as any other, within one.

    The samples with a label take turns, in an order that is drawn for every epoch.
    """

    repeats = True
    window = 1

    def __init__(self, labels: NDArray[Any]) -> None:
        if labels.ndim > 1 or labels.dtype.kind == "f" or labels.min() < 0:
            raise ArgumentError(
                "order='balanced' goes by labels that are one integer each, of at least 0, found "
                f"others ({labels.dtype} {labels.shape}): pass order=cinicpack.Weighted(...)"
            )
        _, which, self._sizes = np.unique(labels, return_inverse=True, return_counts=True)
        # NumPy sorts 16 bits ten times as fast as 64.
        self._classes = which.astype(np.min_scalar_type(len(self._sizes)))

    def count(self, _epoch: int) -> int:
        """Count the samples of an epoch."""
        return len(self._classes)

    def plan(self, seed: int, epoch: int) -> Plan:
        """Say what has to be done for the order of an epoch."""
        counts = dict.fromkeys((BALANCED, ORDER), len(self._classes))
        tasks, [turns, order] = _plan_shuffles(seed, epoch, counts)

        def finish() -> Positions:
            by_class = turns[np.argsort(self._classes[turns], kind="stable")]
            share, left = divmod(len(turns), len(self._sizes))
            # Those that get one more are others in every epoch.
            more = (np.arange(len(self._sizes)) + epoch) % len(self._sizes) < left
            chosen = [
                own[np.arange(number) % len(own)]
                for own, number in zip(
                    np.split(by_class, np.cumsum(self._sizes)[:-1]), share + more, strict=True
                )
            ]
            return np.concatenate(chosen)[order]

        return Plan(shuffle, tasks, finish)


class _ByWeight:
    """Samples drawn by weights, (N,) float64, see `Weighted`."""

    window = 1

    def __init__(self, weights: NDArray[np.float64], replacement: bool, number: int) -> None:
        possible = np.count_nonzero(weights)
        if not possible:
            raise ArgumentError(
                f"expected some weight above 0 among the {len(weights)} rows of the loader, found "
                "none"
            )
        if not replacement and number > possible:
            raise ArgumentError(
                f"expected at least as many weights above 0 as samples without replacement, found "
                f"{possible} for {number}: pass num_samples={possible}, or replacement=True"
            )
        self.repeats = replacement
        self._number = number
        # Whole numbers, whose sums are exact on every machine, and below 2**63.
        bits = 62 - len(weights).bit_length()
        scaled = np.rint(np.ldexp(weights / weights.max(), bits))
        self._weights = np.maximum(scaled, weights > 0).astype(np.uint64)

    def count(self, _epoch: int) -> int:
        """Count the samples of an epoch."""
        return self._number

    def plan(self, seed: int, epoch: int) -> Plan:
        """Say what has to be done for the order of an epoch."""
        weights, count = self._weights, len(self._weights)
        sums, order = np.empty(count + 1, np.uint64), np.empty(self._number, np.int64)
        tasks = np.zeros(1, WEIGHTED)
        tasks[0] = (
            seed, epoch, count, weights.ctypes.data, sums.ctypes.data, self._number, self.repeats,
            order.ctypes.data,
        )  # fmt: skip
        memory = (weights, sums, order)
        return Plan(draw_weighted, tasks, lambda: memory[-1])


class _Given:
    """The samples of rows that are given: for all epochs, or by a function of the epoch."""

    repeats = True
    window = 1

    def __init__(self, order: Any, rows: Positions) -> None:
        self._order, self._rows = order, rows
        self._positions = None if callable(order) else self._find("order", order)

    def count(self, epoch: int) -> int:
        """Count the samples of an epoch."""
        return len(self._get(epoch))

    def plan(self, _seed: int, epoch: int) -> Plan:
        """Say what has to be done for the order of an epoch."""
        return _plan_nothing(lambda: self._get(epoch))

    def _get(self, epoch: int) -> Positions:
        if self._positions is not None:
            return self._positions
        return self._find(f"order({epoch})", self._order(epoch))

    def _find(self, name: str, given: Any) -> Positions:
        return np.searchsorted(self._rows, check_rows(name, given, self._rows))


def make_recipe(options: Options, samples: Samples) -> Recipe:
    """Make the recipe of a loader's epochs.

    Raises `ArgumentError` for an order that is not possible with the rows that the loader has.
    """
    order, count = options.order, len(samples)
    if order is None:
        if options.shuffle == "blocks":
            return Blocks(count)
        return Shuffled(count) if options.shuffle else InOrder(count)
    if isinstance(order, Repeated):
        return Shuffled(count, order.k, order.num_samples)
    if isinstance(order, Weighted):
        weights = np.asarray(order.weights)[samples.rows]
        return _ByWeight(weights, order.replacement, order.num_samples or count)
    return _Balanced(samples.labels) if isinstance(order, str) else _Given(order, samples.rows)


def _plan_nothing(finish: Callable[[], Positions]) -> Plan:
    return Plan(None, np.zeros(0, SHUFFLE), finish)


def _plan_shuffles(
    seed: int, epoch: int, counts: Mapping[int, int]
) -> tuple[NDArray[np.void], list[Positions]]:
    """Describe permutations of 0 to count - 1, each for a purpose, and where they will be."""
    orders = [np.empty(count, np.int64) for count in counts.values()]
    tasks = np.zeros(len(counts), SHUFFLE)
    for place, (order, purpose) in enumerate(zip(orders, counts, strict=True)):
        tasks[place] = (seed, epoch, purpose, len(order), order.ctypes.data)
    return tasks, orders
