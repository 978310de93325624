import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

import cinicpack
from cinicpack.convert.decode import decode_images
from cinicpack.convert.resize import check_resize, resize_all
from cinicpack.errors import ArgumentError, BadImagesError
from cinicpack.store.verify import verify_pack
from tests.convert.sources_here import NotingWorkers, bytes_of, make_tar, pack, pack_slowly, put
from tests.png_images import png, random_samples
from tests.torchvision_here import import_torchvision

FILTERS = ("box", "bilinear", "bicubic", "lanczos")
SIDES = st.tuples(st.integers(1, 40), st.integers(1, 40))


def pixels_of(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return random_samples(2, 8, height, width, seed).astype(np.uint8)


def resized(pixels: NDArray[np.uint8], size: Any, filter: str, fit: str) -> NDArray[np.uint8]:  # noqa: A002
    to = check_resize(size, filter, fit)
    assert to is not None
    [decoded] = resize_all(decode_images([pixels]), to)
    [(_, images)] = decoded.images
    return np.asarray(images[0])


@given(SIDES, SIDES, st.sampled_from(FILTERS))
def test_squashed_images_are_pillows(sides, size, filter):  # noqa: A002
    pixels = pixels_of(*sides)
    expected = Image.fromarray(pixels).resize(size[::-1], Image.Resampling[filter.upper()])
    np.testing.assert_array_equal(resized(pixels, size, filter, "squash"), np.asarray(expected))


@given(SIDES, st.integers(1, 40), st.sampled_from(FILTERS))
def test_cropped_squares_are_those_of_torchvision(sides, size, filter):  # noqa: A002
    transforms = import_torchvision().transforms
    resampling = transforms.InterpolationMode[filter.upper()]
    steps = [transforms.Resize(size, resampling), transforms.CenterCrop(size)]
    expected = transforms.Compose(steps)(Image.fromarray(pixels_of(*sides)))
    found = resized(pixels_of(*sides), size, filter, "crop")
    np.testing.assert_array_equal(found, np.asarray(expected))


@given(SIDES, SIDES)
def test_a_crop_of_any_shape_is_the_middle_of_an_image_in_proportion(sides, size):
    # One colour a column, of which an image in proportion keeps the order.
    (height, width), (rows, columns) = sides, size
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, :, 0] = np.linspace(0, 255, width)
    pixels[:, :, 1] = np.linspace(0, 255, height)[:, np.newaxis]
    found = resized(pixels, size, "bilinear", "crop")
    assert found.shape == (rows, columns, 3)
    whole = resized(pixels, size, "bilinear", "squash")
    # Along the side that is not cut nothing is lost; of the other, both ends alike.
    if width * rows >= columns * height:
        np.testing.assert_array_equal(found[:, 0, 1], whole[:, 0, 1])
    if width * rows <= columns * height:
        np.testing.assert_array_equal(found[0, :, 0], whole[0, :, 0])


@pytest.mark.parametrize("sides", [(5, 9), (9, 5)])
def test_a_single_image_is_cropped_and_packed(tmp_path, sides):
    put(tmp_path / "tree", {"cat/a.png": png(random_samples(2, 8, *sides))})
    one = pack(tmp_path / "tree", tmp_path / "a", resize=4, fit="crop")
    expected = resized(pixels_of(*sides), 4, "box", "crop")
    np.testing.assert_array_equal(one["train"].images[0], expected)
    assert not verify_pack(one.path).problems


def test_an_image_that_is_too_long_to_be_cropped_is_bad():
    to = check_resize(64, "box", "crop")
    assert to is not None
    images = [np.zeros((1, 1_200_000, 3), np.uint8), pixels_of(5, 7)]
    [decoded] = resize_all(decode_images(images), to)
    [(number, reason)] = decoded.bad
    assert number == 0
    assert reason.startswith("too large: it is 76800000x64 pixels")
    assert [numbers for numbers, _ in decoded.images] == [[1]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resize": 0}, r"expected resize=N or \(height, width\) of at least 1, found 0"),
        ({"resize": (3, 0)}, r"at least 1, found \(3, 0\)"),
        ({"resize": (3, 4, 3)}, r"at least 1, found \(3, 4, 3\)"),
        ({"resize": 2.5}, r"at least 1, found 2\.5"),
        ({"resize": True}, r"at least 1, found True"),
        ({"resize": 10_000}, r"at most 67108864 pixels in all, found 10000"),
        ({"resize": 32, "filter": "nearest"}, "filter out of box, .*lanczos, found 'nearest'"),
        ({"resize": 32, "fit": "pad"}, "fit out of squash, crop, found 'pad'"),
        ({"fit": "crop"}, r"a size for filter and fit: pass --resize N \(resize=N\)"),
        ({"filter": "bicubic"}, r"a size for filter and fit"),
    ],
)
def test_options_out_of_their_domain_are_refused(tmp_path, options, message):
    put(tmp_path / "tree", {"cat/a.png": png(random_samples(2, 8, 3, 5))})
    with pytest.raises(ArgumentError, match=message):
        pack(tmp_path / "tree", tmp_path / "a", **options)


def picture(mode: str, kind: str, height: int, width: int, seed: int) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels_of(height, width, seed)).convert(mode).save(file, kind)
    return file.getvalue()


@pytest.fixture
def mixed(tmp_path) -> Path:
    """Images of many sizes and kinds, a few of the size that they are to have."""
    kinds = [("RGB", "jpeg"), ("RGBA", "png"), ("RGB", "png"), ("P", "bmp"), ("L", "webp")]
    sides = [(3, 5), (7, 9), (40, 8), (8, 8)]
    files = {}
    for number in range(40):
        mode, kind = kinds[number % len(kinds)]
        content = picture(mode, kind, *sides[number % len(sides)], number)
        files[f"{('train', 'test')[number % 2]}/{number % 4 // 2}/{number:02}.{kind}"] = content
    return put(tmp_path / "mixed", files)


def test_images_of_many_sizes_need_a_size(mixed, tmp_path):
    with pytest.raises(BadImagesError, match=r"give all images one size with --resize 32"):
        pack(mixed, tmp_path / "a")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("container", ["npy", "hdf5"])
def test_resized_images_are_the_same_from_any_source(mixed, tmp_path, container):
    options = {"format": container, "resize": (8, 6), "filter": "bicubic", "fit": "crop"}
    one = pack(mixed, tmp_path / "one", **options)
    make_tar(mixed, tmp_path / "a.tar.gz", mode="w:gz")
    for source in (mixed, tmp_path / "a.tar.gz"):
        other = pack(source, tmp_path / f"{source.name}.pack", num_workers=2, **options)
        assert bytes_of(other.path) == bytes_of(one.path)
    assert not verify_pack(one.path).problems
    assert one.manifest.resize == ((8, 6), "bicubic", "crop")
    assert one.manifest == cinicpack.open_pack(one.path).manifest
    for split in ("train", "test"):
        labels, images = one[split].labels, one[split].images[:]
        for name, label, found in zip(one[split].names.tolist(), labels, images, strict=True):
            with Image.open(mixed / split / str(label) / name.decode()) as image:
                pixels = np.asarray(image.convert("RGB"))
            np.testing.assert_array_equal(found, resized(pixels, (8, 6), "bicubic", "crop"))


def test_resized_images_are_written_to_their_places_at_once(mixed, tmp_path):
    workers = NotingWorkers()
    to = check_resize(8, "box", "squash")
    pack_slowly(mixed, tmp_path / "a", start=workers.start, resize=to)
    assert {task.resize for task in workers.tasks} == {to}
    assert all(task.target and task.target.shape == (8, 8) for task in workers.tasks)


def test_bad_images_stay_bad(mixed, tmp_path):
    put(mixed, {"train/0/a.jpg": b"\xff\xd8\xff", "test/1/c.tif": b"II*\0"})
    with pytest.raises(BadImagesError, match="2 of 42 images cannot be packed") as caught:
        pack(mixed, tmp_path / "a", resize=8)
    assert [path for path, _ in caught.value.images] == ["test/1/c.tif", "train/0/a.jpg"]
    assert "--resize" not in str(caught.value)
    with warnings.catch_warnings(action="ignore"):
        made = pack(mixed, tmp_path / "a", resize=8, skip_bad=True)
    assert sum(len(made[split]) for split in made.splits) == 40


def test_a_pack_that_is_not_resized_says_nothing_of_it(tmp_path):
    put(tmp_path / "tree", {"cat/a.jpg": picture("RGB", "jpeg", 3, 5, 0)})
    assert (
        b"resize" not in (pack(tmp_path / "tree", tmp_path / "a").path / "pack.json").read_bytes()
    )
