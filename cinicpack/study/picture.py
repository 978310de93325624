"""Pictures made of small images: grids of tiles, and grids with labels beside them."""

import base64
import io
import os
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from cinicpack.study.output import require_suffix, write_file

__all__ = ["add_title", "draw_bands", "draw_grid", "write_picture"]

Pixels = NDArray[np.uint8]

_FONT_SIZE: Final = 13
_LINE_HEIGHT: Final = 16
_MARGIN: Final = 8
# Opaque, like the authors' sheets, so that pictures look the same on light and on dark pages.
_PAPER: Final = 255
_INK: Final = (51, 51, 51)


def draw_grid(images: Pixels, columns: int, *, scale: int = 1) -> Pixels:
    """Lay images out in rows, with a white line of one pixel around every one.

    Args:
        images: (n, H, W, 3).
        columns: in every row; what is missing from the last is white.
        scale: every pixel becomes so many wide and high.

    Returns:
        (rows * (H * scale + 1) + 1, columns * (W * scale + 1) + 1, 3).
    """
    images = images.repeat(scale, 1).repeat(scale, 2)
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    cells = np.full((rows * columns, height + 1, width + 1, channels), _PAPER, np.uint8)
    cells[:count, 1:, 1:] = images
    grid = cells.reshape(rows, columns, height + 1, width + 1, channels).transpose(0, 2, 1, 3, 4)
    grid = grid.reshape(rows * (height + 1), columns * (width + 1), channels)
    return np.pad(grid, ((0, 1), (0, 1), (0, 0)), constant_values=_PAPER)


def draw_bands(bands: Sequence[tuple[str, Pixels]]) -> Pixels:
    """Put pictures below each other, each with its label, of any number of lines, to its left."""
    font = ImageFont.load_default(_FONT_SIZE)
    labels = [label.split("\n") for label, _ in bands]
    left = max(int(font.getlength(line)) for lines in labels for line in lines) + 2 * _MARGIN
    heights = [
        max(len(picture), _LINE_HEIGHT * len(lines)) + _MARGIN
        for lines, (_, picture) in zip(labels, bands, strict=True)
    ]
    width = left + max(picture.shape[1] for _, picture in bands) + _MARGIN
    canvas = Image.new("RGB", (width, sum(heights) + _MARGIN), (_PAPER,) * 3)
    pen = ImageDraw.Draw(canvas)
    top = _MARGIN
    for lines, (_, picture), height in zip(labels, bands, heights, strict=True):
        canvas.paste(Image.fromarray(picture), (left, top))
        middle = top + (height - _MARGIN) / 2
        for number, line in enumerate(lines):
            y = middle + (number - (len(lines) - 1) / 2) * _LINE_HEIGHT
            pen.text((left - _MARGIN, y), line, _INK, font, anchor="rm")
        top += height
    return np.asarray(canvas)


def add_title(title: str, picture: Pixels) -> Pixels:
    """Write a line above a picture (H, W, 3), which becomes wider where the line is longer."""
    title = " ".join(title.split())  # a file's name may have several lines
    font = ImageFont.load_default(_FONT_SIZE)
    top = _LINE_HEIGHT + _MARGIN
    width = max(picture.shape[1], int(font.getlength(title)) + 2 * _MARGIN)
    canvas = Image.new("RGB", (width, top + len(picture)), (_PAPER,) * 3)
    ImageDraw.Draw(canvas).text((_MARGIN, top / 2), title, _INK, font, anchor="lm")
    canvas.paste(Image.fromarray(picture), (0, top))
    return np.asarray(canvas)


def write_picture(path: str | os.PathLike[str], picture: Pixels) -> None:
    """Write a picture (H, W, 3) as ``.png``, or as ``.svg`` whose pixels stay crisp when enlarged.

    Raises `ArgumentError` for any other suffix.
    """
    suffix = require_suffix(path, ".png", ".svg")
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", optimize=True)
    content = file.getvalue()
    if suffix == ".svg":
        height, width, _ = picture.shape
        content = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}">\n'
            f'<image width="{width}" height="{height}" style="image-rendering:pixelated" '
            f'href="data:image/png;base64,{base64.b64encode(content).decode()}"/>\n</svg>\n'
        ).encode()
    write_file(path, content)
