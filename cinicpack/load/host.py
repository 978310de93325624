"""Batches in the host's memory: the kernels write them there, and there they are given."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from cinicpack.load.batches import DTYPES, BatchFormat, Block, Slab
from cinicpack.load.memory import Interface, Pool, allocate
from cinicpack.load.samples import Samples

__all__ = ["HostMaker"]


class HostMaker:
    """Makes slabs of batches, in memory that is used again.

    Args:
        samples: what batches are made of.
        batch_format: dtype, layout and kind of the batches.
        slab_images: images in a slab at most.
        spares: slabs that are kept for use again.
    """

    def __init__(
        self, samples: Samples, batch_format: BatchFormat, slab_images: int, spares: int
    ) -> None:
        self._samples = samples
        self._format = batch_format
        # Apart, since many keep the labels of a whole epoch, and must not keep its images so.
        self._images = Pool(lambda: _Images(batch_format, slab_images), spares)
        self._columns = Pool(lambda: _Columns(batch_format, slab_images), spares)

    def make(self, positions: NDArray[np.int64], edges: Sequence[int], epoch: int) -> Slab:
        """Make the samples at ``positions`` into batches with these edges."""
        images, columns = self._images.lend(), self._columns.lend()
        self._samples.fill(Block(images.lent.flat, *columns.lent.flat), positions, epoch)
        batches = [
            self._format.batch(
                [
                    images.array(images.lent[edge]),
                    *[columns.array(part) for part in columns.lent[edge]],
                ]
            )
            for edge in pairwise(edges)
        ]
        batches.reverse()
        return Slab(batches, None)

    def clear(self) -> None:
        """Let go of all memory that no batch needs."""
        self._images.clear()
        self._columns.clear()


class _Images(dict[tuple[int, int], Interface]):
    """Memory for the images of a slab, and where in it those of a batch are, by its edges.

    Both are worked out once: after a kernel nothing of Python is left in the cache, so that making
    a few arrays anew takes as long as a tenth of the pixels.
    """

    def __init__(self, batch_format: BatchFormat, slab_images: int) -> None:
        self._format = batch_format
        memory = allocate(slab_images * batch_format.image_bytes)
        self.flat = memory.view(DTYPES[batch_format.dtype])

    def __missing__(self, edge: tuple[int, int]) -> Interface:
        self[edge] = found = self._format.describe_images(self.flat, *edge)
        return found


class _Columns(dict[tuple[int, int], list[Interface]]):
    """Memory for the labels and rows of a slab, likewise."""

    def __init__(self, batch_format: BatchFormat, slab_images: int) -> None:
        self._format = batch_format
        memory = allocate(2 * 8 * slab_images).view(np.int64)
        self.flat = (memory[:slab_images], memory[slab_images:])

    def __missing__(self, edge: tuple[int, int]) -> list[Interface]:
        self[edge] = found = self._format.describe_columns(self.flat, *edge)
        return found
