"""The kernels again in plain NumPy, one image at a time, written to be read."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cinicpack.load.augment import Augment
from cinicpack.load.draws import COLUMNS, COUNT, CROP, CUTOUT, FLIP, ORDER, VERTICAL
from tests.load.philox import draw_words

__all__ = ["augment_pixels", "draw", "encode", "fill", "shuffle"]


def shuffle(seed: int, epoch: int, count: int, purpose: int = ORDER) -> NDArray[np.int64]:
    words = draw_words(seed, epoch, purpose, np.arange(count // 2 + 1)).tolist()
    order = list(range(count))
    for i in range(count - 1, 0, -1):
        low, high = words[i // 2][i % 2 * 2 : i % 2 * 2 + 2]
        j = (high * 2**32 + low) * (i + 1) >> 64
        order[i], order[j] = order[j], order[i]
    return np.array(order, np.int64)


def draw(
    index: Any, seed: int, epoch: int, augment: Augment, height: int, width: int
) -> NDArray[np.int32]:
    """Draw for the samples of these rows: (n, COUNT)."""
    rows = []
    for i in np.asarray(index).tolist():
        crop, cutout, vertical = (
            draw_words(seed, epoch, purpose, i).tolist() for purpose in (CROP, CUTOUT, VERTICAL)
        )
        coin = draw_words(seed, 0, FLIP, i).tolist()[0] >> 31
        mirror = {"random": crop[2] >> 31, "alternating": (coin + epoch) % 2, None: 0}
        columns = {
            "dy": crop[0] * (2 * augment.crop_padding + 1) >> 32,
            "dx": crop[1] * (2 * augment.crop_padding + 1) >> 32,
            "mirror": mirror[augment.flip],
            "cy": cutout[0] * height >> 32 if augment.cutout else 0,
            "cx": cutout[1] * width >> 32 if augment.cutout else 0,
            "upside_down": vertical[0] >> 31 if augment.vertical_flip else 0,
        }
        rows.append([columns[name] for name in COLUMNS])
    return np.array(rows, np.int32).reshape(-1, COUNT)


def augment_pixels(
    image: NDArray[np.uint8], augment: Augment, drawn: dict[str, int]
) -> NDArray[np.uint8]:
    """Crop and mirror an image of (3, H, W), by what is drawn for it."""
    _, height, width = image.shape
    margin = (augment.crop_padding, augment.crop_padding)
    mode: Any = augment.padding_mode
    padded = np.pad(image, ((0, 0), margin, margin), mode)
    dy, dx = drawn["dy"], drawn["dx"]
    cropped = padded[:, dy : dy + height, dx : dx + width]
    mirrored = cropped[:, :, ::-1] if drawn["mirror"] else cropped
    return mirrored[:, ::-1] if drawn["upside_down"] else mirrored


def encode(values: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    """Give float32 as the bits that the kernels write."""
    if dtype == "float16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).view(np.uint16)
    if dtype == "bfloat16":
        return torch.from_numpy(values).to(torch.bfloat16).view(torch.uint16).numpy()
    return values


def fill(
    images: NDArray[np.uint8],
    index: NDArray[np.int64],
    seed: int,
    epoch: int,
    augment: Augment,
    scale: NDArray[np.float32],
    shift: NDArray[np.float32],
    filler: NDArray[Any],
    dtype: str,
    channels_last: bool,
) -> NDArray[Any]:
    """Make the batch of images (n, 3, H, W), flat."""
    batch = []
    for image, row in zip(
        images, draw(index, seed, epoch, augment, *images.shape[2:]).tolist(), strict=True
    ):
        drawn = dict(zip(COLUMNS, row, strict=True))
        pixels = np.ascontiguousarray(augment_pixels(image, augment, drawn))
        values: NDArray[Any] = pixels
        if dtype != "uint8":
            products = pixels.astype(np.float32) * scale[:, None, None]
            values = encode(products + shift[:, None, None], dtype)
        values = values.copy()
        if side := augment.cutout:
            top, left = drawn["cy"] - side // 2, drawn["cx"] - side // 2
            square = (slice(max(top, 0), top + side), slice(max(left, 0), left + side))
            values[:, *square] = filler[:, None, None]
        batch.append(values.transpose(1, 2, 0).ravel() if channels_last else values.ravel())
    return np.concatenate(batch) if batch else np.zeros(0, filler.dtype)
