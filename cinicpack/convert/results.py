"""Results: what became of all images, joined from what workers found out about some of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cinicpack.convert.conversion import Converted

__all__ = ["ConvertedImages", "join"]


@dataclass(frozen=True)
class ConvertedImages:
    """All n images of a source, converted, in the order in which they came.

    Attributes:
        scratches: the files that have their planes.
        scratch: (n,) int64, place of each image's file in ``scratches``.
        offsets: (n,) int64, where in it each image is; -1 for one that is bad.
        shapes: (n, 2) int32, height and width.
        digests: (n, 32) uint8, as `store.format` defines them.
        sums: (n, 6) int64, sum and sum of squares of each channel.
        provenance: (n,) provenance, from the file names.
        bad: number and reason of every bad image.
        reduced: numbers of images with 16 bits per channel, of which Pillow keeps 8.
        recoloured: number and former kind of every image that was not RGB.
    """

    scratches: list[str]
    scratch: NDArray[np.int64]
    offsets: NDArray[np.int64]
    shapes: NDArray[np.int32]
    digests: NDArray[np.uint8]
    sums: NDArray[np.int64]
    provenance: NDArray[np.void]
    bad: dict[int, str]
    reduced: list[int]
    recoloured: dict[int, str]

    def image_shape(self, rows: NDArray[np.int64]) -> tuple[int, int, int]:
        """Return height, width and channels of the first of these images, and so of all."""
        height, width = self.shapes[rows[0]].tolist()
        return height, width, 3

    def origins(self, rows: NDArray[np.int64]) -> list[int]:
        """Return the origins that occur among these images, ascending."""
        found: list[int] = np.unique(self.provenance["origin"][rows]).tolist()
        return found


def join(results: Sequence[Converted]) -> ConvertedImages:
    """Join the results of all tasks, in their order."""
    scratches = sorted({result.scratch for result in results})
    starts = np.cumsum([0, *(len(result.offsets) for result in results)]).tolist()
    of_result = [
        np.full(len(result.offsets), scratches.index(result.scratch)) for result in results
    ]
    return ConvertedImages(
        scratches=scratches,
        scratch=np.concatenate(of_result),
        offsets=np.concatenate([result.offsets for result in results]),
        shapes=np.concatenate([result.shapes for result in results]),
        digests=np.concatenate([result.digests for result in results]),
        sums=np.concatenate([result.sums for result in results]),
        provenance=np.concatenate([result.provenance for result in results]),
        bad={
            start + position: reason
            for start, result in zip(starts, results, strict=False)
            for position, reason in result.bad
        },
        reduced=[
            start + position
            for start, result in zip(starts, results, strict=False)
            for position in result.reduced
        ],
        recoloured={
            start + position: former
            for start, result in zip(starts, results, strict=False)
            for position, former in result.recoloured
        },
    )
