"""Batches in the host's memory: the kernels write them there, and there they are given."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cinicpack.load.batches import BatchFormat, Slab
from cinicpack.load.memory import Pool, allocate
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
        self._pool = Pool(batch_format.nbytes(slab_images), spares, allocate)

    def make(self, positions: NDArray[np.int64], edges: Sequence[int], epoch: int) -> Slab:
        """Make the samples at ``positions`` into batches with these edges."""
        block = self._format.block(self._pool.lend(), len(positions))
        self._samples.fill(block, positions, epoch)
        return Slab(self._format.batches(block, edges), None)

    def clear(self) -> None:
        """Let go of all memory that no batch needs."""
        self._pool.clear()
