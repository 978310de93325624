import base64
import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cinicpack.errors import ArgumentError
from cinicpack.study.picture import add_title, draw_bands, draw_grid, write_picture
from tests.outside import read_sheet, read_tiles


def noise(*shape: int) -> np.ndarray:
    # Nothing white, which is what pictures are drawn on.
    return np.random.default_rng(0).integers(0, 255, shape, np.uint8)


def test_grid_is_the_authors_sheet():
    assert np.array_equal(draw_grid(read_tiles("cat"), 20), read_sheet("cat"))


@given(
    count=st.integers(1, 12),
    columns=st.integers(1, 6),
    scale=st.integers(1, 3),
    height=st.integers(1, 4),
    width=st.integers(1, 4),
)
def test_tiles_lie_between_lines_of_one_pixel(count, columns, scale, height, width):
    images = noise(count, height, width, 3)
    grid = draw_grid(images, columns, scale=scale)
    rows = -(-count // columns)
    down, right = height * scale + 1, width * scale + 1
    assert grid.shape == (rows * down + 1, columns * right + 1, 3)
    rest = np.ones(grid.shape[:2], bool)
    for number, image in enumerate(images):
        top, left = number // columns * down + 1, number % columns * right + 1
        area = np.s_[top : top + height * scale, left : left + width * scale]
        assert np.array_equal(grid[area], image.repeat(scale, 0).repeat(scale, 1))
        rest[area] = False
    assert (grid[rest] == 255).all()


def test_bands_stand_below_each_other_with_labels_to_the_left():
    first, second = noise(30, 50, 3), noise(10, 80, 3)
    picture = draw_bands([("short", first), ("a longer label\nof two lines", second)])
    # The only coloured columns are those of the pictures.
    coloured = (picture.min(-1) != picture.max(-1)) & (picture.max(-1) < 255)
    left = int(np.flatnonzero(coloured.any(0))[0])
    top = int(np.flatnonzero(coloured.any(1))[0])
    assert np.array_equal(picture[top : top + 30, left : left + 50], first)
    below = picture[top + 30 :]
    start = next(
        y for y in range(len(below)) if np.array_equal(below[y : y + 10, left : left + 80], second)
    )
    assert start > 0
    ink = picture[:, :left].max(-1) < 200
    assert ink[top : top + 30].any()
    assert ink[top + 30 :].any()
    # Two lines: there is paper between two runs of inked rows.
    inked = ink[top + 30 :].any(1)
    assert np.count_nonzero(np.diff(inked.astype(int)) == 1) >= 2
    assert not ink[:, -2:].any()


@pytest.mark.parametrize(
    "title", ["short", "longer than the picture is wide, by far", "of\ntwo lines"]
)
def test_a_title_stands_above_its_picture(title):
    picture = noise(20, 60, 3)
    titled = add_title(title, picture)
    height, width, _ = picture.shape
    assert np.array_equal(titled[-height:, :width], picture)
    above = titled[:-height]
    assert (above < 200).any()
    # The whole title is there: paper surrounds it.
    for edge in (above[0], above[-1], above[:, 0], above[:, -1]):
        assert (edge == 255).all()


def test_picture_is_written_as_png_or_svg(tmp_path):
    picture = noise(20, 30, 3)
    write_picture(tmp_path / "a.png", picture)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), picture)

    write_picture(tmp_path / "a.svg", picture)
    root = ElementTree.parse(tmp_path / "a.svg").getroot()
    assert root.get("viewBox") == "0 0 30 20"
    (image,) = root
    match = re.fullmatch("data:image/png;base64,(.*)", image.attrib["href"])
    assert match is not None
    decoded = Image.open(io.BytesIO(base64.b64decode(match[1])))
    assert np.array_equal(np.asarray(decoded), picture)

    with pytest.raises(ArgumentError, match=r"ends in .png or .svg"):
        write_picture(tmp_path / "a.jpg", picture)
