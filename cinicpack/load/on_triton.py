"""The fused kernel for GPUs: gather, crop, mirror, normalise, cut out and round in one pass."""

from threading import Lock

import torch
import triton
import triton.language as tl

from cinicpack.load import draws
from cinicpack.load.transform import Transform

__all__ = ["augment_with_triton"]

_BLOCK = 1024
# Triton compiles a global into a kernel only where it is a constexpr.
_COUNT = tl.constexpr(draws.COUNT)
_DY, _DX = tl.constexpr(draws.DY), tl.constexpr(draws.DX)
_MIRROR = tl.constexpr(draws.MIRROR)
_CY, _CX = tl.constexpr(draws.CY), tl.constexpr(draws.CX)
_UPSIDE_DOWN = tl.constexpr(draws.UPSIDE_DOWN)
# Launches take turns: the loader launches from several threads, which Triton does not call safe,
# and the threads should wait for the first launch to compile the kernel rather than compile it too.
_LAUNCH = Lock()


@triton.jit
def _augment(
    pixels, positions, drawn, constants, out,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, PADDING: tl.constexpr, REFLECT: tl.constexpr,
    CUTOUT: tl.constexpr, CHANNELS_LAST: tl.constexpr, GATHER: tl.constexpr, RAW: tl.constexpr,
    BFLOAT16: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write a block of the pixels of one image, in all three channels.

    Where a pixel comes from is worked out once for the three channels; otherwise the kernel would
    wait for its integers rather than for memory. Offsets in an image have 32 bits; those of images
    have 64, because a split may have more than 2**31 bytes.
    """
    image = tl.program_id(0).to(tl.int64)
    pixel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    plane: tl.constexpr = HEIGHT * WIDTH
    inside = pixel < plane
    row = pixel // WIDTH
    column = pixel % WIDTH
    drawn += image * _COUNT
    upside_down = tl.load(drawn + _UPSIDE_DOWN) != 0
    y = tl.where(upside_down, HEIGHT - 1 - row, row) + (tl.load(drawn + _DY) - PADDING)
    mirror = tl.load(drawn + _MIRROR) != 0
    x = tl.where(mirror, WIDTH - 1 - column, column) + (tl.load(drawn + _DX) - PADDING)
    if REFLECT:
        y = tl.abs(y)
        x = tl.abs(x)
        y = tl.minimum(y, 2 * (HEIGHT - 1) - y)
        x = tl.minimum(x, 2 * (WIDTH - 1) - x)
    visible = inside & (y >= 0) & (y < HEIGHT) & (x >= 0) & (x < WIDTH)
    if CUTOUT:
        top = tl.load(drawn + _CY) - CUTOUT // 2
        left = tl.load(drawn + _CX) - CUTOUT // 2
        hole = (row >= top) & (row < top + CUTOUT) & (column >= left) & (column < left + CUTOUT)
    read_from = image
    if GATHER:
        read_from = tl.load(positions + image)
    read_start = pixels + read_from * (3 * plane)
    target_start = out + image * (3 * plane)
    for channel in tl.static_range(3):
        value = tl.load(read_start + (channel * plane + y * WIDTH + x), mask=visible, other=0)
        if RAW:
            result = value.to(tl.int32)
        else:
            # The launch forbids to fuse the two operations, so that each rounds, as everywhere.
            result = value.to(tl.float32) * tl.load(constants + channel)
            result = result + tl.load(constants + 3 + channel)
        if CUTOUT:
            filler = tl.load(constants + 6 + channel)
            result = tl.where(hole, filler.to(result.dtype), result)
        if BFLOAT16:
            # Rounded by hand to nearest, ties to even: Triton's interpreter would cut the lower
            # bits off.
            bits = result.to(tl.uint32, bitcast=True)
            result = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        if CHANNELS_LAST:
            target = target_start + (pixel * 3 + channel)
        else:
            target = target_start + (channel * plane + pixel)
        tl.store(target, result.to(out.dtype.element_ty), mask=inside)


def augment_with_triton(
    pixels: torch.Tensor,
    positions: torch.Tensor | None,
    drawn: torch.Tensor,
    constants: torch.Tensor,
    transform: Transform,
    dtype: torch.dtype,
    channels_last: bool,
) -> torch.Tensor:
    """Do as `on_torch.augment_with_torch` does, in one kernel on the current stream."""
    count, height, width = len(drawn), transform.height, transform.width
    layout = torch.channels_last if channels_last else torch.contiguous_format
    out = torch.empty(
        (count, 3, height, width), dtype=dtype, device=pixels.device, memory_format=layout
    )
    if not count:
        return out
    grid = (count, triton.cdiv(height * width, _BLOCK))
    with _LAUNCH:
        _augment[grid](
            pixels,
            pixels if positions is None else positions,
            drawn,
            constants,
            out.view(torch.uint16) if dtype == torch.bfloat16 else out,
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
