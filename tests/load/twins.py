"""The kernels again in plain NumPy, one image at a time, written to be read."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cinicpack.load.kernels.fill import ALTERNATING_FLIP, RANDOM_FLIP
from cinicpack.load.rng import CROP, CUTOUT, FLIP, ORDER, draw_words

__all__ = ["crop", "draw", "encode", "fill", "shuffle"]


def shuffle(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    words = draw_words(seed, epoch, ORDER, np.arange(count // 2 + 1)).tolist()
    order = list(range(count))
    for i in range(count - 1, 0, -1):
        low, high = words[i // 2][i % 2 * 2 : i % 2 * 2 + 2]
        j = (high * 2**32 + low) * (i + 1) >> 64
        order[i], order[j] = order[j], order[i]
    return np.array(order, np.int64)


def draw(
    index: Any,
    seed: int,
    epoch: int,
    height: int,
    width: int,
    crop_padding: int,
    flip: int,
    cutout: int,
) -> NDArray[np.int32]:
    rows = []
    for i in np.asarray(index).tolist():
        words = [draw_words(seed, epoch, stream, i).tolist() for stream in (CROP, CUTOUT)]
        coin = draw_words(seed, 0, FLIP, i).tolist()[0] >> 31
        mirror = {RANDOM_FLIP: words[0][2] >> 31, ALTERNATING_FLIP: (coin + epoch) % 2}
        rows.append(
            (
                words[0][0] * (2 * crop_padding + 1) >> 32,
                words[0][1] * (2 * crop_padding + 1) >> 32,
                mirror.get(flip, 0),
                words[1][0] * height >> 32 if cutout else 0,
                words[1][1] * width >> 32 if cutout else 0,
            )
        )
    return np.array(rows, np.int32).reshape(-1, 5)


def crop(
    image: NDArray[np.uint8], crop_padding: int, reflect: bool, dy: int, dx: int, mirror: int
) -> NDArray[np.uint8]:
    """Crop and mirror an image of (3, H, W)."""
    _, height, width = image.shape
    margins = ((0, 0), (crop_padding, crop_padding), (crop_padding, crop_padding))
    padded = np.pad(image, margins, mode="reflect" if reflect else "constant")
    cropped = padded[:, dy : dy + height, dx : dx + width]
    return cropped[:, :, ::-1] if mirror else cropped


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
    crop_padding: int,
    reflect: bool,
    flip: int,
    cutout: int,
    scale: NDArray[np.float32],
    shift: NDArray[np.float32],
    filler: NDArray[Any],
    dtype: str,
    channels_last: bool,
) -> NDArray[Any]:
    """Make the batch of images (n, 3, H, W), flat."""
    height, width = images.shape[2:]
    draws = draw(index, seed, epoch, height, width, crop_padding, flip, cutout)
    batch = []
    for image, (dy, dx, mirror, cy, cx) in zip(images, draws.tolist(), strict=True):
        pixels = np.ascontiguousarray(crop(image, crop_padding, reflect, dy, dx, mirror))
        values: NDArray[Any] = pixels
        if dtype != "uint8":
            products = pixels.astype(np.float32) * scale[:, None, None]
            values = encode(products + shift[:, None, None], dtype)
        values = values.copy()
        top, left = cy - cutout // 2, cx - cutout // 2
        square = (slice(max(top, 0), top + cutout), slice(max(left, 0), left + cutout))
        if cutout:
            values[:, *square] = filler[:, None, None]
        batch.append(values.transpose(1, 2, 0).ravel() if channels_last else values.ravel())
    return np.concatenate(batch) if batch else np.zeros(0, filler.dtype)
