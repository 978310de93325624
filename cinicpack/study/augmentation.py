"""A picture of what augmentation makes of one image."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from cinicpack.errors import SelectionError
from cinicpack.load.augment import Augment
from cinicpack.load.loader import Loader
from cinicpack.store.split import Split
from cinicpack.study.picture import draw_bands, draw_grid

__all__ = ["draw_augmentation"]

_POLICIES: Final = {
    "Augment()": Augment(),
    'Augment(\npadding_mode="reflect")': Augment(padding_mode="reflect"),
    'Augment(\ncrop_padding=0,\nflip="alternating")': Augment(crop_padding=0, flip="alternating"),
    "Augment(cutout=12)": Augment(cutout=12),
}


def draw_augmentation(
    split: Split, row: int, *, epochs: int = 10, seed: int = 0
) -> NDArray[np.uint8]:
    """Draw one image as it is, and below that augmented in four ways.

    A row for each way, a column for each epoch: what a `Loader` with this seed gives for this image
    alone. All rows draw alike, so that one column has the same crop.

    Args:
        split: where the image is.
        row: which one, counted in ``split``.
        epochs: number of columns.
        seed: the loader's.

    Raises `SelectionError` if there is no such row.
    """
    if not 0 <= row < len(split):
        raise SelectionError(
            f"expected --augment (row=) of at least 0 and below {len(split)}, the number of images "
            f"that are selected, found {row}"
        )
    image = split.select(indices=[row])
    original = np.asarray(image.images[:])
    scale = max(1, 64 // original.shape[1])
    bands = [("original", draw_grid(original, 1, scale=scale))]
    for label, augment in _POLICIES.items():
        loader = Loader(
            split.pack,
            image,
            batch_size=1,
            augment=augment,
            dtype="uint8",
            channels_last=True,
            output="numpy",
            seed=seed,
            num_workers=0,
        )
        tiles = [images for _ in range(epochs) for images, _ in loader]
        bands.append((label, draw_grid(np.concatenate(tiles), epochs, scale=scale)))
    return draw_bands(bands)
