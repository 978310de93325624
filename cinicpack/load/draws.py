"""Draws: what is drawn for a sample, from which random words, into which column.

The words come from Philox4x32-10, which maps a counter of four 32-bit words and a key of two to
four random words: J. K. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011. The
generator has no state, so what happens to a sample is a pure function of seed, epoch and index.

    key      (seed mod 2**32, seed div 2**32)
    counter  (index, epoch, purpose, use)

    purpose  index        words
    CROP     of a sample  0: dy; 1: dx; 2: mirror, with flip "random"
    CUTOUT   of a sample  0: cy; 1: cx
    FLIP     of a sample  0: mirror in even epochs, with "alternating", the other way round in odd
                          ones; the counter's epoch is always 0
    BALANCED b            as ORDER: of the turns that samples with the same label take
    MIX      of a batch   0: which of the mixes; 1: the partners; 2: cx, 3: cy of CutMix's box
    ORDER    b            0, 1: low and high word of draw 2b; 2, 3: those of draw 2b + 1
    VERTICAL of a sample  0: upside_down
    WEIGHTED b            as ORDER: draw b is for the sample at place b of an epoch

The use is view + 2**16 * occurrence: which view of the sample it is, and how often its row came in
the epoch before; of an order it is 0. So the first view of a sample draws what a loader without
views does. The index of a batch is the place in the epoch of the first sample that any rank has of
it, mod 2**32, and its use 2**16 * (place div 2**32), plus the number of a try.

A word is brought below n by ``word * n >> 32``, a draw of 64 bits by ``draw * n >> 64``. An order
of n samples starts as 0 to n - 1; for i from n - 1 down to 1, the values at i and at draw i,
brought below i + 1, change places. Draws by weights are brought below the sum of the weights, and
stand for the first sample with which the sum of the weights so far is above that.

The share that a sample keeps in a mix is Beta(alpha, alpha), as a multiple of 2**-24. Words 0 and 1
of try 1, 2, ... are u and v, as (2 * word + 1) / 2**33. With alpha up to 1 the share is x / (x + y)
for x = u**(1 / alpha), y = v**(1 / alpha), from the first try where x + y <= 1 (M. D. Jöhnk, 1964);
above it is 1/2 + u * w / s * sqrt(1 - s**(2 / (2 * alpha - 1))) for w = 2 * v - 1, s = u**2 + w**2,
from the first where s <= 1 (L. Devroye, "Non-Uniform Random Variate Generation", 1986, p. 437).
Powers are made of `LOG2` and `EXP2` by what IEEE 754 rounds correctly: no machine's own logarithm
has a part in it.

To add a column: a name in `COLUMNS`, a constant for its place, a line in `plan_draws`. A new
purpose takes a new number, and no number is ever used for a second purpose.
"""

from itertools import accumulate
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cinicpack.load.augment import Augment

__all__ = [
    "BALANCED", "COLUMNS", "COUNT", "CROP", "CUTOUT", "CX", "CY", "DX", "DY", "EXP2", "FLIP",
    "LOG2", "MIRROR", "MIX", "ORDER", "ROOT", "UPSIDE_DOWN", "VERTICAL", "WEIGHTED", "Draw",
    "plan_draws",
]  # fmt: skip

CROP: Final = 0
CUTOUT: Final = 1
FLIP: Final = 2
ORDER: Final = 3
VERTICAL: Final = 4
BALANCED: Final = 5
WEIGHTED: Final = 6
MIX: Final = 7

_LN2: Final = 0.6931471805599453
# log2(x) is the sum of LOG2[k] * s**(2 * k + 1) for s = (x - 1) / (x + 1), from ROOT to 1 / ROOT.
ROOT: Final = 0.7071067811865476
LOG2: Final = tuple(2 / (2 * k + 1) / _LN2 for k in range(12))
# 2**x is the sum of EXP2[k] * x**k, from -1/2 to 1/2. Each is the one before, times ln(2), over k.
EXP2: Final = tuple(accumulate(range(1, 15), lambda value, k: value * _LN2 / k, initial=1.0))

# dy, dx: where the crop starts in the padded image; mirror, upside_down: 0 or 1; (cy, cx): the
# cutout's centre.
COLUMNS: Final = ("dy", "dx", "mirror", "cy", "cx", "upside_down")
COUNT: Final = len(COLUMNS)
# Numba and Triton compile the places of the columns in as constants.
DY: Final = COLUMNS.index("dy")
DX: Final = COLUMNS.index("dx")
MIRROR: Final = COLUMNS.index("mirror")
CY: Final = COLUMNS.index("cy")
CX: Final = COLUMNS.index("cx")
UPSIDE_DOWN: Final = COLUMNS.index("upside_down")


class Draw(NamedTuple):
    """How a column is drawn.

    Attributes:
        purpose: which words it is drawn from; columns of one purpose stand side by side in
            `COLUMNS`, so that their words are made once.
        word: 0 to 3, which one of the four.
        values: how many values there are, from 0 on; 0: not drawn, the column is 0.
    """

    purpose: int
    word: int
    values: int


def plan_draws(augment: Augment, height: int, width: int) -> NDArray[np.int64]:
    """Say how every column is drawn for images of a size.

    Returns:
        (COUNT, 3) of purpose, word and values, in the order of `COLUMNS`.

    >>> plan_draws(Augment(crop_padding=4, flip=None), 32, 32).tolist()
    [[0, 0, 9], [0, 1, 9], [0, 2, 0], [1, 0, 0], [1, 1, 0], [4, 0, 0]]
    """
    offsets = 2 * augment.crop_padding + 1 if augment.crop_padding else 0
    mirror = {
        None: Draw(CROP, 2, 0),
        "random": Draw(CROP, 2, 2),
        "alternating": Draw(FLIP, 0, 2),
    }
    drawn = {
        "dy": Draw(CROP, 0, offsets),
        "dx": Draw(CROP, 1, offsets),
        "mirror": mirror[augment.flip],
        "cy": Draw(CUTOUT, 0, height if augment.cutout else 0),
        "cx": Draw(CUTOUT, 1, width if augment.cutout else 0),
        "upside_down": Draw(VERTICAL, 0, 2 if augment.vertical_flip else 0),
    }
    return np.array([drawn[name] for name in COLUMNS], np.int64)
