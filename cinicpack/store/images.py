"""Images of a pack that lie apart: in several shards, or as a selection of rows."""

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["ScatteredImages", "Shard", "address_of"]

Shard: TypeAlias = NDArray[np.uint8]


class ScatteredImages:
    """Read-only images (N, H, W, 3) uint8 that do not lie in one run: shards, unions, selections.

    Indexing gives what it gives for ``np.asarray(images)``, and copies only the images asked for;
    the first index is an integer, a slice, an integer array or a mask of images.
    """

    dtype: Final = np.dtype(np.uint8)
    ndim: Final = 4

    def __init__(self, shards: Sequence[Shard], rows: NDArray[np.int64] | None) -> None:
        self._shards = shards
        self._starts = np.cumsum([0, *map(len, shards)])
        self._rows = np.arange(self._starts[-1]) if rows is None else rows
        _, channels, height, width = shards[0].shape
        self.shape = (len(self._rows), height, width, channels)

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"Images(shape={self.shape}, dtype=uint8)"

    def __getitem__(self, index: Any) -> NDArray[np.uint8]:
        first, *rest = (index if isinstance(index, tuple) else (index,)) or (slice(None),)
        if first is Ellipsis or first is None or isinstance(first, bool | np.bool):
            raise IndexError(f"expected the images to be indexed first, found {first!r}")
        rows = self._rows[first]
        taken = self._take(np.ravel(rows))
        if not rest:
            return taken.reshape(*rows.shape, *self.shape[1:])
        # The images asked for are taken already. NumPy combines the index that took them with the
        # rest by their kinds, so an index of the same kind stands for it here.
        all_taken = np.arange(rows.size).reshape(rows.shape)
        picked: NDArray[np.uint8] = taken[
            (slice(None) if isinstance(first, slice) else all_taken, *rest)
        ]
        return picked

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("these images lie apart in the pack: expected copy=True or None")
        return np.asarray(self[:], dtype)

    def run(self) -> NDArray[np.uint8] | None:
        """Return the images as one view (N, H, W, 3), or None where they do not lie in one run."""
        start, stop = int(self._rows[0]), int(self._rows[-1]) + 1
        if stop - start != len(self) or (np.diff(self._rows) != 1).any():
            return None
        shard = int(np.searchsorted(self._starts, start, "right")) - 1
        if stop > self._starts[shard + 1]:
            return None
        offset = int(self._starts[shard])
        return self._shards[shard][start - offset : stop - offset].transpose(0, 2, 3, 1)

    def _take(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        out = np.empty((len(rows), *self.shape[1:]), np.uint8)
        of_shard = np.searchsorted(self._starts, rows, "right") - 1
        for number in np.unique(of_shard):
            mine = np.flatnonzero(of_shard == number)
            planes = self._shards[number][rows[mine] - self._starts[number]]
            out[mine] = planes.transpose(0, 2, 3, 1)
        return out


def address_of(array: NDArray[Any]) -> np.uint64:
    """Return where the data of an array begins in memory."""
    return np.uint64(array.__array_interface__["data"][0])
