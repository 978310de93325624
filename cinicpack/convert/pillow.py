"""Pillow, which decodes what nothing faster does: strictly, and whatever the program has set."""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile
from PIL.TiffImagePlugin import TILELENGTH, TILEWIDTH, TiffImageFile

from cinicpack.convert.decoded import GREY
from cinicpack.formats.png import MAX_PIXELS, BadImageError
from cinicpack.shortage import is_shortage
from cinicpack.text import one_line

__all__ = ["Picture", "check_size", "decode_with_pillow", "measure_with_pillow", "strict_pillow"]

_PILLOW: Final = threading.Lock()


class Picture(NamedTuple):
    """The pixels of an image, uint8 (height, width, 3), and what they were before.

    Attributes:
        pixels: of the image.
        is_reduced: whether its samples had more bits.
        former: its kind, unless that was RGB: "grey", "with transparency", "CMYK", ...
    """

    pixels: NDArray[np.uint8]
    is_reduced: bool
    former: str


def decode_with_pillow(file: bytes, kind: type[ImageFile.ImageFile]) -> Picture:
    """Do as ``Image.open(file).convert("RGB")``, by Pillow's class for this kind of file.

    `Image.open` would apply a limit of pixels that the running program sets, swallow the reasons
    for which a class refuses a file, and try kinds that are not packed. Our own limit is checked
    against what the file's header says. Call it within `strict_pillow`.

    Raises `BadImageError` if it is too large or cannot be decoded.
    """
    with _refusing(), kind(BytesIO(file)) as image:
        check_size(image.height, image.width)
        if isinstance(image, TiffImageFile):
            # A tile is decoded whole, however small the image in it is.
            check_size(image.tag_v2.get(TILELENGTH, 0), image.tag_v2.get(TILEWIDTH, 0))
        # Modes of 16 or 32 bits a sample: I, I;16, I;16B, F.
        is_reduced, former = image.mode[0] in "IF", _name_kind(image)
        return Picture(np.array(image.convert("RGB")), is_reduced, former)


def _name_kind(image: ImageFile.ImageFile) -> str:
    """Say what an image is that has more or less than red, green and blue, or a palette of them."""
    if "transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        return "with transparency"
    if image.mode == "1" or image.mode[0] in "LIF":
        return GREY if image.mode != "LAB" else image.mode
    return "" if image.mode in ("RGB", "P") else image.mode


def measure_with_pillow(file: bytes, kind: type[ImageFile.ImageFile]) -> tuple[int, int]:
    """Tell height and width from a file's header. Raises `BadImageError` if it has none."""
    with _refusing(), kind(BytesIO(file)) as image:
        return image.height, image.width


def check_size(height: int, width: int) -> None:
    """Refuse an image that is too large, by `BadImageError`."""
    if height * width > MAX_PIXELS:
        raise BadImageError(
            f"too large: it is {width}x{height} pixels, and the limit is {MAX_PIXELS} in all"
        )


@contextmanager
def _refusing() -> Iterator[None]:
    """Let what Pillow raises be the reason why an image is bad."""
    try:
        yield
    except BadImageError:
        raise
    except Exception as error:
        if is_shortage(error):
            raise
        # Any exception is caught, since Pillow lets through whatever a broken file makes it raise.
        raise BadImageError(f"Pillow cannot decode it: {one_line(error)}") from None


@contextmanager
def strict_pillow() -> Iterator[None]:
    """Let Pillow warn of nothing, refuse half images and have our limit, whatever the program set.

    The limit is not only that of `Image.open`: opening a WebP takes memory for all of its pixels.
    """
    # One thread at a time, since the flags and the filters of warnings are the whole program's.
    with _PILLOW:
        lenient, limit = ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS
        ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = False, MAX_PIXELS
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = lenient, limit
