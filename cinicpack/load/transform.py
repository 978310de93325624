"""The fixed parameters of what happens to a sample, as Python and as the kernels see them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cinicpack.errors import ArgumentError
from cinicpack.load.augment import Augment
from cinicpack.load.batches import DTYPES
from cinicpack.load.draws import COUNT, plan_draws

__all__ = ["Transform", "make_transform", "parameters_dtype", "to_parameters"]


class Transform(NamedTuple):
    """The fixed parameters of the per-sample transform; the random ones are in `draws`.

    Attributes:
        height: of the images.
        width: of the images.
        crop_padding: pixels added on every side before the crop.
        reflect: whether the added pixels are the image's own, reflected; else they are black.
        cutout: side of the square in pixels; 0: none.
        draws: (COUNT, 3) int64, see `plan_draws`.
        scale: (3,) float32, what the pixels of a channel, 0 to 255, are multiplied with.
        shift: (3,) float32, what is then added.
        filler: (3,) what a cutout is set to: float32, or uint8 for batches of uint8.
    """

    height: int
    width: int
    crop_padding: int
    reflect: bool
    cutout: int
    draws: NDArray[np.int64]
    scale: NDArray[np.float32]
    shift: NDArray[np.float32]
    filler: NDArray[Any]


def make_transform(
    augment: Augment | None,
    shape: Sequence[int],
    mean: Sequence[float],
    std: Sequence[float],
    *,
    normalized: bool,
    dtype: str,
) -> Transform:
    """Work out what is done to images of a shape.

    Args:
        augment: what is done to them; None: nothing.
        shape: (H, W, 3), of the images.
        mean: per channel, for pixels in [0, 1]; subtracted.
        std: per channel; divided by.
        normalized: False: the pixels stay in [0, 1], and a cutout is set to ``mean``.
        dtype: of the batches, a key of `DTYPES`; "uint8" pixels are neither scaled nor shifted.

    Raises ``ArgumentError`` where a std is not above 0, or the augmentation does not fit the size.
    """
    height, width, _ = shape
    augment = augment or Augment(crop_padding=0, flip=None)
    augment.check_size(height, width)
    divisor = np.array(std if normalized else (1, 1, 1), np.float64)
    offset = np.array(mean if normalized else (0, 0, 0), np.float64)
    with np.errstate(all="ignore"):
        scale = (1 / (255 * divisor)).astype(np.float32)
        shift = (-offset / divisor).astype(np.float32)
    if not (np.all(divisor > 0) and np.all(scale > 0) and np.all(np.isfinite((scale, shift)))):
        raise ArgumentError(
            f"expected a mean and a std above 0 for every channel that float32 can hold, found "
            f"{tuple(mean)} and {tuple(std)}; pass normalize=False or another (mean, std)"
        )
    if dtype == "uint8":
        filler: NDArray[Any] = np.round(255 * np.array(mean)).astype(np.uint8)
    else:
        filler = np.array((0, 0, 0) if normalized else mean, np.float32)
    return Transform(
        height=height,
        width=width,
        crop_padding=augment.crop_padding,
        reflect=augment.padding_mode == "reflect",
        cutout=augment.cutout,
        draws=plan_draws(augment, height, width),
        scale=scale,
        shift=shift,
        filler=filler,
    )


def to_parameters(transform: Transform, seed: int, dtype: str) -> NDArray[np.void]:
    """Write a transform as the kernels take it.

    One record is a single argument: NumPy arrays and tuples of them are unpacked at every call,
    which takes up to a fifth of the time that 16 images take.

    Returns:
        (1,) of a record: ``seed``, and fields with the names of `Transform`, where ``filler`` is
        of the type of the batches.
    """
    parameters = np.zeros(1, parameters_dtype(dtype))
    parameters["seed"] = seed
    for name, value in transform._asdict().items():
        parameters[name] = _encode(value, dtype) if name == "filler" else value
    return parameters


def parameters_dtype(dtype: str) -> np.dtype[np.void]:
    """Return the dtype of `to_parameters`, for batches of a dtype."""
    numbers = [(name, "i8") for name in ("height", "width", "crop_padding", "cutout")]
    arrays = [("scale", "f4", (3,)), ("shift", "f4", (3,)), ("filler", DTYPES[dtype], (3,))]
    draws = ("draws", "i8", (COUNT, 3))
    return np.dtype([("seed", "u8"), *numbers, ("reflect", "u1"), draws, *arrays], align=True)


def _encode(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Write float32 or uint8 values as the kernels write pixels."""
    if dtype == "float16":
        return values.astype(np.float16).view(DTYPES[dtype])
    if dtype == "bfloat16":
        bits = values.view(np.uint32)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    return values.astype(DTYPES[dtype])
