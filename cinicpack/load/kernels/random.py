"""Random numbers, compiled: Philox4x32-10, orders and draws, as `cinicpack.load.draws` has them."""

from typing import Any, Final

import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray

from cinicpack.jit import jit
from cinicpack.load import draws
from cinicpack.load.engine import posix
from cinicpack.load.engine.posix import array_at, record_at

__all__ = ["SHUFFLE", "draw", "random_words", "shuffle"]

_u64 = np.uint64
# Counters that are worked through at once: 8 kB of words.
_COUNTERS: Final = 256
_LOW: Final = 0xFFFFFFFF


@jit
def _philox(words: NDArray[np.uint64], count: Any, seed: np.uint64) -> None:
    """Replace the first ``count`` counters by their random words.

    Counter i is words[0, i] to words[3, i], each below 2**32. All counters take a round before any
    takes the next one, so that LLVM makes vectors of them: three times as fast as one counter after
    the other.
    """
    k, m = seed & _u64(_LOW), seed >> _u64(32)
    for _ in range(10):
        for i in range(_u64(count)):
            left, right = words[0, i] * _u64(0xD2511F53), words[2, i] * _u64(0xCD9E8D57)
            words[0, i] = (right >> _u64(32)) ^ words[1, i] ^ k
            words[2, i] = (left >> _u64(32)) ^ words[3, i] ^ m
            words[1, i], words[3, i] = right & _u64(_LOW), left & _u64(_LOW)
        k, m = (k + _u64(0x9E3779B9)) & _u64(_LOW), (m + _u64(0xBB67AE85)) & _u64(_LOW)


@register_jitable
def _below(word: Any, stop: Any) -> Any:
    """Bring a random word below ``stop``."""
    return (word * _u64(stop)) >> _u64(32)


@jit
def random_words(counters: NDArray[np.uint32], seed: np.uint64, out: NDArray[np.uint32]) -> None:
    """Write the four random words of every counter, both (n, 4)."""
    words = counters.T.astype(np.uint64)
    _philox(words, len(counters), seed)
    out[:] = words.T


#: What `shuffle` draws, and for which purpose: an order of ``count`` samples, below 2**32, into
#: int64 (count,) at ``out``.
SHUFFLE: Final = np.dtype([(name, "u8") for name in ("seed", "epoch", "purpose", "count", "out")])


@jit(inlines=(posix,))
def shuffle(address: Any, _piece: Any) -> int:
    """Draw a permutation of 0 to ``count`` - 1, as the `SHUFFLE` at an address says, in one piece.

    Returns 1.
    """
    t = record_at(address, SHUFFLE)
    count, seed, epoch = np.int64(t.count), t.seed, t.epoch
    words = np.empty((4, _COUNTERS), np.uint64)
    # 32 bits, half as wide as the result, so that more of the order stays in the cache.
    order = np.arange(count).astype(np.uint32)
    i: Any = _u64(max(count, 1) - 1)
    while i:
        # A counter gives the draws for two places.
        first = (i >> _u64(1)) // _u64(_COUNTERS) * _u64(_COUNTERS)
        for block in range(_u64(_COUNTERS)):
            words[0, block], words[1, block] = first + block, epoch
            words[2, block], words[3, block] = t.purpose, 0
        _philox(words, _COUNTERS, seed)
        while i >> _u64(1) >= first and i:
            block, half = (i >> _u64(1)) - first, (i & _u64(1)) << _u64(1)
            low, high = words[half, block], words[half + _u64(1), block]
            stop = i + _u64(1)
            # The high half of a product of 64 bits by 32.
            j = (high * stop + ((low * stop) >> _u64(32))) >> _u64(32)
            order[i], order[j] = order[j], order[i]
            i -= _u64(1)
    out = array_at(t.out, t.count, np.int64)
    for place in range(t.count):
        out[place] = order[place]
    return 1


@jit(inlines=(draws,))
def draw(
    index: NDArray[np.int64],
    uses: NDArray[np.int64],
    seed: np.uint64,
    epoch: np.uint64,
    plan: NDArray[np.int64],
    out: NDArray[np.int32],
) -> None:
    """Write what is drawn for the first n samples of ``index``.

    Args:
        index: rows of the samples, below 2**32; at least n.
        uses: which use of its row each sample is: view + 2**16 * occurrence; at least n.
        seed: any 64 bits.
        epoch: below 2**32.
        plan: (COUNT, 3), what `draws.plan_draws` gives.
        out: (n, COUNT), in the order of `draws.COLUMNS`; what is not drawn is 0.
    """
    words = np.empty((4, _COUNTERS), np.uint64)
    for start in range(_u64(0), _u64(len(out)), _u64(_COUNTERS)):
        count = min(_u64(_COUNTERS), _u64(len(out)) - start)
        samples, rows = index[start : start + count], out[start : start + count]
        use = uses[start : start + count]
        made = np.int64(-1)
        for column in range(draws.COUNT):
            purpose, word, values = plan[column, 0], _u64(plan[column, 1]), plan[column, 2]
            alternates = purpose == draws.FLIP
            if values and purpose != made:
                _make_words(samples, use, _u64(0) if alternates else epoch, purpose, seed, words)
                made = purpose
            turned = epoch & _u64(1) if alternates else _u64(0)
            for i in range(count):
                rows[i, column] = (_below(words[word, i], values) ^ turned) if values else 0


@jit
def _make_words(
    samples: NDArray[np.int64],
    uses: NDArray[np.int64],
    epoch: Any,
    purpose: int,
    seed: Any,
    words: NDArray[np.uint64],
) -> None:
    for i in range(_u64(len(samples))):
        words[0, i], words[1, i] = samples[i], epoch
        words[2, i], words[3, i] = purpose, uses[i]
    _philox(words, len(samples), seed)
