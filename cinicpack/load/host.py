"""Batches in the host's memory: the kernels write them there, and there they are given."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cinicpack.load.batches import DTYPES, BatchFormat, Block, Slab
from cinicpack.load.memory import Interface, Pool, allocate_aligned
from cinicpack.load.samples import Samples
from cinicpack.load.unique import Unique

__all__ = ["HostMaker"]


class HostMaker(Unique):
    """Makes slabs of batches, in memory that is used again.

    Args:
        samples: what batches are made of.
        batch_format: dtype, layout and kind of the batches.
        slab_images: images in a slab at most.
        spares: how many slabs' memory is kept for the next slabs.
    """

    def __init__(
        self, samples: Samples, batch_format: BatchFormat, slab_images: int, spares: int
    ) -> None:
        self._samples = samples
        self._format = batch_format
        self._slab_images = slab_images
        # Labels and indices have a pool of their own: a user who keeps the labels of a whole epoch
        # must not keep its images in memory with them.
        self._images = Pool(self._allocate_images, spares)
        self._columns = Pool(self._allocate_columns, spares)

    def make(self, positions: NDArray[np.int64], edges: Sequence[int], epoch: int) -> Slab:
        """Make the samples at ``positions`` into batches with these edges."""
        images, columns = self._images.lend(), self._columns.lend()
        self._samples.fill(Block(*images.lent.flat, *columns.lent.flat), positions, epoch)
        batches = [
            self._format.batch(
                [loan.array(part) for loan in (images, columns) for part in loan.lent[edge]]
            )
            for edge in pairwise(edges)
        ]
        batches.reverse()
        return Slab(batches, None)

    def clear(self) -> None:
        """Let go of all memory that no batch needs."""
        self._images.clear()
        self._columns.clear()

    def _allocate_images(self) -> "_Memory":
        memory = allocate_aligned(self._slab_images * self._format.image_bytes)
        flat = (memory.view(DTYPES[self._format.dtype]),)
        return _Memory(flat, self._format.describe_images)

    def _allocate_columns(self) -> "_Memory":
        memory = allocate_aligned(2 * 8 * self._slab_images).view(np.int64)
        flat = (memory[: self._slab_images], memory[self._slab_images :])
        return _Memory(flat, self._format.describe_columns)


class _Memory(Unique, dict[tuple[int, int], list[Interface]]):
    """Memory for a slab, and where in it the arrays of a batch are, by its edges.

    The places are worked out once for each memory: a kernel leaves nothing of Python in the
    processor's cache, so that to describe a few arrays anew takes as long as a tenth of the pixels.

    Args:
        flat: arrays in the memory, as kernels get them.
        describe: says where in ``flat`` the batch with these edges is.
    """

    def __init__(
        self,
        flat: tuple[NDArray[Any], ...],
        describe: Callable[[tuple[NDArray[Any], ...], int, int], list[Interface]],
    ) -> None:
        self.flat = flat
        self._describe = describe

    def __missing__(self, edge: tuple[int, int]) -> list[Interface]:
        self[edge] = found = self._describe(self.flat, *edge)
        return found
