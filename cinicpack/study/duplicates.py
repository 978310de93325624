"""Images whose pixels are exactly the same."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cinicpack.jit import jit
from cinicpack.store.pack import Split
from cinicpack.study.planes import map_planes

__all__ = ["find_duplicates", "hash_images"]

# 2**64 divided by the golden ratio, made odd: multiplying mixes the low bits of a word into the
# high ones, and the shift brings those down again. Every step can be undone, so nothing is lost
# before the next word comes.
_FACTOR: Final = np.uint64(0x9E3779B97F4A7C15)
_SHIFT: Final = np.uint64(32)


def find_duplicates(splits: Sequence[Split]) -> list[NDArray[np.int64]]:
    """Find the images of some splits that have the same pixels as another one.

    Equal hashes are only a hint: what is reported was compared byte by byte.

    Returns:
        For every picture that is there more than once its rows, ascending, counted through all
        splits; in the order of the first of them.
    """
    hashes = hash_images(splits)
    order = np.argsort(hashes, kind="stable")
    starts = np.flatnonzero(np.diff(hashes[order])) + 1
    starts = np.concatenate([[0], starts, [len(order)]])
    groups = []
    for run in np.flatnonzero(np.diff(starts) > 1):
        rows = defaultdict(list)
        for row in order[starts[run] : starts[run + 1]].tolist():
            rows[_read_pixels(splits, row)].append(row)
        groups += [np.array(same) for same in rows.values() if len(same) > 1]
    return sorted(groups, key=lambda rows: int(rows[0]))


def hash_images(splits: Sequence[Split]) -> NDArray[np.uint64]:
    """Hash the pixels of every image of some splits, one after the other, to 64 bits."""
    hashes = np.empty(sum(map(len, splits)), np.uint64)

    def hash_block(rows: slice, planes: NDArray[np.uint8]) -> None:
        pixels = planes.reshape(len(planes), -1)
        # Eight bytes a step, where the size of an image allows it.
        words: Any = pixels.view(np.uint64) if pixels.shape[1] % 8 == 0 else pixels
        _hash_rows(words, hashes[rows])

    map_planes(splits, hash_block)
    return hashes


@jit
def _hash_rows(words: NDArray[Any], out: NDArray[np.uint64]) -> None:
    for row in range(len(words)):
        state = np.uint64(0)
        for word in words[row]:
            state = (state ^ np.uint64(word)) * _FACTOR
            state ^= state >> _SHIFT
        out[row] = state


def _read_pixels(splits: Sequence[Split], row: int) -> bytes:
    for split in splits:
        if row < len(split):
            break
        row -= len(split)
    return split.images[row].tobytes()
