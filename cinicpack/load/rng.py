"""Random numbers: what each word of Philox4x32-10 is used for, and the generator in NumPy.

The generator maps a counter of four 32-bit words and a key of two to four random words: J. K.
Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011. It has no state, so what
happens to a sample is a pure function of seed, epoch and index.

    key      (seed mod 2**32, seed div 2**32)
    counter  (index, epoch, stream, 0)

    stream   index        word 0      word 1     word 2
    CROP     of a sample  dy          dx         top bit: mirrored, with flip "random"
    CUTOUT   of a sample  cy          cx
    FLIP     of a sample  top bit: mirrored in even epochs, with "alternating"; epoch is 0 here
    ORDER    b            low and high word of draw 2b; words 2 and 3 of draw 2b + 1

A word is brought below n by ``word * n >> 32``, a draw of 64 bits by ``draw * n >> 64``. An order
of n samples starts as 0 to n - 1; for i from n - 1 down to 1, the values at i and at draw i,
brought below i + 1, change places.
"""

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["CROP", "CUTOUT", "FLIP", "ORDER", "draw_words", "philox"]

CROP: Final = 0
CUTOUT: Final = 1
FLIP: Final = 2
ORDER: Final = 3

_LOW: Final = np.uint64(0xFFFFFFFF)
_HALF: Final = np.uint64(32)


def philox(counter: ArrayLike, key: ArrayLike) -> NDArray[np.uint32]:
    """Return the four random words of every counter: (..., 4) uint32.

    Args:
        counter: (..., 4) words.
        key: two words.

    >>> [hex(word) for word in philox([0, 0, 0, 0], [0, 0])]
    ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    a, b, c, d = np.moveaxis(np.asarray(counter, np.uint64), -1, 0)
    k, m = (int(word) for word in np.asarray(key, np.uint64))
    for _ in range(10):
        left, right = a * np.uint64(0xD2511F53), c * np.uint64(0xCD9E8D57)
        a, b = (right >> _HALF) ^ b ^ np.uint64(k), right & _LOW
        c, d = (left >> _HALF) ^ d ^ np.uint64(m), left & _LOW
        k, m = (k + 0x9E3779B9) % 2**32, (m + 0xBB67AE85) % 2**32
    return np.stack([a, b, c, d], axis=-1).astype(np.uint32)


def draw_words(seed: int, epoch: int, stream: int, indices: ArrayLike) -> NDArray[np.uint32]:
    """Return the four words of every index in a stream: (..., 4) uint32."""
    indices = np.asarray(indices, np.uint64)
    counter = np.zeros((*indices.shape, 4), np.uint64)
    counter[..., 0], counter[..., 1], counter[..., 2] = indices, epoch, stream
    return philox(counter, [seed % 2**32, seed >> 32])
