"""The pixels of splits, a block of images after the other, on all cores."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from cinicpack.cores import usable_cores
from cinicpack.store.split import Split

__all__ = ["map_planes"]

Result = TypeVar("Result")

# Images in a block, 3 MB of 32x32: enough work for one call, and little to hold where a selection
# has to be copied.
_BLOCK: Final = 1024


def map_planes(
    splits: Sequence[Split], function: Callable[[slice, NDArray[np.uint8]], Result]
) -> list[Result]:
    """Call ``function(rows, planes)`` for every block of images; return the results in order.

    ``rows`` counts through all splits. ``planes`` is C-contiguous, (n, 3, H * W): the pack itself
    where the images of a split lie in one run, else a copy. Calls run at the same time in as many
    threads as there are cores, so ``function`` should spend its time without the GIL.
    """

    def call(block: tuple[Split, int, int]) -> Result:
        split, before, start = block
        images = split.images[start : start + _BLOCK]
        planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        rows = slice(before + start, before + start + len(planes))
        return function(rows, planes.reshape(len(planes), 3, -1))

    blocks = []
    before = 0
    for split in splits:
        blocks += [(split, before, start) for start in range(0, len(split), _BLOCK)]
        before += len(split)
    with ThreadPoolExecutor(usable_cores()) as pool:
        return list(pool.map(call, blocks))
