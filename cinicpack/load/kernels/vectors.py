"""Memory by its address, and pixels in LLVM's vectors: what the kernels are built from.

Pixels are converted in blocks of up to 16, in explicit vector instructions: LLVM's own
vectorisation pays for checks in every row where sizes are not constants, which halves the speed.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic, overload, register_jitable

from cinicpack.jit import jit
from cinicpack.load.engine import posix
from cinicpack.load.engine.posix import array_at, record_at

__all__ = [
    "TOUCH", "blend_block", "bytes_at", "convert_block", "count_up", "literal", "prefetch",
    "prefetch_out", "spills", "touch",
]  # fmt: skip

Function = TypeVar("Function", bound=Callable[..., Any])

_u64 = np.uint64
_OPTIONS: Any = {"boundscheck": False, "error_model": "numpy"}
# The smallest pages there are; no machine maps or protects less than one.
_PAGE_BITS: Final = 12

_BYTE, _SHORT, _INT = ir.IntType(8), ir.IntType(16), ir.IntType(32)
_FLOAT, _HALF = ir.FloatType(), ir.HalfType()
# Numba describes its own types only in part.
_types: Any = numba.types
_ADDRESS, _COEFFICIENTS = _types.uint64, _types.UniTuple(_types.float32, 6)


def literal(function: Function) -> Function:
    """Compile a function into the kernels that call it, with constant arguments as constants.

    `register_jitable` compiles for the types of the arguments, and gives no constants to what
    takes these alone, as `convert_block` does.
    """

    @overload(function, prefer_literal=True, strict=False, jit_options=_OPTIONS)
    def compiled(*_: Any) -> Function:
        return function

    return function


# ---- memory --------------------------------------------------------------------------------------


def _type_prefetch(_typing: Any, _address: Any, streamed: Any = None) -> Any:
    # 0: into the nearest cache alone, out of which it is dropped; 3: into all of them.
    write, locality = int(streamed is None), 0 if streamed and streamed.literal_value else 3

    def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], _BYTE.as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, _INT, _INT, _INT])
        insert: Any = cgutils.get_or_insert_function
        function = insert(builder.module, kind, "llvm.prefetch.p0")
        # 1: data rather than code.
        builder.call(function, [pointer, _INT(write), _INT(locality), _INT(1)])
        return context.get_dummy_value()

    return _types.void(_ADDRESS) if write else _types.void(_ADDRESS, streamed), generate


# Prefetches of a cache line, mapped or not: to read it (a constant says whether once), to write it.
prefetch: Any = intrinsic(prefer_literal=True)(_type_prefetch)
prefetch_out: Any = intrinsic(lambda _typing, _address: _type_prefetch(_typing, _address))


def _type_count_up(_typing: Any, _address: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        one = ir.IntType(64)(1)
        before = builder.atomic_rmw("add", _at(builder, args[0], one.type), one, "acq_rel")
        return builder.add(before, one)

    return _ADDRESS(_ADDRESS), generate


# Adds 1 to the uint64 at an address and returns the sum: whoever gets the last one sees all that
# was written before by those who got the ones before.
count_up: Any = intrinsic(_type_count_up)


@register_jitable
def bytes_at(address: Any, size: Any) -> Any:
    """View ``size`` bytes of memory as an array of uint8, in compiled code."""
    return array_at(address, size, np.uint8)


#: What `touch` reads: the addresses of images, (count,) uint64, how many bytes each has, and how
#: many images are a piece.
TOUCH = np.dtype([(name, "u8") for name in ("addresses", "count", "size", "piece", "total")])


@jit(inlines=(posix,))
def touch(address: Any, piece: Any) -> int:
    """Read a byte of every page of a piece of the images of `TOUCH`, so that it is in memory."""
    t = record_at(address, TOUCH)
    start = _u64(piece) * t.piece
    addresses = array_at(t.addresses + _u64(8) * start, min(t.piece, t.count - start), np.uint64)
    total, last = _u64(0), t.size - _u64(1)
    for i in range(_u64(len(addresses))):
        image = bytes_at(addresses[_u64(i)], t.size)
        for byte in range(_u64(0), last, _u64(1) << _u64(_PAGE_BITS)):
            total += image[byte]
        total += image[last]
    # LLVM would leave the reads out if nothing came of their sum.
    t.total += total
    return 1


@register_jitable
def spills(address: Any, size: Any, margin: Any) -> Any:
    """Say whether bytes within ``margin`` of an image lie on pages that the image does not."""
    page, last = _u64(_PAGE_BITS), address + size - _u64(1)
    return (address - margin) >> page != address >> page or (last + margin) >> page != last >> page


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
    """Multiply and add, each with a rounding; ``channels`` says which channel each lane is of."""

    def lanes(first: int) -> Any:
        three = _vector(_FLOAT, 3)(ir.Undefined)
        for channel in range(3):
            value = builder.extract_value(coefficients, first + channel)
            three = builder.insert_element(three, value, _INT(channel))
        return _shuffle_lanes(builder, three, three, channels)

    values = builder.uitofp(pixels, _vector(_FLOAT, len(channels)))
    return builder.fadd(builder.fmul(values, lanes(0)), lanes(3))


def _round_bfloat16(builder: Any, values: Any, ties: bool) -> Any:
    """Round every lane to nearest in its upper 16 bits; ``ties``: halves occur, and go to even."""
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
    # For these processors LLVM would call a function that numba does not have.
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
    # Even and odd lanes are rounded apart, so that their upper halves only have to be put side by
    # side. Packing them would take a quarter longer: shifts and shuffles share two ports.
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
    _read_from: Any,
    _read_step: Any,
    _mask: Any,
    _coefficients: Any,
    dtype: Any,
    channels_last: Any,
    ties: Any,
    mirror: Any,
    lanes: Any,
) -> Any:
    literals = (dtype, channels_last, ties, mirror, lanes)
    name, last, tied, mirrored, n = (one.literal_value for one in literals)

    def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        target, target_step, read_from, read_step, mask, coefficients = args[:6]
        kind = _vector(_BYTE, n)
        visible = builder.load(_at(builder, mask, kind), align=1)
        blocks = []
        for _ in range(3):
            pixels = builder.and_(builder.load(_at(builder, read_from, kind), align=1), visible)
            if mirrored:
                pixels = _shuffle_lanes(builder, pixels, pixels, range(n - 1, -1, -1))
            blocks.append(pixels)
            read_from = builder.add(read_from, read_step)
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


# Converts a block of up to 16 pixels side by side. Channel c is read at read_from + c * read_step,
# masked, then mirrored. The results are written at target + c * target_step: channel c, or with
# channels last the c-th third of the block. The last five arguments are literals.
convert_block: Any = intrinsic(prefer_literal=True)(_type_convert)


def _decode(builder: Any, pixels: Any, dtype: str, features: str) -> Any:
    """Turn what `_encode` wrote back into float32, without rounding."""
    lanes = pixels.type.count
    if dtype == "float32":
        return pixels
    bits = builder.zext(pixels, _vector(_INT, lanes))
    floats = _vector(_FLOAT, lanes)
    if dtype == "uint8":
        return builder.uitofp(bits, floats)
    if dtype == "bfloat16":
        return builder.bitcast(builder.shl(bits, _constant(16, lanes)), floats)
    if "+f16c" in features or "+neon" in features:
        return builder.fpext(builder.bitcast(pixels, _vector(_HALF, lanes)), floats)
    size = builder.and_(bits, _constant(0x7FFF, lanes))
    sign = builder.shl(builder.xor(bits, size), _constant(16, lanes))
    normal = builder.add(builder.shl(size, _constant(13, lanes)), _constant(112 << 23, lanes))
    # Infinity's exponent is as far again from that of the largest number.
    infinite = builder.add(normal, _constant(112 << 23, lanes))
    is_finite = builder.icmp_unsigned("<", size, _constant(0x7C00, lanes))
    unit = floats([2.0**-24] * lanes)
    subnormal = builder.bitcast(builder.fmul(builder.uitofp(size, floats), unit), bits.type)
    is_small = builder.icmp_unsigned("<", size, _constant(0x400, lanes))
    found = builder.select(is_small, subnormal, builder.select(is_finite, normal, infinite))
    return builder.bitcast(builder.or_(found, sign), floats)


def _type_blend(
    _typing: Any, _target: Any, _partner: Any, _own: Any, _other: Any, dtype: Any, lanes: Any
) -> Any:
    name, n = dtype.literal_value, lanes.literal_value
    kind = {"float32": _FLOAT, "uint8": _BYTE}.get(name, _SHORT)

    def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        features, values = context.codegen()._tm_features, []
        for address, share in ((args[0], args[2]), (args[1], args[3])):
            pixels = builder.load(_at(builder, address, _vector(kind, n)), align=1)
            one = builder.insert_element(_vector(_FLOAT, n)(ir.Undefined), share, _INT(0))
            factor = _shuffle_lanes(builder, one, one, [0] * n)
            values.append(builder.fmul(_decode(builder, pixels, name, features), factor))
        mixed = builder.fadd(*values)
        if name == "float16":
            mixed = _to_float16(builder, mixed, features)
        elif name == "bfloat16":
            bits = _round_bfloat16(builder, mixed, True)
            mixed = builder.trunc(builder.lshr(bits, _constant(16, n)), _vector(_SHORT, n))
        elif name == "uint8":
            # Beside 2**23 a float32 has no fraction, so that the sum is rounded, ties to even.
            bits = builder.fadd(mixed, mixed.type([2.0**23] * n))
            mixed = builder.trunc(builder.bitcast(bits, _vector(_INT, n)), _vector(_BYTE, n))
        builder.store(mixed, _at(builder, args[0], mixed.type), align=1)
        return context.get_dummy_value()

    shares = (_types.float32,) * 2
    return _types.void(_ADDRESS, _ADDRESS, *shares, dtype, lanes), generate


# Mixes up to 16 numbers side by side with those of a partner: each times its share, added, each of
# the three rounded to float32, and the sum then to the type. The last two arguments are literals.
blend_block: Any = intrinsic(prefer_literal=True)(_type_blend)
