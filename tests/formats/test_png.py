import re
import tracemalloc
import zlib
from contextlib import AbstractContextManager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cinicpack.formats.png import BadImageError, Png, inflate, read_chunks
from tests.png_images import (
    GREY,
    PALETTE,
    RGB,
    RGBA,
    SIGNATURE,
    chunk,
    header,
    png,
    random_samples,
)

SAMPLES = random_samples(RGB, 8, 3, 7)


def bad(text: str) -> AbstractContextManager[object]:
    return pytest.raises(BadImageError, match=f"^{re.escape(text)}$")


@pytest.mark.parametrize(("color_type", "channels"), [(RGB, 3), (GREY, 1)])
def test_a_common_png_has_its_compressed_rows(color_type, channels):
    samples = random_samples(color_type, 8, 3, 7)
    rows = b"".join(b"\0" + bytes(row.ravel().tolist()) for row in samples)
    found = read_chunks(png(samples, color_type))
    assert found == Png(3, 7, 8, channels, zlib.compress(rows))
    assert inflate(found) == bytearray(rows)


@pytest.mark.parametrize("cuts", [(), (0,), (1, 1, 1), (5, 20), range(30)])
def test_idat_chunks_are_joined(cuts):
    assert read_chunks(png(SAMPLES, cuts=cuts)) == read_chunks(png(SAMPLES))


@pytest.mark.parametrize(
    ("color_type", "bit_depth", "interlaced"),
    [
        (PALETTE, 8, False),
        (RGBA, 8, False),
        (RGB, 16, False),
        (RGB, 8, True),
        (GREY, 16, False),
        (GREY, 4, False),
        (GREY, 8, True),
    ],
)
def test_other_kinds_have_no_compressed_rows(color_type, bit_depth, interlaced):
    samples = random_samples(color_type, bit_depth, 3, 7)
    found = read_chunks(png(samples, color_type, bit_depth, interlaced=interlaced))
    assert found == Png(3, 7, bit_depth, 0, b"")
    assert inflate(found) is None


@pytest.mark.parametrize(
    ("kind", "enough"),
    [(b"gAMA", 4), (b"cHRM", 32), (b"pHYs", 9), (b"sRGB", 1), (b"tIME", 0), (b"bKGD", 0)],
)
def test_chunks_without_effect_leave_a_png_common(kind, enough):
    assert read_chunks(png(SAMPLES, before=[chunk(kind, bytes(enough))])).channels == 3
    assert read_chunks(png(SAMPLES, after=[chunk(kind, bytes(enough))])).channels == 3
    if enough:
        short = chunk(kind, bytes(enough - 1))
        assert read_chunks(png(SAMPLES, before=[short])).channels == 0
        assert read_chunks(png(SAMPLES, after=[short])).channels == 0


@pytest.mark.parametrize("kind", [b"tRNS", b"tEXt", b"iCCP", b"acTL", b"fcTL", b"DDAT", b"abCd"])
def test_chunks_of_unknown_effect_do_not(kind):
    assert read_chunks(png(SAMPLES, before=[chunk(kind, bytes(32))])).channels == 0


def test_nor_does_a_gap_between_idat_chunks():
    assert read_chunks(png(SAMPLES, after=[chunk(b"tIME"), chunk(b"IDAT")])).channels == 0


def test_what_follows_the_end_is_ignored():
    assert read_chunks(png(SAMPLES) + b"garbage") == read_chunks(png(SAMPLES))


def test_another_kind_of_file():
    with bad(r"not a PNG file: it starts with b'\xff\xd8\xff\xe0\x00\x10JF'"):
        read_chunks(b"\xff\xd8\xff\xe0\x00\x10JFIF\x00")


@given(st.integers(0, len(png(SAMPLES)) - 1))
def test_a_truncated_file(size):
    with pytest.raises(BadImageError, match=f"^truncated: it ends at byte {size}, b(efore|ut) its"):
        read_chunks(png(SAMPLES)[:size])


def test_a_truncated_file_names_the_chunk_it_ends_in():
    with bad("truncated: it ends at byte 60, but its IDAT chunk at 122"):
        read_chunks(png(SAMPLES)[:60])
    with bad("truncated: it ends at byte 33, before its IEND chunk"):
        read_chunks(png(SAMPLES)[:33])


@given(st.sampled_from([(b"IHDR", 8), (b"gAMA", 33), (b"IDAT", 49), (b"IEND", -12)]), st.data())
def test_a_crc_mismatch_names_the_chunk(place, data):
    kind, position = place
    file = bytearray(png(SAMPLES, before=[chunk(b"gAMA", bytes(4))]))
    position %= len(file)
    length = int.from_bytes(file[position : position + 4], "big")
    offset = data.draw(st.integers(8, 11 + length))
    file[position + offset] ^= data.draw(st.integers(1, 255))
    with bad(f"corrupt: CRC mismatch in its {kind.decode()} chunk at byte {position}"):
        read_chunks(bytes(file))


def test_something_that_is_no_chunk():
    with bad(r"corrupt: no chunk at byte 33, where b'\x00\x00ab' is the type"):
        read_chunks(png(SAMPLES, before=[chunk(b"\0\0ab")]))


@pytest.mark.parametrize(
    ("ihdr", "reason"),
    [
        (header(0, 32), "zero size: it is 0x32 pixels"),
        (header(32, 0), "zero size: it is 32x0 pixels"),
        (header(8192, 8193), "too large: it is 8192x8193 pixels, and the limit is 67108864 in all"),
        (header(2**32 - 1, 2**32 - 1), "too large: it is 4294967295x4294967295 pixels, "),
        (header(8, 8, color_type=1), "corrupt: colour type 1 with bit depth 8"),
        (header(8, 8, bit_depth=4), "corrupt: colour type 2 with bit depth 4"),
        (header(8, 8, interlace=2), "corrupt: unknown method of compression, filtering or "),
        (header(8, 8)[:-1], "corrupt: expected an IHDR of 13 bytes, found 12"),
    ],
)
def test_a_header_that_is_refused(ihdr, reason):
    with pytest.raises(BadImageError, match=f"^{re.escape(reason)}"):
        read_chunks(SIGNATURE + chunk(b"IHDR", ihdr) + chunk(b"IEND"))


def test_the_largest_image_is_not_refused():
    file = SIGNATURE + chunk(b"IHDR", header(8192, 8192)) + chunk(b"IEND")
    assert read_chunks(file)[:2] == (8192, 8192)


def test_headers_that_are_missing_or_double():
    with bad("corrupt: expected IHDR as its first chunk, found IEND"):
        read_chunks(SIGNATURE + chunk(b"IEND"))
    with bad("corrupt: expected one IHDR chunk, found another"):
        read_chunks(png(SAMPLES, before=[chunk(b"IHDR", header(9999, 9999))]))


def test_inflate_gives_the_filtered_rows():
    rows = bytes(range(66))
    assert inflate(read_chunks(png(SAMPLES, rows=rows))) == bytearray(rows)


def test_inflate_takes_rows_whose_stream_goes_on_without_content():
    stream = zlib.compressobj()
    parts = [stream.compress(bytes(66)), *(stream.flush(zlib.Z_FULL_FLUSH) for _ in range(9))]
    whole = b"".join([*parts, stream.flush()])
    assert inflate(read_chunks(png(SAMPLES, stream=whole))) == bytearray(66)


def test_inflate_ignores_what_comes_after_the_stream():
    stream = zlib.compress(bytes(66)) + b"\0"
    assert inflate(read_chunks(png(SAMPLES, stream=stream))) == bytearray(66)


@pytest.mark.parametrize(
    "stream",
    [
        b"",
        b"not zlib",
        zlib.compress(bytes(65)),
        zlib.compress(bytes(67)),
        zlib.compress(bytes(66))[:-1],
        zlib.compress(bytes(66))[:-4] + b"adlr",
    ],
    ids=["empty", "garbage", "short", "long", "cut", "adler"],
)
def test_inflate_refuses_any_other_stream(stream):
    assert inflate(read_chunks(png(SAMPLES, stream=stream))) is None


def test_inflate_does_not_follow_a_bomb():
    bomb = read_chunks(png(SAMPLES, rows=bytes(20_000_000)))
    tracemalloc.start()
    assert inflate(bomb) is None
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000
