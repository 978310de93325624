"""The samples of a split: what the kernels need to make batches of them."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cinicpack.errors import ArgumentError
from cinicpack.load.augment import Augment
from cinicpack.load.batches import DTYPES, BatchFormat, Block
from cinicpack.load.kernels import ALTERNATING_FLIP, NO_FLIP, RANDOM_FLIP, fill_kernel
from cinicpack.store.reader import Split

__all__ = ["Samples"]

_FLIPS: Final = {None: NO_FLIP, "random": RANDOM_FLIP, "alternating": ALTERNATING_FLIP}
_NOTHING: Final = Augment(crop_padding=0, flip=None)


class Samples:
    """The chosen rows of a split, and how they become pixels of a batch.

    Args:
        split: where they are from.
        rows: (N,) int64, which ones; what happens to a sample depends on its row.
        augment: what is done to them; None: nothing.
        seed: of what is drawn.
        batch_format: dtype and layout of batches.
        mean: per channel, pixels in [0, 1]; subtracted.
        std: per channel; divided by.
        normalized: False: the pixels stay in [0, 1], and mean is only what a cutout is set to.

    Raises ``ArgumentError`` where a std is not above 0, or the augmentation does not fit the size.
    """

    def __init__(
        self,
        split: Split,
        rows: NDArray[np.int64],
        augment: Augment | None,
        seed: int,
        batch_format: BatchFormat,
        mean: Sequence[float],
        std: Sequence[float],
        normalized: bool,
    ) -> None:
        height, width, _ = split.pack.image_shape
        augment = augment or _NOTHING
        augment.check_size(height, width)
        if normalized and not all(0 < value < np.inf for value in std):
            raise ArgumentError(
                f"expected a std above 0 for every channel, found {tuple(std)}; "
                "pass normalize=False or another (mean, std)"
            )
        # The addresses hold as long as the files are mapped.
        self._split = split
        self._indices = rows.copy()
        self._addresses = split.addresses()[rows]
        self._labels = split.labels[rows].astype(np.int64)
        divisor = np.array(std if normalized else (1, 1, 1), np.float64)
        offset = np.array(mean if normalized else (0, 0, 0), np.float64)
        scale = (1 / (255 * divisor)).astype(np.float32)
        shift = (-offset / divisor).astype(np.float32)
        self._kernel = fill_kernel(batch_format.dtype, batch_format.channels_last, scale, shift)
        self._seed = np.uint64(seed)
        self._fixed = (
            augment.crop_padding,
            augment.padding_mode == "reflect",
            _FLIPS[augment.flip],
            augment.cutout,
            height,
            width,
            scale,
            shift,
            _encode(mean, normalized, batch_format.dtype),
        )

    def __len__(self) -> int:
        return len(self._indices)

    def fill(self, block: Block, positions: NDArray[np.int64], epoch: int) -> None:
        """Make the samples at ``positions``, (n,) int64, into the first n of a block."""
        self._kernel(
            positions,
            self._addresses,
            self._indices,
            self._labels,
            self._seed,
            np.uint64(epoch),
            *self._fixed,
            *block,
        )


def _encode(mean: Sequence[float], normalized: bool, dtype: str) -> NDArray[np.generic]:
    """Write what a cutout is set to, the mean, as the kernels write a pixel."""
    if dtype == "uint8":
        return np.round(255 * np.array(mean)).astype(np.uint8)
    values = np.zeros(3, np.float32) if normalized else np.array(mean, np.float32)
    if dtype == "float16":
        return values.astype(np.float16).view(DTYPES[dtype])
    if dtype == "bfloat16":
        bits = values.view(np.uint32)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    return values
