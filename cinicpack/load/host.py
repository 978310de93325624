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
        self._pool = Pool(lambda: _Memory(batch_format, slab_images), spares)

    def make(self, positions: NDArray[np.int64], edges: Sequence[int], epoch: int) -> Slab:
        """Make the samples at ``positions`` into batches with these edges."""
        loan = self._pool.lend()
        # Apart from the images, since many keep the labels of a whole epoch.
        labels, rows = allocate(2 * 8 * len(positions)).view(np.int64).reshape(2, len(positions))
        self._samples.fill(Block(loan.lent.images, labels, rows), positions, epoch)
        batches = [
            self._format.batch(
                loan.array(loan.lent.describe(start, stop)), labels[start:stop], rows[start:stop]
            )
            for start, stop in pairwise(edges)
        ]
        batches.reverse()
        return Slab(batches, None)

    def clear(self) -> None:
        """Let go of all memory that no batch needs."""
        self._pool.clear()


class _Memory:
    """Memory for the images of a slab, and how its batches lie in it.

    Both are worked out once: after a kernel nothing of Python is left in the cache, so that making
    a few arrays anew takes as long as a tenth of the pixels.
    """

    def __init__(self, batch_format: BatchFormat, slab_images: int) -> None:
        self._format = batch_format
        memory = allocate(slab_images * batch_format.image_bytes)
        self.images = memory.view(DTYPES[batch_format.dtype])
        self._described: dict[tuple[int, int], Interface] = {}

    def describe(self, start: int, stop: int) -> Interface:
        """Describe the images of the batch that is made of these samples of the slab."""
        try:
            return self._described[start, stop]
        except KeyError:
            found = self._format.describe(self.images, start, stop)
            self._described[start, stop] = found
            return found
