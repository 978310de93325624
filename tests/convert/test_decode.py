import struct
import tracemalloc
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageFile

from cinicpack import cinic10
from cinicpack.convert.decode import decode_images, is_image, measure_image
from cinicpack.convert.files import Content
from cinicpack.formats.png import read_chunks
from tests import outside
from tests.png_images import (
    BIT_DEPTHS,
    GREY,
    GREY_ALPHA,
    PALETTE,
    RGB,
    RGBA,
    SIGNATURE,
    chunk,
    header,
    png,
    random_samples,
)

# What ImageFolder loads besides PNG.
NAMES = [f"a.{end}" for end in ("jpg", "jpeg", "JPG", "ppm", "bmp", "Pgm", "tif", "TIFF", "webp")]
KINDS = [(color_type, depth) for color_type, depths in BIT_DEPTHS.items() for depth in depths]
SAMPLES = random_samples(RGB, 8, 3, 7)
ROWS = b"".join(b"\0" + bytes(row.ravel().tolist()) for row in SAMPLES)
STREAM = zlib.compress(ROWS)


def image_of(
    kind: tuple[int, int],
    height: int,
    width: int,
    *,
    filters: Sequence[int] = (0,),
    interlaced: bool = False,
    seed: int = 0,
    before: Sequence[bytes] = (),
    cuts: Sequence[int] = (),
) -> bytes:
    color_type, bit_depth = kind
    palette = b""
    if color_type == PALETTE:
        palette = np.random.default_rng(seed + 1).bytes(3 * 2**bit_depth)
    return png(
        random_samples(color_type, bit_depth, height, width, seed),
        color_type,
        bit_depth,
        filters=filters,
        interlaced=interlaced,
        palette=palette,
        before=before,
        cuts=cuts,
    )


def decode_all(
    files: Iterable[Content],
) -> tuple[dict[int, NDArray[np.uint8]], dict[int, str], list[int]]:
    """Give by number the pixels and the reasons, and which images were reduced."""
    pixels: dict[int, NDArray[np.uint8]] = {}
    bad: dict[int, str] = {}
    reduced: list[int] = []
    for decoded in decode_images(files):
        for numbers, images in decoded.images:
            assert numbers == sorted(numbers)
            assert images.flags.c_contiguous
            pixels |= dict(zip(numbers, images, strict=True))
        assert decoded.bad == sorted(decoded.bad)
        bad |= dict(decoded.bad)
        reduced += decoded.reduced
    return pixels, bad, reduced


def pixels_of(file: bytes) -> NDArray[np.uint8]:
    pixels, bad, _ = decode_all([file])
    assert not bad
    return pixels[0]


def reason_of(file: bytes) -> str:
    pixels, bad, reduced = decode_all([file])
    assert not pixels
    assert not reduced
    return bad[0]


def assert_same_as_pillow(file: bytes) -> None:
    with warnings.catch_warnings(action="ignore"), Image.open(BytesIO(file)) as image:
        expected = np.array(image.convert("RGB"))
    np.testing.assert_array_equal(pixels_of(file), expected, strict=True)


@pytest.mark.parametrize("color_type", [RGB, GREY])
def test_a_common_png_does_without_pillow(monkeypatch, color_type):
    monkeypatch.delattr("cinicpack.convert.pngs.PngImageFile")
    samples = random_samples(color_type, 8, 3, 7)
    expected = np.broadcast_to(samples, (3, 7, 3)).astype(np.uint8)
    np.testing.assert_array_equal(pixels_of(png(samples, color_type)), expected, strict=True)


@pytest.mark.parametrize("size", [(1, 1), (3, 7), (9, 16), (32, 32)])
@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_the_pixels_that_pillow_gives(kind, interlaced, size):
    height, width = size
    assert_same_as_pillow(image_of(kind, height, width, filters=range(5), interlaced=interlaced))


@settings(deadline=None)
@given(
    kind=st.sampled_from([*KINDS, *[(RGB, 8)] * 10]),
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    filters=st.lists(st.integers(0, 4), min_size=1, max_size=20),
    interlaced=st.booleans(),
    seed=st.integers(0, 2**32),
    cuts=st.lists(st.integers(0, 40), max_size=4),
)
def test_any_image_has_the_pixels_that_pillow_gives(
    kind, height, width, filters, interlaced, seed, cuts
):
    assert_same_as_pillow(
        image_of(kind, height, width, filters=filters, interlaced=interlaced, seed=seed, cuts=cuts)
    )


def test_real_images():
    tiles = [tile for name in cinic10.CLASSES for tile in outside.read_tiles(name)]
    files = []
    for tile in tiles:
        file = BytesIO()
        Image.fromarray(tile).save(file, "png")
        files.append(file.getvalue())
    pixels, bad, _ = decode_all(files)
    assert not bad
    for number, tile in enumerate(tiles):
        np.testing.assert_array_equal(pixels[number], tile, strict=True)


def test_images_of_many_sizes_and_kinds_keep_their_order():
    files = [
        image_of(kind, height, width, seed=seed)
        for seed, (kind, height, width) in enumerate(
            [((RGB, 8), 3, 7), ((GREY, 8), 3, 7), ((RGB, 8), 7, 3), ((PALETTE, 4), 2, 2)] * 3
        )
    ]
    files.insert(5, b"")
    pixels, bad, _ = decode_all(files)
    assert bad == {5: "truncated: it ends at byte 0, before its IEND chunk"}
    assert sorted([*pixels, *bad]) == list(range(len(files)))
    for number, image in pixels.items():
        np.testing.assert_array_equal(image, pixels_of(files[number]), strict=True)


def test_images_of_one_size_are_in_one_array_whatever_they_were_decoded_with():
    unknown = png(SAMPLES, stream=zlib.compress(b"\5" + ROWS[1:]))
    kinds = [(RGB, 8), (PALETTE, 4), (GREY, 8), (RGB, 16), (GREY_ALPHA, 8), (RGB, 8)]
    files = [image_of(kind, 3, 7, seed=seed) for seed, kind in enumerate(kinds)]
    files.insert(2, unknown)
    [decoded] = decode_images(files)
    [(numbers, images)] = decoded.images
    assert numbers == [0, 1, 3, 4, 5, 6]
    assert [number for number, _ in decoded.bad] == [2]
    assert decoded.reduced == [4]
    for number, image in zip(numbers, images, strict=True):
        np.testing.assert_array_equal(image, pixels_of(files[number]), strict=True)


@pytest.mark.parametrize("count", [255, 256, 257, 600])
def test_numbers_go_on_from_batch_to_batch(count):
    files = [png(np.full((1, 2, 3), number % 256, np.uint16)) for number in range(count)]
    files[254] = b""
    pixels, bad, _ = decode_all(iter(files))
    assert [*bad] == [254]
    assert sorted([*pixels, 254]) == list(range(count))
    for number, image in pixels.items():
        assert (image == number % 256).all()


def test_no_images():
    assert list(decode_images([])) == []


def test_an_error_in_place_of_a_file_is_the_reason():
    file = png(SAMPLES)
    unread = [OSError(27, "expected at most 5 bytes, found 7", "train/a.png"), OSError("timed out")]
    pixels, bad, _ = decode_all([file, unread[0], file, unread[1]])
    assert [*pixels] == [0, 2]
    assert bad == {1: "expected at most 5 bytes, found 7", 3: "timed out"}


def test_large_images_are_not_all_in_memory_at_once():
    height, width, count = 400, 1000, 60
    common = png(np.full((height, width, 3), 7, np.uint16))
    unusual = png(np.full((height, width, 1), 7, np.uint16), GREY, 16)
    files = [unusual if number % 2 else common for number in range(count)]
    # First without measuring, since what is compiled takes memory too.
    assert len(decode_all(files)[0]) == count
    tracemalloc.start()
    for decoded in decode_images(files):
        for _, images in decoded.images:
            assert images.shape[1:] == (height, width, 3)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 3 * height * width * count / 2


def test_large_files_are_not_all_in_memory_at_once():
    file = png(random_samples(RGB, 8, 400, 1000))
    asked = 0

    def give() -> Iterator[bytes]:
        nonlocal asked
        for _ in range(40):
            asked += 1
            yield file

    done = 0
    for decoded in decode_images(give()):
        assert asked <= done + 10
        done += sum(len(numbers) for numbers, _ in decoded.images)
    assert done == 40


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_16_bits_are_told(kind):
    _, _, reduced = decode_all([image_of(kind, 3, 7)])
    assert reduced == ([0] if kind[1] == 16 else [])


def test_how_16_bits_are_reduced():
    values = np.array([[[0x0012], [0x00FF], [0x0100], [0xABCD]]], np.uint16)
    grey = pixels_of(png(values, GREY, 16))
    color = pixels_of(png(values.repeat(3, 2), RGB, 16))
    assert grey[0, :, 0].tolist() == [0x12, 0xFF, 0xFF, 0xFF]
    assert color[0, :, 0].tolist() == [0x00, 0x00, 0x01, 0xAB]


ANCILLARY = {
    "gAMA": [chunk(b"gAMA", struct.pack(">I", 45455))],
    "text": [chunk(b"tEXt", b"Comment\0hello"), chunk(b"zTXt", b"a\0\0" + zlib.compress(b"b"))],
    "international text": [chunk(b"iTXt", b"Title\0\0\0en\0Title\0hello")],
    "profile": [chunk(b"iCCP", b"name\0\0" + zlib.compress(bytes(200)))],
    "animation": [
        chunk(b"acTL", struct.pack(">II", 1, 0)),
        chunk(b"fcTL", struct.pack(">5I2H2B", 0, 7, 3, 0, 0, 1, 1, 0, 0)),
    ],
    "animation without frames": [chunk(b"acTL", bytes(8))],
    "private": [chunk(b"prVt", b"whatever"), chunk(b"PRVT", b"whatever")],
}


@pytest.mark.parametrize("name", ANCILLARY)
@pytest.mark.parametrize("color_type", [RGB, GREY, RGBA])
def test_other_chunks_have_the_effect_that_they_have_in_pillow(name, color_type):
    assert_same_as_pillow(image_of((color_type, 8), 3, 7, before=ANCILLARY[name]))


@pytest.mark.parametrize("color_type", [RGB, GREY])
@pytest.mark.parametrize(
    "kind", ["PLTE", "bKGD", "cHRM", "eXIf", "gAMA", "hIST", "pHYs", "sBIT", "sRGB", "tIME"]
)
def test_chunks_that_have_no_effect_have_none_in_pillow(kind, color_type):
    before = [chunk(kind.encode(), bytes(48))]
    file = image_of((color_type, 8), 3, 7, filters=range(5), before=before)
    # Else Pillow would be compared with Pillow.
    assert read_chunks(file).channels
    assert_same_as_pillow(file)


def test_a_window_that_zlib_does_not_know_is_refused_as_by_pillow():
    file = png(SAMPLES, stream=b"\x88\x1c" + STREAM[2:])
    _, bad, _ = decode_all([file, png(SAMPLES)])
    assert list(bad) == [0]
    assert "Pillow cannot decode it" in bad[0]


def test_the_state_of_the_program_survives_several_threads():
    filters, lenient = list(warnings.filters), ImageFile.LOAD_TRUNCATED_IMAGES
    files = 40 * [image_of((RGBA, 8), 3, 7)]
    with ThreadPoolExecutor(4) as threads:
        for decoded in threads.map(lambda _: [decode_all([file]) for file in files], range(20)):
            assert not any(bad for _, bad, _ in decoded)
    assert warnings.filters == filters
    assert ImageFile.LOAD_TRUNCATED_IMAGES is lenient


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ((GREY, 1), b"\0\1"),
        ((GREY, 8), b"\0\x80"),
        ((GREY, 16), b"\0\x80"),
        ((RGB, 8), bytes(range(6))),
        ((RGB, 16), bytes(range(6))),
        ((PALETTE, 8), b"\xff\0\xff"),
        ((PALETTE, 8), b"\0\x80\xff\x10"),
        ((PALETTE, 2), b"\0\x80"),
    ],
)
def test_transparency_is_ignored_as_in_pillow(kind, content):
    assert_same_as_pillow(image_of(kind, 3, 7, before=[chunk(b"tRNS", content)]))


@pytest.mark.parametrize(
    "stream",
    [STREAM + b"more", zlib.compress(ROWS * 2), zlib.compress(ROWS[:44])],
    ids=["excess", "long", "short"],
)
def test_streams_that_are_not_as_they_should_be_but_pillow_accepts(stream):
    assert_same_as_pillow(png(SAMPLES, stream=stream))


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        (b"", "image file is truncated"),
        (STREAM[:30], "image file is truncated"),
        (STREAM[:-4] + b"adlr", "broken data stream when reading image file"),
        (b"garbage", "broken data stream when reading image file"),
        (zlib.compress(b"\5" + ROWS[1:]), "unrecognized data stream contents"),
    ],
    ids=["empty", "cut", "adler", "garbage", "filter"],
)
@pytest.mark.parametrize("lenient", [False, True])
def test_what_pillow_refuses(monkeypatch, stream, reason, lenient):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
    found = reason_of(png(SAMPLES, stream=stream))
    assert found.startswith(f"Pillow cannot decode it: {reason}")
    assert ImageFile.LOAD_TRUNCATED_IMAGES is lenient


def test_a_short_chunk_is_refused_with_the_reason_that_pillow_has():
    file = png(SAMPLES, before=[chunk(b"gAMA", b"\0")])
    assert reason_of(file) == "Pillow cannot decode it: Truncated gAMA chunk"


def test_a_text_that_pillow_takes_for_its_own_note_has_that_effect():
    file = png(SAMPLES, before=[chunk(b"tEXt", b"interlace\0yes")])
    assert reason_of(file).startswith("Pillow cannot decode it: ")


def test_a_file_of_another_kind():
    file = BytesIO()
    Image.new("RGB", (3, 7)).save(file, "gif")
    reason = "no PNG, JPEG, PPM, BMP, TIFF or WebP file: it starts with b'GIF87a"
    assert reason_of(file.getvalue()).startswith(reason)


def test_bombs():
    large = SIGNATURE + chunk(b"IHDR", header(50_000, 50_000)) + chunk(b"IEND")
    assert reason_of(large).startswith("too large: it is 50000x50000 pixels")
    bomb = zlib.compress(bytes(2_000_000))
    text = chunk(b"zTXt", b"key\0\0" + bomb)
    assert "too large" in reason_of(png(SAMPLES, before=[text]))
    profile = chunk(b"iCCP", b"name\0\0" + bomb)
    assert "too large" in reason_of(png(SAMPLES, before=[profile]))


def test_pillow_never_warns_and_has_no_limit_of_its_own(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels_of(image_of((GREY, 4), 32, 32))
        pixels_of(image_of((PALETTE, 8), 3, 7, before=[chunk(b"tRNS", b"\1\2\3")]))
        pixels_of(png(SAMPLES, before=[chunk(b"acTL", bytes(8))]))


DAMAGED = [
    png(SAMPLES, filters=range(5)),
    image_of((GREY, 8), 3, 7, filters=range(5)),
    png(SAMPLES, before=ANCILLARY["gAMA"], cuts=[20], filters=range(5)),
    image_of((PALETTE, 4), 3, 7, before=[chunk(b"tRNS", b"\0\x80")]),
    image_of((GREY_ALPHA, 16), 3, 7, interlaced=True),
    png(SAMPLES, before=ANCILLARY["animation"] + ANCILLARY["text"]),
]


@pytest.mark.parametrize("file", DAMAGED)
def test_whichever_byte_is_damaged_the_image_is_refused(file):
    pixels = pixels_of(file)
    trailing = b"trailing"
    for position in range(len(file) + len(trailing)):
        for flip in (1, 0x20, 0xFF):
            damaged = bytearray(file + trailing)
            damaged[position] ^= flip
            if position < len(file):
                assert reason_of(bytes(damaged))
            else:
                np.testing.assert_array_equal(pixels_of(bytes(damaged)), pixels)


@pytest.mark.parametrize("file", DAMAGED)
def test_wherever_a_file_is_cut_off_the_image_is_refused(file):
    for size in range(len(file)):
        assert reason_of(file[:size])


@settings(deadline=None, max_examples=100)
@given(st.sampled_from(DAMAGED), st.data())
def test_damage_that_no_crc_tells_gives_what_pillow_gives_or_a_reason(file, data):
    chunks = []
    position = 8
    while position < len(file):
        length = int.from_bytes(file[position : position + 4], "big")
        kind, content = (
            file[position + 4 : position + 8],
            file[position + 8 : position + 8 + length],
        )
        chunks.append((kind, bytearray(content)))
        position += 12 + length
    kind, content = data.draw(st.sampled_from([c for c in chunks if c[1]]))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file = SIGNATURE + b"".join(chunk(kind, bytes(content)) for kind, content in chunks)
    _, bad, _ = decode_all([file])
    if not bad:
        assert_same_as_pillow(file)


def test_pixels_are_taken_as_they_are_among_files():
    small, planes = (random_samples(RGB, 8, side, 5).astype(np.uint8) for side in (3, 4))
    large = planes.transpose(2, 0, 1).copy().transpose(1, 2, 0)
    contents: list[Content] = [small, image_of((RGB, 8), 3, 5), large, OSError("gone"), small]
    pixels, bad, reduced = decode_all(contents)
    assert [*sorted(pixels)] == [0, 1, 2, 4]
    np.testing.assert_array_equal(pixels[0], small)
    np.testing.assert_array_equal(pixels[1], random_samples(RGB, 8, 3, 5))
    np.testing.assert_array_equal(pixels[2], large)
    np.testing.assert_array_equal(pixels[4], small)
    assert bad == {3: "gone"}
    assert reduced == []


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((3, 5, 3), np.float32),
        np.zeros((3, 5), np.uint8),
        np.zeros((3, 5, 4), np.uint8),
        np.zeros((0, 5, 3), np.uint8),
    ],
)
def test_pixels_of_another_kind_are_bad(pixels):
    good = np.zeros((3, 5, 3), np.uint8)
    taken, bad, _ = decode_all([good, pixels])
    assert [*taken] == [0]
    assert bad[1].startswith("expected pixels uint8 (height, width, 3), found ")
    assert str(pixels.shape) in bad[1]
    assert measure_image(pixels) is None


def test_images_are_measured_without_decoding_them():
    assert measure_image(image_of((RGB, 8), 3, 5)) == (3, 5)
    assert measure_image(np.zeros((4, 7, 3), np.uint8)) == (4, 7)
    assert measure_image(b"GIF89a") is None
    assert measure_image(OSError("gone")) is None


@pytest.mark.parametrize("name", ["a.png", "a.pNg", ".png", "é.png", "a.jpg.png", *NAMES])
def test_names_of_images(name):
    assert is_image(name)
    assert not is_image(f"._{name}")


@pytest.mark.parametrize("name", ["png", "a.gif", "a.png.txt", "a.jpg~", "a.jp2", "jpg"])
def test_names_of_other_files(name):
    assert not is_image(name)
