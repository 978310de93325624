"""PNG files of every kind, written from samples with nothing but zlib."""

import struct
import zlib
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BIT_DEPTHS",
    "CHANNELS",
    "SIGNATURE",
    "chunk",
    "filter_row",
    "header",
    "png",
    "random_samples",
]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}
BIT_DEPTHS = {
    GREY: (1, 2, 4, 8, 16),
    RGB: (8, 16),
    PALETTE: (1, 2, 4, 8),
    GREY_ALPHA: (8, 16),
    RGBA: (8, 16),
}
# First column, first row, and the steps between columns and rows of the seven passes.
ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    crc = zlib.crc32(content, zlib.crc32(kind))
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)


def png(
    samples: NDArray[np.uint16],
    color_type: int = RGB,
    bit_depth: int = 8,
    *,
    filters: Sequence[int] = (0,),
    interlaced: bool = False,
    palette: bytes = b"",
    before: Iterable[bytes] = (),
    after: Iterable[bytes] = (),
    rows: bytes | None = None,
    stream: bytes | None = None,
    cuts: Sequence[int] = (),
) -> bytes:
    """Write samples (height, width, channels) as a PNG file.

    ``filters`` are taken in turn, row by row. ``before`` and ``after`` are whole chunks beside the
    IDAT chunks. ``rows`` replaces the filtered rows, ``stream`` what they are compressed to, and
    ``cuts`` are where that is cut into several IDAT chunks.
    """
    height, width, channels = samples.shape
    assert channels == CHANNELS[color_type]
    if rows is None:
        passes = ADAM7 if interlaced else ((0, 0, 1, 1),)
        rows = b"".join(
            _filtered(samples[y::dy, x::dx], bit_depth, filters) for x, y, dx, dy in passes
        )
    if stream is None:
        stream = zlib.compress(rows)
    ends = [0, *sorted(cuts), len(stream)]
    ihdr = header(width, height, bit_depth, color_type, interlace=interlaced)
    parts = [SIGNATURE, chunk(b"IHDR", ihdr)]
    if palette:
        parts.append(chunk(b"PLTE", palette))
    parts += before
    parts += [chunk(b"IDAT", stream[a:b]) for a, b in pairwise(ends)]
    parts += after
    return b"".join([*parts, chunk(b"IEND")])


def header(
    width: int, height: int, bit_depth: int = 8, color_type: int = RGB, *, interlace: int = 0
) -> bytes:
    """Write the content of an IHDR chunk."""
    return struct.pack(">IIBBBBB", width, height, bit_depth, color_type, 0, 0, interlace)


def filter_row(method: int, row: bytes, above: bytes, distance: int) -> bytes:
    """Filter a row as the specification says it; ``distance`` is that of the pixel to the left."""
    out = bytearray()
    for x, value in enumerate(row):
        a = row[x - distance] if x >= distance else 0
        b = above[x]
        c = above[x - distance] if x >= distance else 0
        out.append((value - predict(method, a, b, c)) % 256)
    return bytes(out)


def predict(method: int, a: int, b: int, c: int) -> int:
    """Predict a byte from those to the left, above and above left."""
    if method == 4:
        p = a + b - c
        return min((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c))[2]
    return (0, a, b, (a + b) // 2)[method]


def random_samples(
    color_type: int, bit_depth: int, height: int, width: int, seed: int = 0
) -> NDArray[np.uint16]:
    shape = (height, width, CHANNELS[color_type])
    return np.random.default_rng(seed).integers(0, 2**bit_depth, shape, np.uint16)


def _filtered(samples: NDArray[np.uint16], bit_depth: int, filters: Sequence[int]) -> bytes:
    height, width, channels = samples.shape
    if not samples.size:
        return b""
    distance = max(1, channels * bit_depth // 8)
    out = []
    above = bytes(-(-width * channels * bit_depth // 8))
    for y, row in enumerate(samples.reshape(height, -1)):
        method = filters[y % len(filters)]
        packed = _packed(row, bit_depth)
        out.append(bytes([method]) + filter_row(method, packed, above, distance))
        above = packed
    return b"".join(out)


def _packed(row: NDArray[np.uint16], bit_depth: int) -> bytes:
    bits = np.unpackbits(row.astype(">u2").view(np.uint8)).reshape(-1, 16)[:, 16 - bit_depth :]
    return np.packbits(bits).tobytes()
