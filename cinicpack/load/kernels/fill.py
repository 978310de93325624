"""The kernel that fills batches: gathers images, crops, mirrors, normalises, cuts out, and rounds.

An image is three planes of height * width bytes at an address.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, Final

import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray

from cinicpack.jit import jit
from cinicpack.load import draws
from cinicpack.load.batches import DTYPES
from cinicpack.load.engine import posix
from cinicpack.load.engine.posix import array_at, record_at
from cinicpack.load.kernels import random, task, vectors
from cinicpack.load.kernels.random import draw
from cinicpack.load.kernels.vectors import bytes_at, convert_block, literal, spills
from cinicpack.load.transform import parameters_dtype

__all__ = ["fill_kernel"]

_u64 = np.uint64
# How many pixels are converted at once: the first of these numbers that a row is as wide as. Blocks
# of 32 were seldom faster than 16, and up to a tenth slower; blocks of 8 are a quarter slower where
# a type is small.
_LANES: Final = (16, 8, 1)
# Sizes of images that have kernels of their own, where height and width are constants: a quarter
# faster for bfloat16, a fifth for uint8, a twentieth for float32.
_OWN_SIZES: Final = ((32, 32), (64, 64))
# How many images ahead an image is asked for, by the bytes of a pixel's value: with 2 of them uint8
# is made a seventh faster than with 1, and float32 a twentieth slower.
_DISTANCES: Final = {4: 1, 2: 2, 1: 2}
# Bytes of a cache line.
_LINE: Final = 64
_ITEM_SIZES: Final = {"float32": 4, "float16": 2, "bfloat16": 2, "uint8": 1}


def fill_kernel(
    dtype: str,
    channels_last: bool,
    height: int,
    width: int,
    scale: NDArray[np.float32],
    shift: NDArray[np.float32],
    streamed: bool,
) -> Callable[..., None]:
    """Return the kernel that fills batches of a type and layout.

    Args:
        dtype: "float32", "float16", "bfloat16" or "uint8".
        channels_last: write (H, W, 3) rather than (3, H, W).
        height: of the images, as in the parameters that the kernel will be called with.
        width: of the images, as in these parameters.
        scale: (3,), as in these parameters.
        shift: (3,), as in these parameters.
        streamed: read images past the caches, which are kept for batches that way: for images that
            are more than any cache holds, and of which each is needed once.

    The kernel makes a piece of a task, see `kernels.task`, and returns 1:

        task     np.uint64   the task's address; a pixel's value is pixel * scale + shift, rounded
                             twice, then to ``dtype``, ties to even (not for uint8); crop_padding is
                             below height and width if reflected
        piece    int64       which one of the pieces

    The pixels are float32; uint16, the bits of float16 or bfloat16; or uint8.
    """
    ties = dtype == "bfloat16" and _has_ties(scale, shift)
    lanes = next(lanes for lanes in _LANES if lanes <= width)
    own = (height, width) if (height, width) in _OWN_SIZES else (0, 0)
    return _make_fill(dtype, bool(channels_last), ties, lanes, own, bool(streamed))


def _has_ties(scale: NDArray[np.float32], shift: NDArray[np.float32]) -> bool:
    """Say whether any pixel's value lies in the middle between two bfloat16.

    One in a hundred choices of mean and std has such a value. Without one, to round takes two
    instructions instead of five.
    """
    pixels = np.arange(256, dtype=np.float32)[:, None]
    return bool(((pixels * scale + shift).view(np.uint32) & 0xFFFF == 0x8000).any())


@jit
def _copy_image(address: Any, size: Any, scratch: NDArray[np.uint8], start: Any) -> Any:
    pixels = bytes_at(address, size)
    for byte in range(size):
        scratch[start + byte] = pixels[byte]
    return _u64(scratch.ctypes.data) + start


@jit
def _make_ruler(width: int) -> NDArray[np.uint8]:
    """Make a row of 255 between two rows of 0: the masks of all shifts of a row are parts of it."""
    ruler = np.zeros(3 * width, np.uint8)
    for x in range(_u64(width), _u64(2 * width)):
        ruler[x] = 255
    return ruler


@register_jitable
def _look_up(t: Any, start: Any, places: NDArray[np.uint64]) -> Any:
    """Look up all samples before any image is made, so that the cache misses overlap.

    Addresses are written to ``places``, labels and rows to where the task says. Returns the rows.
    """
    count = _u64(len(places))
    samples = array_at(t.samples + _u64(8) * start, count, np.int64)
    addresses = array_at(t.addresses, t.images, np.uint64)
    labels, rows = array_at(t.labels, t.images, np.int64), array_at(t.rows, t.images, np.int64)
    out_labels = array_at(t.out_labels + _u64(8) * start, count, np.int64)
    out_rows = array_at(t.out_rows + _u64(8) * start, count, np.int64)
    for i in range(count):
        sample = _u64(samples[i])
        places[i] = addresses[sample]
        out_labels[i] = labels[sample]
        out_rows[i] = rows[sample]
    return out_rows


@register_jitable
def _number_uses(t: Any, start: Any, count: Any) -> Any:
    """Number the use of its row that each sample is, see `draws`."""
    uses = np.full(count, np.int64(t["view"]))
    if t.occurrences:
        occurrences = array_at(t.samples + t.occurrences + _u64(8) * start, count, np.int64)
        for i in range(count):
            uses[i] += occurrences[i] << 16
    return uses


@register_jitable
def _join(scale: Any, shift: Any) -> Any:
    return scale[0], scale[1], scale[2], shift[0], shift[1], shift[2]


@jit
def _cut_out(
    out: Any, start: Any, height: int, width: int, cutout: int, cy: int, cx: int, filler: Any,
    channels_last: bool,
) -> None:  # fmt: skip
    top, left = cy - cutout // 2, cx - cutout // 2
    for y in range(max(top, 0), min(top + cutout, height)):
        for x in range(max(left, 0), min(left + cutout, width)):
            pixel = y * width + x
            for c in range(3):
                spot = pixel * 3 + c if channels_last else c * height * width + pixel
                out[start + _u64(spot)] = filler[c]


@register_jitable
def _find_row(y: Any, top: Any, reflect: Any, height: Any) -> Any:
    """Find the row of the image that row ``y`` of the batch shows; outside of it: none."""
    r = y + top
    if reflect:
        r = abs(r)
        r = min(r, 2 * (height - 1) - r)
    return r


@literal
def _ask_for(places, count, size, streamed):
    """Ask for the first images of a piece, of so many bytes each.

    `_write_rows` has the inner loop once more: to call a function there takes 7 % of float32.
    """
    for i in range(count):
        for line in range(_u64(0), size, _u64(_LINE)):
            vectors.prefetch(places[i] + line, streamed)


@literal
def _write_rows(
    target, step, shifted, ahead, black, mask, coefficients, mirror, upside_down, top, reflect,
    height, width, own_height, own_width, item, dtype, channels_last, ties, lanes,
    streamed,
):  # fmt: skip
    """Write an image row by row, from its address plus a shift, and ask for a later one meanwhile.

    Images come in random order from more memory than any cache holds. To ask for a later one row
    by row is worth a quarter of the speed, and all at once half of that.
    """
    # LLVM does not compile this into its caller, and so would not know of a size that is constant.
    if own_width:
        height, width = own_height, own_width
    w, plane = _u64(width), _u64(height * width)
    pixel_bytes = 3 * item if channels_last else item
    last = w - _u64(lanes)
    out_ahead = target + _u64(3 * item) * plane
    row_step = w * _u64(pixel_bytes)
    if upside_down:
        target += _u64(height - 1) * row_step
        row_step = _u64(0) - row_step
    for y in range(height):
        for line in range(_u64(0), _u64(3) * w, _u64(_LINE)):
            vectors.prefetch(ahead + line, streamed)
        ahead += _u64(3) * w
        # The next image's place in the batch as well: batches of 6 MB and more of float32, which
        # are not in the nearest cache, are made a quarter faster.
        for line in range(_u64(0), _u64(3 * item) * w, _u64(_LINE)):
            vectors.prefetch_out(out_ahead + line)
        out_ahead += _u64(3 * item) * w
        r = _find_row(y, top, reflect, height)
        read_from, read_step = black, _u64(0)
        if 0 <= r < height:
            read_from, read_step = shifted + _u64(r * width), plane
        x = _u64(0)
        while True:
            # The last block ends with the row, overlapping the one before.
            q = last - x if mirror else x
            spot = target + x * _u64(pixel_bytes)
            if mirror:
                convert_block(
                    spot, step, read_from + q, read_step, mask + q, coefficients,
                    dtype, channels_last, ties, True, lanes,
                )  # fmt: skip
            else:
                convert_block(
                    spot, step, read_from + q, read_step, mask + q, coefficients,
                    dtype, channels_last, ties, False, lanes,
                )  # fmt: skip
            if x == last:
                break
            x = min(x + _u64(lanes), last)
        target += row_step


@literal
def _write_edges(
    target, step, pixels, visible, coefficients, mirror, upside_down, top, left, height, width,
    item, dtype, channels_last, ties,
):  # fmt: skip
    """Write the reflected columns, which the shift of the rows left without a pixel.

    Not row by row with the rest of the image: that loop has no registers to spare.
    """
    plane = _u64(height * width)
    pixel_bytes = 3 * item if channels_last else item
    for y in range(height):
        r = _find_row(height - 1 - y if upside_down else y, top, True, height)
        for edge in range(abs(left)):
            column = edge if left < 0 else width - 1 - edge
            found = abs(left) - edge if left < 0 else width - 1 + edge - left
            column = width - 1 - column if mirror else column
            convert_block(
                target + _u64(column * pixel_bytes), step, pixels + _u64(r * width + found), plane,
                visible, coefficients, dtype, channels_last, ties, False, 1,
            )  # fmt: skip
        target += _u64(width * pixel_bytes)


@cache
def _make_fill(
    dtype: str, channels_last: bool, ties: bool, lanes: int, own: tuple[int, int], streamed: bool
) -> Callable[..., None]:
    # Numba caches a closure by the values that it closes over, and these have to be plain.
    item, kind, pixel_type = _ITEM_SIZES[dtype], parameters_dtype(dtype), np.dtype(DTYPES[dtype])
    distance, (own_height, own_width) = _u64(_DISTANCES[item]), own

    @jit(inlines=(draws, posix, random, task, vectors))
    def fill(address, piece):
        t = record_at(address, task.TASK)
        p = record_at(t.parameters, kind)
        start = _u64(piece) * t.piece
        count = min(t.piece, t.count - start)
        height, width, crop_padding, reflect = p.height, p.width, p.crop_padding, p.reflect != 0
        if own_width:
            height, width = own_height, own_width
        plane, w, image = _u64(height * width), _u64(width), _u64(3 * height * width)
        coefficients = _join(p.scale, p.shift)
        places, drawn = np.empty(count, np.uint64), np.empty((count, draws.COUNT), np.int32)
        rows = _look_up(t, start, places)
        _ask_for(places, min(distance, count), image, streamed)
        draw(rows, _number_uses(t, start, count), p.seed, t.epoch, p.draws, drawn)
        ruler, scratch = _make_ruler(width), np.empty((3 * height + 2) * width, np.uint8)
        step = _u64(lanes * item) if channels_last else plane * _u64(item)
        target = t.out + start * image * _u64(item)
        out = array_at(target, count * image, pixel_type)
        for i in range(count):
            row, pixels = drawn[i], places[i]
            top = np.int64(row[draws.DY]) - crop_padding
            left = min(max(np.int64(row[draws.DX]) - crop_padding, -width), width)
            mirror, upside_down = row[draws.MIRROR] != 0, row[draws.UPSIDE_DOWN] != 0
            # Rows are read shifted, so the first and the last reach outside of the image by up to a
            # row. Those pixels are masked, but their page may not be there.
            if left and spills(pixels, image, _u64(abs(left))):
                pixels = _copy_image(pixels, image, scratch, w)
            # The address is taken in the loop, since numba frees an array after its last use.
            black = _u64(ruler.ctypes.data)
            mask = black + w if reflect else black + _u64(width + left)
            ahead = places[min(i + distance, count - _u64(1))]
            _write_rows(
                target, step, pixels + _u64(left), ahead, black, mask, coefficients, mirror,
                upside_down, top, reflect, height, width, own_height, own_width, item, dtype,
                channels_last, ties, lanes, streamed,
            )  # fmt: skip
            if reflect:
                _write_edges(
                    target, _u64(item) if channels_last else step, pixels, black + w, coefficients,
                    mirror, upside_down, top, left, height, width, item, dtype, channels_last,
                    ties,
                )  # fmt: skip
            if p.cutout:
                _cut_out(
                    out, i * image, height, width, p.cutout, np.int64(row[draws.CY]),
                    np.int64(row[draws.CX]), p.filler, channels_last,
                )  # fmt: skip
            target += image * _u64(item)
        return 1

    return fill
