import itertools
import struct
import warnings
import zlib
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageFile

import cinicpack
from cinicpack.convert.decode import decode_images, measure_image
from cinicpack.convert.source import open_source
from tests import outside
from tests.png_images import random_samples


def picture(mode: str, kind: str, size: tuple[int, int] = (7, 5), **options: Any) -> bytes:
    height, width = size
    # Neither smooth nor noise, so that every step of a JPEG's decoder has an effect.
    pixels = (
        random_samples(2, 8, height, width).astype(np.uint8) // 4 + 3 * np.arange(width)[:, None]
    )
    file = BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).convert(mode).save(file, kind, **options)
    return file.getvalue()


def decode(file: bytes) -> NDArray[np.uint8] | str:
    """Give the pixels of a file, or the reason why it is bad."""
    [decoded] = decode_images([file])
    if decoded.bad:
        assert not decoded.images
        return decoded.bad[0][1]
    [(numbers, pixels)] = decoded.images
    assert numbers == [0]
    assert len(pixels) == 1
    return np.asarray(pixels[0])


def open_with_pillow(file: bytes) -> NDArray[np.uint8] | None:
    """Do as ImageFolder does; None if Pillow refuses the file."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(BytesIO(file)) as image:
            return np.array(image.convert("RGB"))
    except Exception:
        return None


def assert_same_as_pillow(file: bytes) -> None:
    expected = open_with_pillow(file)
    assert expected is not None
    found = decode(file)
    assert isinstance(found, np.ndarray), found
    np.testing.assert_array_equal(found, expected, strict=True)
    assert measure_image(file) == expected.shape[:2]


TURNED = Image.Exif()
TURNED[0x0112] = 6
FRAMES = [Image.new("RGB", (5, 7), colour) for colour in ("green", "blue")]
CASES: list[tuple[str, str, dict[str, Any]]] = [
    *((mode, "JPEG", {}) for mode in ("RGB", "L", "CMYK")),
    ("RGB", "JPEG", {"exif": TURNED, "dpi": (1, 2), "comment": b"hello", "icc_profile": b"p" * 99}),
    *((mode, "PPM", {}) for mode in ("1", "L", "RGB", "I")),
    *((mode, "BMP", {}) for mode in ("1", "L", "P", "RGB", "RGBA")),
    *((mode, "TIFF", {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F")),
    *(("RGB", "TIFF", {"compression": name}) for name in ("tiff_lzw", "jpeg", "tiff_deflate")),
    ("RGB", "TIFF", {"exif": TURNED}),
    ("RGB", "TIFF", {"save_all": True, "append_images": FRAMES}),
    *((mode, "WEBP", {"lossless": lossless}) for mode in ("RGB", "RGBA") for lossless in (0, 1)),
    ("RGB", "WEBP", {"exif": TURNED}),
    ("RGB", "WEBP", {"save_all": True, "append_images": FRAMES}),
]


@pytest.mark.parametrize(("mode", "kind", "options"), CASES)
def test_every_kind_has_the_pixels_that_pillow_gives(mode, kind, options):
    assert_same_as_pillow(picture(mode, kind, **options))


@given(
    st.sampled_from(["RGB", "L"]),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.integers(1, 100),
    st.sampled_from(["4:4:4", "4:2:2", "4:2:0", "4:1:1"]),
    st.booleans(),
    st.integers(0, 2),
)
def test_every_jpeg_has_the_pixels_that_pillow_gives(mode, size, quality, chroma, progressive, row):
    options = {"quality": quality, "subsampling": chroma, "restart_marker_rows": row}
    assert_same_as_pillow(picture(mode, "JPEG", size, progressive=progressive, **options))


def test_a_common_jpeg_does_without_pillow(monkeypatch):
    files = [picture(mode, "JPEG", exif=TURNED) for mode in ("RGB", "L")]
    expected = [open_with_pillow(file) for file in files]
    monkeypatch.delattr("cinicpack.convert.pillow.Image")
    np.testing.assert_array_equal([decode(file) for file in files], expected)


WHOLE = [
    picture("RGB", "JPEG", (20, 30)),
    picture("L", "JPEG", (20, 30), progressive=True, exif=TURNED),
    picture("RGB", "WEBP", (20, 30)),
    picture("RGB", "TIFF", (5, 7), compression="tiff_lzw"),
    picture("P", "BMP", (5, 7)),
    picture("L", "PPM", (5, 7)),
]


def assert_as_pillow_judges(file: bytes) -> None:
    found, expected = decode(file), open_with_pillow(file)
    if expected is None:
        assert isinstance(found, str)
    else:
        np.testing.assert_array_equal(found, expected, strict=True)


@pytest.mark.parametrize("file", WHOLE)
def test_what_ends_early_is_refused_where_pillow_refuses_it(file):
    for size in {*range(4, len(file), 1 + len(file) // 60), len(file) - 2}:
        assert_as_pillow_judges(file[:size])
    assert isinstance(decode(file[: len(file) // 2]), str)


@given(st.sampled_from(WHOLE[:3]), st.data())
def test_damage_gives_what_pillow_gives_or_a_reason(file, data):
    damaged = bytearray(file)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(4, len(file) - 1))] = data.draw(st.integers(0, 255))
    assert_as_pillow_judges(bytes(damaged))


@pytest.mark.parametrize("file", WHOLE)
@pytest.mark.parametrize("lenient", [False, True])
def test_half_an_image_is_refused_though_the_program_wants_it(monkeypatch, file, lenient):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
    assert isinstance(decode(file[: len(file) // 2]), str)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is lenient


def large(file: bytes, place: int, kind: str, *sides: int) -> bytes:
    """Let the header of a file claim another size."""
    packed = struct.pack(kind, *sides)
    return file[:place] + packed + file[place + len(packed) :]


def tiff_with_a_large_tile() -> bytes:
    data = zlib.compress(bytes(1000))
    tags = [(256, 7), (257, 5), (258, 8), (259, 8), (262, 1), (277, 1), (322, 46_000)]
    tags += [(323, 46_000), (324, 8 + 2 + 12 * 10 + 4), (325, len(data))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return struct.pack("<4sIH", b"II*\0", 8, len(tags)) + entries + bytes(4) + data


JPEG, BMP, WEBP = (picture("RGB", kind) for kind in ("JPEG", "BMP", "WEBP"))
CANVAS = b"VP8X" + struct.pack("<I4x", 10) + 2 * (60_000).to_bytes(3, "little")
BOMBS = {
    "jpeg": large(JPEG, JPEG.index(b"\xff\xc0") + 5, ">HH", 60_000, 60_000),
    "bmp": large(BMP, 18, "<ii", 60_000, 60_000),
    "ppm": b"P6 60000 60000 255\n",
    "webp": b"RIFF" + struct.pack("<I", len(WEBP) + 10) + b"WEBP" + CANVAS + WEBP[12:],
    "tiff": tiff_with_a_large_tile(),
}


@pytest.mark.parametrize("kind", BOMBS)
@pytest.mark.parametrize("limit", [1, None])
def test_a_file_that_becomes_immense_is_refused_by_our_limit(monkeypatch, kind, limit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    assert isinstance(decode(picture("RGB", kind.upper())), np.ndarray)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reason = decode(BOMBS[kind])
    assert isinstance(reason, str)
    assert "too large: it is " in reason or "exceeds limit of 134217728 pixels" in reason
    assert Image.MAX_IMAGE_PIXELS is limit


def test_images_of_16_bits_are_told():
    files = [picture(mode, "TIFF") for mode in ("L", "I;16", "F")] + [picture("I", "PPM"), JPEG]
    [decoded] = decode_images(files)
    assert decoded.reduced == [1, 2, 3]


def test_images_of_many_kinds_and_sizes_keep_their_numbers():
    kinds = [("RGB", "JPEG"), ("L", "PNG"), ("RGBA", "WEBP"), ("P", "BMP"), ("CMYK", "TIFF")]
    cases = [*itertools.product(kinds, [(7, 5), (5, 7), (40, 30)])] * 3
    files = [picture(mode, kind, size) for (mode, kind), size in cases]
    files[4] = b"GIF89a"
    found: dict[int, NDArray[np.uint8]] = {}
    bad = []
    for decoded in decode_images(files):
        for numbers, pixels in decoded.images:
            assert numbers == sorted(numbers)
            assert pixels.flags.c_contiguous
            found |= dict(zip(numbers, pixels, strict=True))
        bad += decoded.bad
    assert [number for number, _ in bad] == [4]
    assert sorted([*found, 4]) == list(range(len(files)))
    for number, pixels in found.items():
        np.testing.assert_array_equal(pixels, open_with_pillow(files[number]), strict=True)


def test_large_pictures_are_not_all_in_memory_at_once():
    file = picture("RGB", "JPEG", (1000, 1000), quality=1)
    most = max(len(numbers) for d in decode_images([file] * 20) for numbers, _ in d.images)
    assert most <= 2


def test_cifar10_as_a_public_repository_has_it(tmp_path):
    archive = outside.require(outside.CIFAR10_JPEGS)
    pack = cinicpack.pack(archive, tmp_path / "a", num_workers=2, progress=False)
    assert {split: len(pack[split]) for split in pack.splits} == {"train": 50_000, "test": 10_000}
    images = {split: pack[split].images[:] for split in pack.splits}
    rows = {
        f"{split}/{pack.classes[label]}/{name.decode()}": images[split][row]
        for split in pack.splits
        for row, (label, name) in enumerate(
            zip(pack[split].labels.tolist(), pack[split].names.tolist(), strict=True)
        )
    }
    assert len(rows) == 60_000
    for path, file in open_source(archive).stream():
        assert isinstance(file, bytes)
        with Image.open(BytesIO(file)) as image:
            assert np.array_equal(rows.pop(path), np.array(image.convert("RGB"))), path
