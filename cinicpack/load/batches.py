"""Batches: what the kernels wrote, as tensors or arrays."""

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cinicpack.interrupts import holding_interrupts
from cinicpack.load.engine.memory import Interface
from cinicpack.load.labels import Labels

__all__ = ["DTYPES", "Batch", "BatchFormat", "Builder", "Wrapper"]

Batch: TypeAlias = tuple[Any, ...]
Wrapper: TypeAlias = Callable[[NDArray[Any]], Any]
Builder: TypeAlias = Callable[[NDArray[Any], NDArray[Any], NDArray[np.int64]], Batch]

# How the kernels see each dtype: NumPy has no bfloat16, and numba no float16.
DTYPES: Final = {"float32": "f4", "float16": "u2", "bfloat16": "u2", "uint8": "u1"}


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

    def describe(self, count: int) -> Interface:
        """Describe for NumPy the images of a batch, but for their address."""
        height, width, kind = self.height, self.width, np.dtype(DTYPES[self.dtype])
        shape: tuple[int, ...] = (count, 3, height, width)
        strides: tuple[int, ...] | None = None
        if self.channels_last and self.output == "numpy":
            shape = (count, height, width, 3)
        elif self.channels_last:
            item = kind.itemsize
            strides = (3 * height * width * item, item, 3 * width * item, 3 * item)
        typestr = np.dtype("f2").str if self.dtype == "float16" else kind.str
        return {"version": 3, "typestr": typestr, "shape": shape, "strides": strides}

    def builder(self, looked_up: Labels | None = None) -> Builder:
        """Return what makes a batch of its images and, copied, of its labels and rows.

        Every tensor has a storage of its own, so that saving one batch saves nothing else. Where
        labels are ``looked_up``, they are those at the positions that come in their place.
        """
        if looked_up is not None:
            build, table = self.builder(), looked_up

            def build_with(
                images: NDArray[Any], positions: NDArray[np.int64], rows: NDArray[np.int64]
            ) -> Batch:
                return build(images, table.take(positions, axis=0), rows)

            return build_with
        indexed = self.return_index
        if self.output == "numpy":
            # A view, which the user may not make another dtype or shape of.
            return lambda images, labels, rows: (
                (images[:], labels.copy(), rows.copy()) if indexed else (images[:], labels.copy())
            )
        # torch is imported here, so that NumPy batches need none.
        with holding_interrupts():
            from torch import bfloat16, from_numpy

        if self.dtype == "bfloat16":
            return lambda images, labels, rows: (
                from_numpy(images).view(bfloat16),
                from_numpy(labels.copy()),
                *((from_numpy(rows.copy()),) if indexed else ()),
            )
        if indexed:
            return lambda images, labels, rows: (
                from_numpy(images), from_numpy(labels.copy()), from_numpy(rows.copy()),
            )  # fmt: skip
        return lambda images, labels, _: (from_numpy(images), from_numpy(labels.copy()))

    def wrap(self, images: NDArray[Any]) -> Any:
        """Return images as they are in a batch, without a copy."""
        if self.output == "numpy":
            return images[:]
        from torch import bfloat16, from_numpy

        return from_numpy(images).view(bfloat16) if self.dtype == "bfloat16" else from_numpy(images)

    def join(self, batches: Sequence[Batch]) -> Batch:
        """Make one batch of several; one alone is returned as it is."""
        if len(batches) == 1:
            return batches[0]
        columns = zip(*batches, strict=True)
        if self.output == "numpy":
            return tuple(map(np.concatenate, columns))
        from torch import cat

        return tuple(map(cat, columns))

    @property
    def image_bytes(self) -> int:
        """Size of an image."""
        return 3 * self.height * self.width * np.dtype(DTYPES[self.dtype]).itemsize
