"""The kernels for GPUs: one draws, one gathers, crops, mirrors, normalises, cuts out and rounds."""

from threading import Lock

import torch
import triton
import triton.language as tl

from cinicpack.load import draws
from cinicpack.load.transform import Transform

__all__ = ["augment_with_triton", "draw_with_triton"]

_BLOCK = 1024
# Triton compiles a global into a kernel only where it is a constexpr.
_COUNT = tl.constexpr(draws.COUNT)
_DY, _DX = tl.constexpr(draws.DY), tl.constexpr(draws.DX)
_MIRROR = tl.constexpr(draws.MIRROR)
_CY, _CX = tl.constexpr(draws.CY), tl.constexpr(draws.CX)
_UPSIDE_DOWN = tl.constexpr(draws.UPSIDE_DOWN)
_FLIP = tl.constexpr(draws.FLIP)
# Launches take turns: the loader launches from several threads, which Triton does not call safe,
# and the threads should wait for the first launch to compile the kernel rather than compile it too.
_LAUNCH = Lock()


# A slab may start at any sample; for those that do not lie at a multiple of 16 bytes Triton would
# compile the kernel once more.
@triton.jit(do_not_specialize_on_alignment=["positions", "drawn"])
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


@triton.jit(do_not_specialize=["count", "view"])
def _draw(
    rows, occurrences, numbers, plan, out, count, view,
    HAS_OCCURRENCES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write a column of what is drawn, for a block of samples, as `kernels.random.draw` does."""
    sample = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    column = tl.program_id(1)
    inside = sample < count
    purpose = tl.load(plan + column * 3)
    word = tl.load(plan + column * 3 + 1)
    values = tl.load(plan + column * 3 + 2)
    epoch = tl.load(numbers + 1)
    alternates = purpose == _FLIP
    row = tl.load(rows + sample, mask=inside, other=0)
    # The four words of a counter have one shape.
    nothing = row * 0
    use = nothing + view
    if HAS_OCCURRENCES:
        use += tl.load(occurrences + sample, mask=inside, other=0) << 16
    word_0, word_1, word_2, word_3 = tl.philox(
        tl.load(numbers),
        row.to(tl.uint32),
        (nothing + tl.where(alternates, 0, epoch)).to(tl.uint32),
        (nothing + purpose).to(tl.uint32),
        use.to(tl.uint32),
    )
    low = tl.where(word == 0, word_0, word_1)
    high = tl.where(word == 2, word_2, word_3)
    chosen = tl.where(word < 2, low, high).to(tl.int64)
    # Below 2**32 times what an image has of rows, so that 64 bits with a sign are enough.
    drawn = ((chosen * values) >> 32) ^ tl.where(alternates, epoch & 1, 0)
    drawn = tl.where(values == 0, 0, drawn)
    tl.store(out + sample.to(tl.int64) * _COUNT + column, drawn.to(tl.int32), mask=inside)


def draw_with_triton(
    rows: torch.Tensor,
    occurrences: torch.Tensor | None,
    numbers: torch.Tensor,
    plan: torch.Tensor,
    view: int,
) -> torch.Tensor:
    """Do as `Samples.draw` does, on the current stream.

    Args:
        rows: (n,) int64, of the samples.
        occurrences: (n,) int64, how often each came before; None: never.
        numbers: int64, seed and epoch, the seed as 64 bits; what is behind them is not read. Were
            they arguments of the kernel, it would be compiled anew for numbers of other sizes.
        plan: (COUNT, 3) int64, what `draws.plan_draws` gives.
        view: which one of the samples.

    Returns:
        (n, COUNT) int32.
    """
    out = torch.empty((len(rows), draws.COUNT), dtype=torch.int32, device=rows.device)
    if not len(rows):
        return out
    grid = (triton.cdiv(len(rows), _BLOCK), draws.COUNT)
    with _LAUNCH:
        _draw[grid](
            rows,
            rows if occurrences is None else occurrences,
            numbers,
            plan,
            out,
            len(rows),
            view,
            HAS_OCCURRENCES=occurrences is not None,
            BLOCK=_BLOCK,
        )
    return out


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
