"""Philox4x32-10 in NumPy: the generator that `cinicpack.load.draws` describes, to compare with."""

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["draw_words", "philox"]

_LOW: Final = np.uint64(0xFFFFFFFF)
_HALF: Final = np.uint64(32)


def philox(counter: ArrayLike, key: ArrayLike) -> NDArray[np.uint32]:
    """Return the four random words of every counter, (..., 4), under a key of two words."""
    a, b, c, d = np.moveaxis(np.asarray(counter, np.uint64), -1, 0)
    k, m = (int(word) for word in np.asarray(key, np.uint64))
    for _ in range(10):
        left, right = a * np.uint64(0xD2511F53), c * np.uint64(0xCD9E8D57)
        a, b = (right >> _HALF) ^ b ^ np.uint64(k), right & _LOW
        c, d = (left >> _HALF) ^ d ^ np.uint64(m), left & _LOW
        k, m = (k + 0x9E3779B9) % 2**32, (m + 0xBB67AE85) % 2**32
    return np.stack([a, b, c, d], axis=-1).astype(np.uint32)


def draw_words(seed: int, epoch: int, purpose: int, indices: ArrayLike) -> NDArray[np.uint32]:
    """Return the four words of every index for a purpose: (..., 4)."""
    indices = np.asarray(indices, np.uint64)
    counter = np.zeros((*indices.shape, 4), np.uint64)
    counter[..., 0], counter[..., 1], counter[..., 2] = indices, epoch, purpose
    return philox(counter, [seed % 2**32, seed >> 32])
