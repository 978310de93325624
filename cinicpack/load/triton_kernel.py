"""The fused kernel for GPUs: gather, crop, mirror, normalise, cut out and round in one pass."""

import torch
import triton
import triton.language as tl

from cinicpack.load.samples import Transform

__all__ = ["augment_with_triton"]

_BLOCK = 1024


@triton.jit
def _augment(
    pixels, positions, draws, out,
    scale_r, scale_g, scale_b, shift_r, shift_g, shift_b, filler_r, filler_g, filler_b,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, PADDING: tl.constexpr, REFLECT: tl.constexpr,
    CUTOUT: tl.constexpr, CHANNELS_LAST: tl.constexpr, GATHER: tl.constexpr, RAW: tl.constexpr,
    BFLOAT16: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write a block of the elements of one image, in the order of the output."""
    image = tl.program_id(0).to(tl.int64)
    element = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    plane: tl.constexpr = HEIGHT * WIDTH
    inside = element < 3 * plane
    if CHANNELS_LAST:
        channel = element % 3
        pixel = element // 3
    else:
        channel = element // plane
        pixel = element % plane
    row = pixel // WIDTH
    column = pixel % WIDTH
    y = row + tl.load(draws + image * 5) - PADDING
    mirror = tl.load(draws + image * 5 + 2) != 0
    x = tl.where(mirror, WIDTH - 1 - column, column) + tl.load(draws + image * 5 + 1) - PADDING
    if REFLECT:
        y = tl.abs(y)
        x = tl.abs(x)
        y = tl.minimum(y, 2 * (HEIGHT - 1) - y)
        x = tl.minimum(x, 2 * (WIDTH - 1) - x)
    visible = inside & (y >= 0) & (y < HEIGHT) & (x >= 0) & (x < WIDTH)
    source = image
    if GATHER:
        source = tl.load(positions + image)
    at = source * (3 * plane) + channel * plane + y * WIDTH + x
    value = tl.load(pixels + at, mask=visible, other=0)
    if RAW:
        result = value.to(tl.int32)
    else:
        scale = tl.where(channel == 0, scale_r, tl.where(channel == 1, scale_g, scale_b))
        shift = tl.where(channel == 0, shift_r, tl.where(channel == 1, shift_g, shift_b))
        # Compiled without fusion (see the launch): two roundings, as everywhere.
        result = value.to(tl.float32) * scale
        result = result + shift
    if CUTOUT:
        top = tl.load(draws + image * 5 + 3) - CUTOUT // 2
        left = tl.load(draws + image * 5 + 4) - CUTOUT // 2
        hole = (row >= top) & (row < top + CUTOUT) & (column >= left) & (column < left + CUTOUT)
        filler = tl.where(channel == 0, filler_r, tl.where(channel == 1, filler_g, filler_b))
        result = tl.where(hole, filler.to(result.dtype), result)
    if BFLOAT16:
        # By hand, to nearest with ties to even: Triton's interpreter cuts the lower bits off.
        bits = result.to(tl.uint32, bitcast=True)
        result = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    tl.store(out + image * (3 * plane) + element, result.to(out.dtype.element_ty), mask=inside)


def augment_with_triton(
    pixels: torch.Tensor,
    positions: torch.Tensor | None,
    draws: torch.Tensor,
    transform: Transform,
    dtype: torch.dtype,
    channels_last: bool,
) -> torch.Tensor:
    """Do as `fused.augment_pixels` says, in one kernel."""
    count, height, width = len(draws), transform.height, transform.width
    layout = torch.channels_last if channels_last else torch.contiguous_format
    out = torch.empty(
        (count, 3, height, width), dtype=dtype, device=pixels.device, memory_format=layout
    )
    if not count:
        return out
    grid = (count, triton.cdiv(3 * height * width, _BLOCK))
    _augment[grid](
        pixels,
        pixels if positions is None else positions,
        draws,
        out.view(torch.uint16) if dtype == torch.bfloat16 else out,
        *transform.scale.tolist(),
        *transform.shift.tolist(),
        *(float(value) for value in transform.filler),
        HEIGHT=height,
        WIDTH=width,
        PADDING=transform.crop_padding,
        REFLECT=transform.reflect,
        CUTOUT=transform.cutout,
        CHANNELS_LAST=channels_last,
        GATHER=positions is not None,
        RAW=dtype == torch.uint8,
        BFLOAT16=dtype == torch.bfloat16,
        BLOCK=_BLOCK,
        enable_fp_fusion=False,
    )
    return out
