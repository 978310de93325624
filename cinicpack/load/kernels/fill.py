"""Kernels: the compiled code that makes orders, draws and batches.

An image is three planes of height * width bytes at an address. It becomes pixels of a batch in
blocks of up to 16, in explicit vector instructions: LLVM's own vectorisation pays for checks in
every row where sizes are not constants, which halves the speed.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Final

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic, register_jitable
from numpy.typing import NDArray

from cinicpack.jit import jit
from cinicpack.load.rng import CROP, CUTOUT, FLIP, ORDER

__all__ = [
    "ALTERNATING_FLIP",
    "NO_FLIP",
    "RANDOM_FLIP",
    "bytes_at",
    "draw",
    "fill_kernel",
    "random_words",
    "shuffle",
    "touch",
]

NO_FLIP: Final = 0
RANDOM_FLIP: Final = 1
ALTERNATING_FLIP: Final = 2

_u64 = np.uint64
# A row is converted in blocks of the first of these that it is as wide as. Blocks of 32 were seldom
# faster than 16, and up to a tenth slower; blocks of 8 are a quarter slower where a type is small.
_LANES: Final = (16, 8, 1)
# Sizes that have kernels of their own, in which they are constants: a quarter faster for bfloat16,
# a fifth for uint8, a twentieth for float32.
_OWN_SIZES: Final = ((32, 32), (64, 64))
_LINE: Final = 64
# What is drawn at once: 8 kB of words.
_COUNTERS: Final = 256
# The smallest there is; no machine maps or protects less than this.
_PAGE_BITS: Final = 12
_LOW: Final = 0xFFFFFFFF

_BYTE, _SHORT, _INT = ir.IntType(8), ir.IntType(16), ir.IntType(32)
_FLOAT, _HALF = ir.FloatType(), ir.HalfType()
# Numba describes its own types only in part.
_types: Any = numba.types
_ADDRESS, _COEFFICIENTS = _types.uint64, _types.UniTuple(_types.float32, 6)
_ITEM_SIZES: Final = {"float32": 4, "float16": 2, "bfloat16": 2, "uint8": 1}


# ---- random numbers ------------------------------------------------------------------------------


@jit
def _philox(words: NDArray[np.uint64], count: Any, seed: np.uint64) -> None:
    """Philox4x32-10, as `cinicpack.load.rng` has it, of the first ``count`` counters, in place.

    Counter i is words[0, i] to words[3, i], each below 2**32. All take one round before the next
    one, so that LLVM makes vectors of them: three times as fast as one counter after the other.
    """
    k, m = seed & _u64(_LOW), seed >> _u64(32)
    for _ in range(10):
        for i in range(_u64(count)):
            left, right = words[0, i] * _u64(0xD2511F53), words[2, i] * _u64(0xCD9E8D57)
            words[0, i] = (right >> _u64(32)) ^ words[1, i] ^ k
            words[2, i] = (left >> _u64(32)) ^ words[3, i] ^ m
            words[1, i], words[3, i] = right & _u64(_LOW), left & _u64(_LOW)
        k, m = (k + _u64(0x9E3779B9)) & _u64(_LOW), (m + _u64(0xBB67AE85)) & _u64(_LOW)


@register_jitable
def _below(word: Any, stop: Any) -> Any:
    """Bring a random word below ``stop``."""
    return np.int64((word * _u64(stop)) >> _u64(32))


@jit
def random_words(counters: NDArray[np.uint32], seed: np.uint64, out: NDArray[np.uint32]) -> None:
    """Write the four words of every counter, both (n, 4)."""
    words = counters.T.astype(np.uint64)
    _philox(words, len(counters), seed)
    out[:] = words.T


@jit
def shuffle(seed: np.uint64, epoch: np.uint64, count: int) -> NDArray[np.int64]:
    """Return a permutation of 0 to ``count`` - 1, below 2**32: (count,) int64."""
    words = np.empty((4, _COUNTERS), np.uint64)
    # Half as wide as what is returned, so that more of it stays in the cache.
    order = np.arange(count).astype(np.uint32)
    i: Any = _u64(max(count, 1) - 1)
    while i:
        # A counter gives the draws for two places.
        first = (i >> _u64(1)) // _u64(_COUNTERS) * _u64(_COUNTERS)
        for block in range(_u64(_COUNTERS)):
            words[0, block], words[1, block] = first + block, epoch
            words[2, block], words[3, block] = ORDER, 0
        _philox(words, _COUNTERS, seed)
        while i >> _u64(1) >= first and i:
            block, half = (i >> _u64(1)) - first, (i & _u64(1)) << _u64(1)
            low, high = words[half, block], words[half + _u64(1), block]
            stop = i + _u64(1)
            # The high half of a product of 64 bits by 32.
            j = (high * stop + ((low * stop) >> _u64(32))) >> _u64(32)
            order[i], order[j] = order[j], order[i]
            i -= _u64(1)
    return order.astype(np.int64)


@jit
def draw(
    index: NDArray[np.int64],
    seed: np.uint64,
    epoch: np.uint64,
    height: int,
    width: int,
    crop_padding: int,
    flip: int,
    cutout: int,
    out: NDArray[np.int32],
) -> None:
    """Write what happens to the first n samples of ``index``: (n, 5) of dy, dx, mirror, cy, cx.

    dy and dx are where the crop starts in the padded image, mirror is 0 or 1, and (cy, cx) is the
    centre of the cutout; what is not asked for is 0.
    """
    words = np.empty((4, _COUNTERS), np.uint64)
    out[:] = 0
    for start in range(_u64(0), _u64(len(out)), _u64(_COUNTERS)):
        count = min(_u64(_COUNTERS), _u64(len(out)) - start)
        samples, rows = index[start : start + count], out[start : start + count]
        if crop_padding or flip == RANDOM_FLIP:
            _draw_words(samples, epoch, CROP, seed, words)
            for i in range(count):
                rows[i, 0] = _below(words[0, i], 2 * crop_padding + 1)
                rows[i, 1] = _below(words[1, i], 2 * crop_padding + 1)
                if flip == RANDOM_FLIP:
                    rows[i, 2] = words[2, i] >> _u64(31)
        if flip == ALTERNATING_FLIP:
            _draw_words(samples, _u64(0), FLIP, seed, words)
            for i in range(count):
                rows[i, 2] = (words[0, i] >> _u64(31)) ^ (epoch & _u64(1))
        if cutout:
            _draw_words(samples, epoch, CUTOUT, seed, words)
            for i in range(count):
                rows[i, 3] = _below(words[0, i], height)
                rows[i, 4] = _below(words[1, i], width)


@jit
def _draw_words(
    samples: NDArray[np.int64], epoch: Any, purpose: int, seed: Any, words: NDArray[np.uint64]
) -> None:
    for i in range(_u64(len(samples))):
        words[0, i], words[1, i] = samples[i], epoch
        words[2, i], words[3, i] = purpose, 0
    _philox(words, len(samples), seed)


# ---- memory --------------------------------------------------------------------------------------


def _type_pointer(_typing: Any, _address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return _types.CPointer(_types.uint8)(_ADDRESS), generate


def _type_prefetch(_typing: Any, _address: Any, write: int) -> Any:
    def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], _BYTE.as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, _INT, _INT, _INT])
        insert: Any = cgutils.get_or_insert_function
        function = insert(builder.module, kind, "llvm.prefetch.p0")
        # As near to the core as possible, data rather than code.
        builder.call(function, [pointer, _INT(write), _INT(3), _INT(1)])
        return context.get_dummy_value()

    return _types.void(_ADDRESS), generate


_pointer: Any = intrinsic(_type_pointer)
# They ask for the cache line at an address, which need not be mapped.
_prefetch: Any = intrinsic(lambda _typing, _address: _type_prefetch(_typing, _address, 0))
_prefetch_out: Any = intrinsic(lambda _typing, _address: _type_prefetch(_typing, _address, 1))
_carray: Any = getattr(numba, "carray")  # noqa: B009


@register_jitable
def bytes_at(address: Any, size: Any) -> Any:
    """View ``size`` bytes of memory as an array of uint8, in compiled code."""
    return _carray(_pointer(address), size)


@jit
def touch(addresses: NDArray[np.uint64], size: int) -> int:
    """Read a byte of every page of the ``size`` bytes at each address, so that it is in memory."""
    total, last = _u64(0), _u64(size - 1)
    for i in range(_u64(len(addresses))):
        image = bytes_at(addresses[_u64(i)], size)
        for byte in range(_u64(0), last, _u64(1) << _u64(_PAGE_BITS)):
            total += image[byte]
        total += image[last]
    # Were it not returned, nothing would be read.
    return int(total)


# ---- blocks of pixels ----------------------------------------------------------------------------


def _vector(kind: Any, lanes: int) -> Any:
    return ir.VectorType(kind, lanes)


def _constant(value: int, lanes: int) -> Any:
    return ir.Constant(_vector(_INT, lanes), [value] * lanes)


def _at(builder: Any, address: Any, kind: Any) -> Any:
    return builder.inttoptr(address, kind.as_pointer())


def _shuffle_lanes(builder: Any, first: Any, second: Any, lanes: Sequence[int]) -> Any:
    return builder.shuffle_vector(
        first, second, ir.Constant(_vector(_INT, len(lanes)), list(lanes))
    )


def _interleave(builder: Any, planes: Sequence[Any]) -> Any:
    """Turn a block of each channel into three with the channels of a pixel side by side."""
    blocks, lanes = [], planes[0].type.count
    for number in range(3):
        spots = range(number * lanes, (number + 1) * lanes)
        two = [spot // 3 + lanes * (spot % 3) if spot % 3 < 2 else 0 for spot in spots]
        all_ = [lane if spot % 3 < 2 else lanes + spot // 3 for lane, spot in enumerate(spots)]
        both = _shuffle_lanes(builder, planes[0], planes[1], two)
        blocks.append(_shuffle_lanes(builder, both, planes[2], all_))
    return blocks


def _affine(builder: Any, pixels: Any, coefficients: Any, channels: Sequence[int]) -> Any:
    """Multiply and add, rounding twice; ``channels`` says which channel each lane is of."""

    def lanes(first: int) -> Any:
        three = _vector(_FLOAT, 3)(ir.Undefined)
        for channel in range(3):
            value = builder.extract_value(coefficients, first + channel)
            three = builder.insert_element(three, value, _INT(channel))
        return _shuffle_lanes(builder, three, three, channels)

    values = builder.uitofp(pixels, _vector(_FLOAT, len(channels)))
    return builder.fadd(builder.fmul(values, lanes(0)), lanes(3))


def _round_bfloat16(builder: Any, values: Any, ties: bool) -> Any:
    """Round to nearest in the upper 16 bits of every lane, ties to even (if there are any)."""
    lanes = values.type.count
    bits = builder.bitcast(values, _vector(_INT, lanes))
    rounded = builder.add(bits, _constant(0x8000, lanes))
    if not ties:
        return rounded
    odd = builder.and_(bits, _constant(0x10000, lanes))
    even = builder.icmp_unsigned("==", odd, _constant(0, lanes))
    return builder.add(rounded, builder.sext(even, bits.type))


def _to_float16(builder: Any, values: Any, features: str) -> Any:
    """Round to nearest float16, ties to even."""
    lanes = values.type.count
    if "+f16c" in features or "+neon" in features:
        return builder.fptrunc(values, _vector(_HALF, lanes))
    # LLVM would call a function here that numba does not have.
    bits = builder.bitcast(values, _vector(_INT, lanes))
    sign = builder.and_(bits, _constant(0x80000000, lanes))
    size = builder.xor(bits, sign)
    odd = builder.and_(builder.lshr(size, _constant(13, lanes)), _constant(1, lanes))
    # The exponent's bias goes from 127 to 15; what is too large becomes infinity.
    biased = builder.add(builder.add(size, odd), _constant(0xFFF - (112 << 23), lanes))
    normal = builder.lshr(biased, _constant(13, lanes))
    infinity = _constant(0x7C00, lanes)
    normal = builder.select(builder.icmp_unsigned("<", normal, infinity), normal, infinity)
    # Beside a half, the last bit of a float32 is that of a subnormal float16.
    half = _vector(_FLOAT, lanes)([0.5] * lanes)
    shifted = builder.fadd(builder.bitcast(size, half.type), half)
    subnormal = builder.sub(builder.bitcast(shifted, bits.type), _constant(0x3F000000, lanes))
    small = builder.icmp_unsigned("<", size, _constant(113 << 23, lanes))
    rounded = builder.or_(
        builder.select(small, subnormal, normal), builder.lshr(sign, _constant(16, lanes))
    )
    return builder.trunc(rounded, _vector(_SHORT, lanes))


def _encode(
    builder: Any,
    pixels: Any,
    coefficients: Any,
    channels: Sequence[int],
    dtype: str,
    ties: bool,
    features: str,
) -> Any:
    lanes = len(channels)
    if dtype == "uint8":
        return pixels
    if dtype != "bfloat16" or lanes == 1:
        wide = builder.zext(pixels, _vector(_INT, lanes))
        values = _affine(builder, wide, coefficients, channels)
        if dtype == "float32":
            return values
        if dtype == "float16":
            return _to_float16(builder, values, features)
        bits = builder.lshr(_round_bfloat16(builder, values, ties), _constant(16, lanes))
        return builder.trunc(bits, _vector(_SHORT, lanes))
    # Even and odd lanes apart, so that their upper halves only have to be put side by side: packing
    # them would keep the two ports busy that shifts and shuffles have (a quarter slower).
    half = lanes // 2
    pairs = builder.zext(builder.bitcast(pixels, _vector(_SHORT, half)), _vector(_INT, half))
    even = builder.and_(pairs, _constant(0xFF, half))
    odd = builder.lshr(pairs, _constant(8, half))
    low = _round_bfloat16(builder, _affine(builder, even, coefficients, channels[0::2]), ties)
    high = _round_bfloat16(builder, _affine(builder, odd, coefficients, channels[1::2]), ties)
    low = builder.lshr(low, _constant(16, half))
    return builder.or_(low, builder.and_(high, _constant(0xFFFF0000, half)))


def _type_convert(
    _typing: Any,
    _target: Any,
    _target_step: Any,
    _source: Any,
    _source_step: Any,
    _mask: Any,
    _coefficients: Any,
    dtype: Any,
    channels_last: Any,
    ties: Any,
    mirror: Any,
    lanes: Any,
) -> Any:
    literals = (dtype, channels_last, ties, mirror, lanes)
    name, last, tied, mirrored, n = (literal.literal_value for literal in literals)

    def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        target, target_step, source, source_step, mask, coefficients = args[:6]
        kind = _vector(_BYTE, n)
        visible = builder.load(_at(builder, mask, kind), align=1)
        blocks = []
        for _ in range(3):
            pixels = builder.and_(builder.load(_at(builder, source, kind), align=1), visible)
            if mirrored:
                pixels = _shuffle_lanes(builder, pixels, pixels, range(n - 1, -1, -1))
            blocks.append(pixels)
            source = builder.add(source, source_step)
        features = context.codegen()._tm_features
        channels = [[channel] * n for channel in range(3)]
        if last and n > 1:
            blocks = _interleave(builder, blocks)
            channels = [[spot % 3 for spot in range(c * n, (c + 1) * n)] for c in range(3)]
        for pixels, which in zip(blocks, channels, strict=True):
            encoded = _encode(builder, pixels, coefficients, which, name, tied, features)
            builder.store(encoded, _at(builder, target, encoded.type), align=1)
            target = builder.add(target, target_step)
        return context.get_dummy_value()

    return _types.void(*(_ADDRESS,) * 5, _COEFFICIENTS, *literals), generate


# Converts one block, which is up to 16 pixels side by side. Channel c is read at source +
# c * source_step and masked, then mirrored; what comes out is written at target + c * target_step:
# channel c, or with channels last the c-th third of the block. The last five are literals.
_convert: Any = intrinsic(prefer_literal=True)(_type_convert)


# ---- batches -------------------------------------------------------------------------------------


def fill_kernel(
    dtype: str,
    channels_last: bool,
    height: int,
    width: int,
    scale: NDArray[np.float32],
    shift: NDArray[np.float32],
) -> Callable[..., None]:
    """Return the kernel that fills batches of a type and layout.

    Args:
        dtype: "float32", "float16", "bfloat16" or "uint8".
        channels_last: write (H, W, 3) rather than (3, H, W).
        height: of the images, the one that the kernel will be called with.
        width: likewise.
        scale: (3,), likewise.
        shift: (3,), likewise.

    The kernel's arguments, all arrays in C order and writeable (any other type of array would be
    compiled for anew):

        samples       int64 (n,)    positions in the tables
        addresses     uint64 (N,)   where the images lie in memory
        indices       int64 (N,)    rows in what the split names, which the draws depend on
        labels        int64 (N,)
        seed          np.uint64
        epoch         np.uint64     below 2**32
        crop_padding  int           below height and width if reflected
        reflect       bool          pad by reflection; else black
        flip          int           NO_FLIP, RANDOM_FLIP or ALTERNATING_FLIP
        cutout        int           side of the square; 0: none
        height        int
        width         int
        scale         float32 (3,)  a pixel's value is pixel * scale + shift, rounded twice,
        shift         float32 (3,)  then to ``dtype``, ties to even; unused for uint8
        filler        (3,)          what a cutout is set to, of the type of ``out``
        out           (n*3*H*W,)    float32; uint16, the bits of float16 or bfloat16; uint8
        out_labels    int64 (n,)
        out_index     int64 (n,)    these three may be longer
    """
    ties = dtype == "bfloat16" and _has_ties(scale, shift)
    lanes = next(lanes for lanes in _LANES if lanes <= width)
    own_height, own_width = (height, width) if (height, width) in _OWN_SIZES else (0, 0)
    return _make_fill(dtype, bool(channels_last), ties, lanes, own_height, own_width)


def _has_ties(scale: NDArray[np.float32], shift: NDArray[np.float32]) -> bool:
    """Say whether a pixel's value lies in the middle between two bfloat16.

    One in a hundred choices of mean and std has such; without, rounding takes two instructions
    of five.
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
    """Make what a mask for any shift of a row is a part of: three rows, the one amid visible."""
    ruler = np.zeros(3 * width, np.uint8)
    for x in range(_u64(width), _u64(2 * width)):
        ruler[x] = 255
    return ruler


@register_jitable
def _spills(address: Any, size: Any, margin: Any) -> Any:
    """Say whether bytes within ``margin`` of an image lie on pages that the image does not."""
    page, last = _u64(_PAGE_BITS), address + size - _u64(1)
    return (address - margin) >> page != address >> page or (last + margin) >> page != last >> page


@jit
def _look_up(
    samples: NDArray[np.int64],
    addresses: NDArray[np.uint64],
    indices: NDArray[np.int64],
    labels: NDArray[np.int64],
    places: NDArray[np.uint64],
    out_labels: NDArray[np.int64],
    out_index: NDArray[np.int64],
) -> None:
    """Read all tables at once: their cache misses overlap here, but would not between images."""
    for i in range(_u64(len(samples))):
        sample = _u64(samples[i])
        places[i] = addresses[sample]
        out_labels[i] = labels[sample]
        out_index[i] = indices[sample]


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


@cache
def _make_fill(
    dtype: str, channels_last: bool, ties: bool, lanes: int, own_height: int, own_width: int
) -> Callable[..., None]:
    # Numba caches a closure by the values it closes over, so these may be strings and numbers only.
    item = _ITEM_SIZES[dtype]
    pixel_bytes = 3 * item if channels_last else item
    prefetch_out = item < 4

    @jit
    def fill(
        samples: NDArray[np.int64],
        addresses: NDArray[np.uint64],
        indices: NDArray[np.int64],
        labels: NDArray[np.int64],
        seed: np.uint64,
        epoch: np.uint64,
        crop_padding: int,
        reflect: bool,
        flip: int,
        cutout: int,
        height: int,
        width: int,
        scale: NDArray[np.float32],
        shift: NDArray[np.float32],
        filler: NDArray[Any],
        out: NDArray[Any],
        out_labels: NDArray[np.int64],
        out_index: NDArray[np.int64],
    ) -> None:
        count = _u64(len(samples))
        if not count:
            return
        if own_width:
            height, width = own_height, own_width
        plane, w = _u64(height * width), _u64(width)
        image = _u64(3) * plane
        places = np.empty(len(samples), np.uint64)
        _look_up(samples, addresses, indices, labels, places, out_labels, out_index)
        draws = np.empty((len(samples), 5), np.int32)
        draw(out_index, seed, epoch, height, width, crop_padding, flip, cutout, draws)
        ruler = _make_ruler(width)
        scratch = np.empty(3 * height * width + 2 * width, np.uint8)
        coefficients = (scale[0], scale[1], scale[2], shift[0], shift[1], shift[2])
        last = w - _u64(lanes)
        step = _u64(lanes * item) if channels_last else plane * _u64(item)
        one_step = _u64(item) if channels_last else step
        target = _u64(out.ctypes.data)
        for i in range(count):
            row = draws[i]
            top = np.int64(row[0]) - crop_padding
            left = min(max(np.int64(row[1]) - crop_padding, -width), width)
            mirror = row[2] != 0
            pixels = places[i]
            # Rows are read shifted, so the first and last reach outside of the image by up to a
            # row. That is masked; it must only not touch a page that may not be there.
            if left and _spills(pixels, image, _u64(abs(left))):
                pixels = _copy_image(pixels, image, scratch, w)
            # In the loop, since numba frees an array after its last use.
            black = _u64(ruler.ctypes.data)
            mask = black + w if reflect else black + _u64(width + left)
            # Images come in random order from more memory than any cache holds: the next one is
            # asked for row by row, which is worth a quarter of the speed (all at once: half that).
            ahead = places[min(i + _u64(1), count - _u64(1))]
            # Where batches are small, so is what is written; for float32 that gains nothing.
            out_ahead = target + image * _u64(item)
            for y in range(height):
                for line in range(_u64(0), _u64(3) * w, _u64(_LINE)):
                    _prefetch(ahead + line)
                ahead += _u64(3) * w
                if prefetch_out:
                    for line in range(_u64(0), _u64(3 * item) * w, _u64(_LINE)):
                        _prefetch_out(out_ahead + line)
                    out_ahead += _u64(3 * item) * w
                r = y + top
                if reflect:
                    r = abs(r)
                    r = min(r, 2 * (height - 1) - r)
                source, source_step = black, _u64(0)
                if 0 <= r < height:
                    source, source_step = pixels + _u64(r * width + left), plane
                x = _u64(0)
                while True:
                    # The last block ends with the row, overlapping the one before.
                    q = last - x if mirror else x
                    spot = target + x * _u64(pixel_bytes)
                    if mirror:
                        _convert(
                            spot, step, source + q, source_step, mask + q, coefficients,
                            dtype, channels_last, ties, True, lanes,
                        )  # fmt: skip
                    else:
                        _convert(
                            spot, step, source + q, source_step, mask + q, coefficients,
                            dtype, channels_last, ties, False, lanes,
                        )  # fmt: skip
                    if x == last:
                        break
                    x = min(x + _u64(lanes), last)
                target += w * _u64(pixel_bytes)
            if reflect:
                # The columns that the shift left without a pixel. Not in the loop above, which has
                # no registers to spare.
                spot = target - plane * _u64(pixel_bytes)
                for y in range(height):
                    r = abs(y + top)
                    r = min(r, 2 * (height - 1) - r)
                    for edge in range(abs(left)):
                        column = edge if left < 0 else width - 1 - edge
                        found = abs(left) - edge if left < 0 else width - 1 + edge - left
                        column = width - 1 - column if mirror else column
                        _convert(
                            spot + _u64(column * pixel_bytes), one_step,
                            pixels + _u64(r * width + found), plane, black + w, coefficients,
                            dtype, channels_last, ties, False, 1,
                        )  # fmt: skip
                    spot += w * _u64(pixel_bytes)
            if cutout:
                start = i * image
                _cut_out(
                    out, start, height, width, cutout, np.int64(row[3]), np.int64(row[4]), filler,
                    channels_last,
                )  # fmt: skip
            if not channels_last:
                target += _u64(2) * plane * _u64(item)

    return fill
