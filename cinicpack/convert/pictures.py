"""JPEG, PPM, BMP, TIFF and WebP files become pixels, each by itself."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final

import numpy as np
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile
from simplejpeg import decode_jpeg, decode_jpeg_header

from cinicpack.convert.decoded import BATCH_BYTES, GREY, Decoded, Part, merge
from cinicpack.convert.files import Content
from cinicpack.convert.pillow import (
    Picture,
    check_size,
    decode_with_pillow,
    measure_with_pillow,
    strict_pillow,
)
from cinicpack.formats.png import BadImageError

__all__ = ["STARTS", "decode_pictures", "measure_picture"]

#: Pillow's classes for the files of each kind, by how these start.
STARTS: Final[dict[bytes, type[ImageFile]]] = {
    b"\xff\xd8\xff": JpegImageFile,
    **dict.fromkeys((b"P1", b"P2", b"P3", b"P4", b"P5", b"P6"), PpmImageFile),
    b"BM": BmpImageFile,
    **dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), TiffImageFile),
    b"RIFF": WebPImageFile,
}
# JPEGs of these colours are decoded by libjpeg-turbo alone as by Pillow, which uses the same
# library. Others, as CMYK, Pillow converts in a way of its own.
_PLAIN_COLOURS: Final = ("YCbCr", "Gray")


def decode_pictures(numbers: Sequence[int], files: Sequence[Content]) -> Iterator[Decoded]:
    """Decode files of the kinds that `STARTS` has; no more than some are in memory at a time."""
    shapes: dict[tuple[int, ...], list[Part]] = {}
    bad: list[tuple[int, str]] = []
    reduced: list[int] = []
    recoloured: list[tuple[int, str]] = []
    nbytes = 0
    for number, file in zip(numbers, files, strict=True):
        assert isinstance(file, bytes)
        try:
            pixels, is_reduced, former = _decode(file)
        except BadImageError as error:
            bad.append((number, str(error)))
            continue
        shapes.setdefault(pixels.shape, []).append(([number], pixels[np.newaxis]))
        reduced += [number] * is_reduced
        recoloured += [(number, former)] if former else []
        nbytes += pixels.nbytes
        if nbytes >= BATCH_BYTES:
            yield Decoded([merge(parts) for parts in shapes.values()], bad, reduced, recoloured)
            shapes, bad, reduced, recoloured, nbytes = {}, [], [], [], 0
    yield Decoded([merge(parts) for parts in shapes.values()], bad, reduced, recoloured)


def measure_picture(file: Content) -> tuple[int, int]:
    """Tell height and width of such a file. Raises `BadImageError` if its header is damaged."""
    assert isinstance(file, bytes)
    with strict_pillow():
        return measure_with_pillow(file, _find_kind(file))


def _decode(file: bytes) -> Picture:
    kind = _find_kind(file)
    if kind is JpegImageFile:
        # What simplejpeg refuses or would warn of, and what is too large, is for Pillow to judge.
        with suppress(ValueError):
            height, width, colour, _ = decode_jpeg_header(file)
            if colour in _PLAIN_COLOURS:
                check_size(height, width)
                return Picture(decode_jpeg(file, "RGB"), False, GREY if colour == "Gray" else "")
    with strict_pillow():
        return decode_with_pillow(file, kind)


def _find_kind(file: bytes) -> type[ImageFile]:
    return next(kind for start, kind in STARTS.items() if file.startswith(start))
