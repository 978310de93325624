"""Choosing samples, compiled: draws by weights, and how often a sample came before."""

from typing import Any, Final

import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray

from cinicpack.jit import jit
from cinicpack.load import draws
from cinicpack.load.engine import posix
from cinicpack.load.engine.posix import array_at, record_at
from cinicpack.load.kernels import random
from cinicpack.load.kernels.random import random_words

__all__ = ["WEIGHTED", "count_occurrences", "draw_weighted"]

_u64 = np.uint64
_LOW: Final = _u64(0xFFFFFFFF)
# Counters that are worked through at once.
_COUNTERS: Final = 256

#: What `draw_weighted` draws: into int64 (number,) at ``out``, out of ``count`` samples with
#: weights, uint64 (count,), whose sum is below 2**63; and memory for it, uint64 (count + 1,).
WEIGHTED: Final = np.dtype(
    [
        (name, "u8")
        for name in ("seed", "epoch", "count", "weights", "sums", "number", "replacement", "out")
    ]
)


@jit(inlines=(draws, posix, random))
def draw_weighted(address: Any, _piece: Any) -> int:
    """Draw samples by their weights, as the `WEIGHTED` at an address says, in one piece.

    With replacement a guide says where among the sums to start looking for a draw, by its leading
    bits: H.-C. Chen and Y. Asau, "On generating random variates from an empirical distribution",
    1974. That is two steps on average. Without, the sums are a binary indexed tree: P. M. Fenwick,
    "A new data structure for cumulative frequency tables", 1994. To find a sample, and to take it
    out, is about log2(count) steps.

    Returns 1.
    """
    t = record_at(address, WEIGHTED)
    size = t.count + _u64(1)
    weights, sums = array_at(t.weights, t.count, np.uint64), array_at(t.sums, size, np.uint64)
    out = array_at(t.out, t.number, np.int64)
    total: Any = _u64(0)
    for weight in weights:
        total += weight
    guide = np.empty(t.count if t.replacement else _u64(0), np.uint32)
    top: Any = _u64(1)
    if t.replacement:
        _add_up(weights, sums, total, guide)
    else:
        _grow_tree(weights, sums)
        while top << _u64(1) < size:
            top <<= _u64(1)
    counters, words = np.zeros((_COUNTERS, 4), np.uint32), np.empty((_COUNTERS, 4), np.uint32)
    counters[:, 1], counters[:, 2] = t.epoch, draws.WEIGHTED
    for number in range(_u64(t.number)):
        block = (number >> _u64(1)) % _u64(_COUNTERS)
        half = (number & _u64(1)) << _u64(1)
        if not block and not half:
            for i in range(_u64(_COUNTERS)):
                counters[i, 0] = (number >> _u64(1)) + i
            random_words(counters, t.seed, words)
        low, high = _u64(words[block, half]), _u64(words[block, half + _u64(1)])
        rest = _high_half(low, high, total)
        if t.replacement:
            found = _u64(guide[_high_half(low, high, t.count)])
            while sums[found] <= rest:
                found += _u64(1)
            out[number] = found
        else:
            out[number] = found = _take_out(weights, sums, top, rest)
            total -= weights[found]
    return 1


@register_jitable
def _add_up(weights: Any, sums: Any, total: Any, guide: Any) -> None:
    """Write the sum up to each weight, and for every part of the total which sums lie before it."""
    count, sum_ = _u64(len(weights)), _u64(0)
    for i in range(count):
        sum_ += weights[i]
        sums[i] = sum_
    whole, left = total // count, total % count
    first: Any = _u64(0)
    for part in range(count):
        while sums[first] <= part * whole + part * left // count:
            first += _u64(1)
        guide[part] = first


@register_jitable
def _grow_tree(weights: Any, sums: Any) -> None:
    """Write sums of weights as a binary indexed tree, from place 1 on."""
    size: Any = _u64(len(sums))
    sums[0] = 0
    for i in range(_u64(1), size):
        sums[i] = weights[i - _u64(1)]
    for i in range(_u64(1), size):
        parent = i + (i & (~i + _u64(1)))
        if parent < size:
            sums[parent] += sums[i]


@register_jitable
def _take_out(weights: Any, sums: Any, top: Any, rest: Any) -> Any:
    """Find a sample in the tree, and take its weight out."""
    size: Any = _u64(len(sums))
    place: Any = _u64(0)
    step = top
    while step:
        if place + step < size and sums[place + step] <= rest:
            place += step
            rest -= sums[place]
        step >>= _u64(1)
    above: Any = place + _u64(1)
    while above < size:
        sums[above] -= weights[place]
        above += above & (~above + _u64(1))
    return place


@jit
def _high_half(low: Any, high: Any, stop: Any) -> Any:
    """Bring a draw of 64 bits below ``stop``: the high half of their product."""
    half, stop_low, stop_high = _u64(32), stop & _LOW, stop >> _u64(32)
    middle = (low * stop_low >> half) + (high * stop_low & _LOW) + (low * stop_high & _LOW)
    above = (high * stop_low >> half) + (low * stop_high >> half) + (middle >> half)
    return high * stop_high + above


@jit
def count_occurrences(order: NDArray[np.int64], count: int, out: NDArray[np.int64]) -> int:
    """Write how often each sample came before in the order, both (n,); return the most.

    ``count`` is above every sample.
    """
    seen = np.zeros(count, np.int64)
    most: Any = 0
    for i in range(_u64(len(order))):
        out[i] = seen[order[i]]
        seen[order[i]] += 1
        most = max(most, out[i])
    return int(most)
