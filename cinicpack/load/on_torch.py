"""Augmentation on a device: one fused kernel where Triton is, torch operations everywhere else.

Both do what `kernels.fill` does on the CPU, in the same order with the same roundings, and give the
same bytes: crop, mirror, multiply, add, cut out, round to the type of the batch.
"""

import warnings
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from subprocess import CalledProcessError
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from cinicpack.interrupts import holding_interrupts
from cinicpack.load.draws import COLUMNS
from cinicpack.load.transform import Transform

__all__ = [
    "AugmentPixels",
    "DrawSamples",
    "augment_with_torch",
    "choose_augment",
    "choose_draw",
    "mix_with_torch",
    "place_constants",
]

AugmentPixels: TypeAlias = Callable[
    [
        torch.Tensor,
        torch.Tensor | None,
        torch.Tensor,
        torch.Tensor,
        Transform,
        torch.dtype,
        bool,
    ],
    torch.Tensor,
]

DrawSamples: TypeAlias = Callable[
    [torch.Tensor, torch.Tensor | None, torch.Tensor, torch.Tensor, int],
    torch.Tensor,
]


def place_constants(transform: Transform, device: torch.device) -> torch.Tensor:
    """Put scale, shift and filler of the channels on a device: (3, 3) float32.

    This is done once and not for each batch: a copy from memory that is not pinned waits for all
    that is queued on the stream.
    """
    rows = (transform.scale, transform.shift, transform.filler)
    return torch.from_numpy(np.array(rows, np.float32)).to(device)


def choose_augment(device: torch.device) -> AugmentPixels:
    """Choose what makes batches on a device: the fused kernel on a GPU where it can be compiled.

    Elsewhere torch operations give the same bytes. A ``UserWarning``, once a process, says where a
    GPU has to use them, on which they are much slower.
    """
    if device.type != "cuda" or not _can_use_triton():
        return augment_with_torch
    with holding_interrupts():
        from cinicpack.load.on_triton import augment_with_triton

    return augment_with_triton


def choose_draw(device: torch.device) -> DrawSamples | None:
    """Choose what draws for samples on a device; None: nothing can, where Triton cannot be used."""
    if device.type != "cuda" or not _can_use_triton():
        return None
    with holding_interrupts():
        from cinicpack.load.on_triton import draw_with_triton

    return draw_with_triton


@cache
def _can_use_triton() -> bool:
    """Say whether Triton is there, with all that it needs to compile the launch of a kernel."""
    reason = "Triton is not installed"
    if find_spec("triton") is not None:
        with holding_interrupts():
            from triton.runtime import driver

        try:
            # Triton compiles a C module on the first use of the driver, unless its cache has it.
            driver.active.get_current_device()
        except (RuntimeError, OSError, CalledProcessError) as error:
            reason = f"Triton cannot compile a C module ({error})"
        else:
            return True
    warnings.warn(
        f"{reason}: images are augmented on the GPU by torch operations, with the same bytes but "
        "much slower; install a C compiler and Python's headers, or Triton",
        stacklevel=2,
    )
    return False


def augment_with_torch(
    pixels: torch.Tensor,
    positions: torch.Tensor | None,
    drawn: torch.Tensor,
    constants: torch.Tensor,
    transform: Transform,
    dtype: torch.dtype,
    channels_last: bool,
) -> torch.Tensor:
    """Make a batch with torch operations, on the device that the pixels are on.

    Args:
        pixels: (M, 3, H, W) uint8, contiguous.
        positions: (n,) int64, which of them; None: all, in order.
        drawn: (n, COUNT) int32, see `draws.COLUMNS`.
        constants: what `place_constants` gives for the transform.
        transform: the parameters of the augmentation that are not drawn.
        dtype: of the batch.
        channels_last: its memory format.

    Returns:
        (n, 3, H, W) of ``dtype``.
    """
    height, width = transform.height, transform.width
    scale, shift, filler = constants.view(3, 3, 1, 1)
    device = pixels.device
    by_sample = drawn.to(torch.int64).unsqueeze(2).unbind(1)
    column = dict(zip(COLUMNS, by_sample, strict=True))
    columns = torch.arange(width, device=device).unsqueeze(0)
    rows = torch.arange(height, device=device).unsqueeze(0)
    y = torch.where(column["upside_down"] != 0, height - 1 - rows, rows)
    y = y + column["dy"] - transform.crop_padding
    x = torch.where(column["mirror"] != 0, width - 1 - columns, columns)
    x = x + column["dx"] - transform.crop_padding
    visible = None
    if transform.reflect:
        y, x = y.abs(), x.abs()
        y, x = torch.minimum(y, 2 * (height - 1) - y), torch.minimum(x, 2 * (width - 1) - x)
    elif transform.crop_padding:
        visible = ((y >= 0) & (y < height)).unsqueeze(2) & ((x >= 0) & (x < width)).unsqueeze(1)
        y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    chosen = pixels if positions is None else pixels[positions]
    places = (y.unsqueeze(2) * width + x.unsqueeze(1)).flatten(1).unsqueeze(1).expand(-1, 3, -1)
    out = chosen.flatten(2).gather(2, places).view(-1, 3, height, width)
    if visible is not None:
        out = out * visible.unsqueeze(1)
    if dtype != torch.uint8:
        # Multiplication and addition are two operations, so that each rounds, as everywhere.
        out = out.to(torch.float32) * scale
        out = out + shift
    if transform.cutout:
        top, left = column["cy"] - transform.cutout // 2, column["cx"] - transform.cutout // 2
        inside_y = (rows >= top) & (rows < top + transform.cutout)
        inside_x = (columns >= left) & (columns < left + transform.cutout)
        inside = (inside_y.unsqueeze(2) & inside_x.unsqueeze(1)).unsqueeze(1)
        out = torch.where(inside, filler.to(out.dtype), out)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    batch: torch.Tensor = out.to(dtype).contiguous(memory_format=layout)
    return batch


def mix_with_torch(columns: Sequence[torch.Tensor], mix: NDArray[np.void]) -> None:
    """Mix a batch where it lies, as the kernel on the CPU does.

    Args:
        columns: the views of its images, (n, 3, H, W), and its labels, (n, K) float32.
        mix: a record of `kernels.mix.PLAN`.
    """
    shift, cuts, top, bottom, left, right, own, other = mix.item()
    *views, labels = columns
    for images in views:
        if cuts:
            box = images[:, :, top:bottom, left:right]
            box.copy_(box.roll(shift, 0))
        else:
            _blend(images, shift, own, other)
    _blend(labels, shift, own, other)


def _blend(batch: torch.Tensor, shift: int, own: float, other: float) -> None:
    """Mix each member with its partner in float32, by operations that round one by one."""
    values = batch.to(torch.float32)
    mixed = values.roll(shift, 0).mul_(other).add_(values.mul(own))
    batch.copy_(mixed if batch.is_floating_point() else mixed.round_())
