"""The kernels again in plain NumPy, one image at a time, written to be read."""

from math import floor, sqrt
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from cinicpack.load.augment import Augment
from cinicpack.load.draws import (
    COLUMNS,
    COUNT,
    CROP,
    CUTOUT,
    EXP2,
    FLIP,
    LOG2,
    MIX,
    ORDER,
    VERTICAL,
)  # fmt: skip
from cinicpack.load.mix import CutMix, Mix
from tests.load.philox import draw_words, philox

__all__ = ["Mixed", "augment_pixels", "draw", "draw_mix", "encode", "fill", "mix_batch", "shuffle"]


def shuffle(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    words = draw_words(seed, epoch, ORDER, np.arange(count // 2 + 1)).tolist()
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


class Mixed(NamedTuple):
    """How a batch is mixed: by which of the mixes, and how far before a sample its partner is."""

    mix: Mix
    shift: int
    share: float
    cx: int
    cy: int


def draw_mix(
    mixes: list[Mix], seed: int, epoch: int, place: int, count: int, height: int, width: int
) -> Mixed:
    """Draw for a batch of ``count`` samples, whose first one in any rank is at a place."""

    def words_of(attempt: int) -> list[int]:
        counter = [place % 2**32, epoch, MIX, (place >> 32 << 16) + attempt]
        words: list[int] = philox(counter, [seed % 2**32, seed >> 32]).tolist()
        return words

    which, shift, cx, cy = words_of(0)
    mix = mixes[which * len(mixes) >> 32]
    share, attempt = None, 0
    while share is None:
        attempt += 1
        u, v, *_ = ((2 * word + 1) / 2**33 for word in words_of(attempt))
        share = _find_share(u, v, mix.alpha)
    rounded = floor(share * 2**24 + 0.5) / 2**24
    distance = 1 + (shift * (count - 1) >> 32) if count > 1 else 0
    return Mixed(mix, distance, rounded, cx * width >> 32, cy * height >> 32)


def _find_share(u: float, v: float, alpha: float) -> float | None:
    if alpha <= 1:
        first, second = _log2(u), _log2(v)
        if _exp2(first / alpha) + _exp2(second / alpha) > 1:
            return None
        return 1 / (1 + _exp2((second - first) / alpha))
    w = 2 * v - 1
    s = u * u + w * w
    if s > 1:
        return None
    return 0.5 + u * w / s * sqrt(1 - _exp2(_log2(s) * (2 / (2 * alpha - 1))))


def _log2(x: float) -> float:
    whole = 0
    while x < 0.7071067811865476:
        x, whole = 2 * x, whole - 1
    s = (x - 1) / (x + 1)
    return whole + _evaluate(LOG2, s * s) * s


def _exp2(x: float) -> float:
    x = min(max(x, -128.0), 128.0)
    whole = floor(x + 0.5)
    return float(_evaluate(EXP2, x - whole) * 2.0**whole)


def _evaluate(series: tuple[float, ...], x: float) -> float:
    total = 0.0
    for factor in reversed(series):
        total = total * x + factor
    return total


def mix_batch(
    images: torch.Tensor, labels: torch.Tensor, drawn: Mixed
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mix images (n, 3, H, W) and labels (n, K), each with the one that is so far before it."""
    order = np.arange(len(images)) - drawn.shift
    own, other = drawn.share, 1 - drawn.share
    if isinstance(drawn.mix, CutMix):
        height, width = images.shape[2:]
        reach = 0.5 * sqrt(other)
        down, right = int(reach * height), int(reach * width)
        rows = slice(max(drawn.cy - down, 0), min(drawn.cy + down, height))
        columns = slice(max(drawn.cx - right, 0), min(drawn.cx + right, width))
        mixed = images.clone()
        mixed[:, :, rows, columns] = images[order][:, :, rows, columns]
        own = 1 - (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)
        other = 1 - own
    else:
        mixed = _blend(images, order, own, other)
    return mixed, _blend(labels, order, own, other)


def _blend(values: torch.Tensor, order: Any, own: float, other: float) -> torch.Tensor:
    """Mix in float32, then round to the type that came."""
    all_ = values.to(torch.float32).numpy()
    mixed = torch.from_numpy(all_[order] * np.float32(other) + all_ * np.float32(own))
    return (mixed if values.is_floating_point() else mixed.round()).to(values.dtype)
