"""Batches: what the kernels wrote, as tensors or arrays that share one block of memory."""

from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cinicpack.load.memory import Interface

__all__ = ["DTYPES", "Batch", "BatchFormat", "Block", "Slab"]

Batch: TypeAlias = tuple[Any, ...]

# How the kernels see each dtype: NumPy has no bfloat16, and numba no float16.
DTYPES: Final = {"float32": "f4", "float16": "u2", "bfloat16": "u2", "uint8": "u1"}

_CACHE_LINE: Final = 64


class Block(NamedTuple):
    """The arrays that a kernel fills for n samples.

    Attributes:
        images: flat, of the type that `DTYPES` gives; n * 3 * H * W elements.
        labels: (n,) int64.
        rows: (n,) int64, the index of every sample.
    """

    images: NDArray[Any]
    labels: NDArray[np.int64]
    rows: NDArray[np.int64]


class Slab(NamedTuple):
    """Batches that were made at once.

    Attributes:
        batches: the first one last.
        receive: what each batch has to be given to when it is handed out; None on the host.
    """

    batches: list[Batch]
    receive: Callable[[Batch], None] | None


class BatchFormat(NamedTuple):
    """How batches are given to the user.

    Attributes:
        dtype: a key of `DTYPES`.
        height: of the images.
        width: of the images.
        channels_last: whether a pixel's channels lie side by side.
        output: "torch" or "numpy".
        return_index: whether a batch has a third member.
    """

    dtype: str
    height: int
    width: int
    channels_last: bool
    output: str
    return_index: bool

    def nbytes(self, count: int) -> int:
        """Size of the memory for ``count`` samples."""
        return self._labels_start(count) + 2 * 8 * count

    def block(self, memory: NDArray[np.uint8], count: int) -> Block:
        """Lay the arrays for ``count`` samples into memory of ``nbytes(count)`` or more."""
        start = self._labels_start(count)
        middle, end = start + 8 * count, start + 16 * count
        images = memory[: count * self.image_bytes].view(DTYPES[self.dtype])
        return Block(images, memory[start:middle].view("i8"), memory[middle:end].view("i8"))

    def describe_images(
        self, flat: tuple[NDArray[Any], ...], start: int, stop: int
    ) -> list[Interface]:
        """Describe for NumPy the images of a batch, from ``start`` to ``stop`` of a block."""
        [images] = flat
        height, width, count = self.height, self.width, stop - start
        item = np.dtype(DTYPES[self.dtype]).itemsize
        shape: tuple[int, ...] = (count, 3, height, width)
        strides: tuple[int, ...] | None = None
        if self.channels_last and self.output == "numpy":
            shape = (count, height, width, 3)
        elif self.channels_last:
            strides = (3 * height * width * item, item, 3 * width * item, 3 * item)
        return [
            {
                "version": 3,
                "data": (images.ctypes.data + start * self.image_bytes, False),
                "typestr": (np.dtype("f2") if self.dtype == "float16" else images.dtype).str,
                "shape": shape,
                "strides": strides,
            }
        ]

    def describe_columns(
        self, columns: tuple[NDArray[Any], ...], start: int, stop: int
    ) -> list[Interface]:
        """Describe for NumPy the labels of a batch, and its rows if the user asked for an index."""
        return [
            {
                "version": 3,
                "data": (column.ctypes.data + 8 * start, False),
                "typestr": column.dtype.str,
                "shape": (stop - start,),
                "strides": None,
            }
            for column in (columns if self.return_index else columns[:1])
        ]

    def batch(self, columns: list[NDArray[Any]]) -> Batch:
        """Give the arrays of a batch, images first, as the user receives it.

        Every tensor has a storage of its own, so that saving one batch does not save its slab.
        """
        if self.output == "numpy":
            return tuple(columns)
        tensors = list(map(_torch().from_numpy, columns))
        if self.dtype == "bfloat16":
            tensors[0] = tensors[0].view(_torch().bfloat16)
        return tuple(tensors)

    @property
    def image_bytes(self) -> int:
        """Size of an image."""
        return 3 * self.height * self.width * np.dtype(DTYPES[self.dtype]).itemsize

    def _labels_start(self, count: int) -> int:
        size = count * self.image_bytes
        return size + -size % _CACHE_LINE


@cache
def _torch() -> ModuleType:
    # torch is imported here, so that NumPy batches need none, and only once (the cache), since to
    # look an import up costs as much as to make a tensor.
    import torch

    return torch
