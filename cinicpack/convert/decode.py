"""The bytes of PNG files become RGB pixels, exactly those that torchvision's ImageFolder gives."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ImageFile
from PIL.PngImagePlugin import PngImageFile

from cinicpack.convert.png import BadImageError, inflate, read_chunks, unfilter

__all__ = ["Decoded", "decode_images"]


class Decoded(NamedTuple):
    """What became of a PNG file.

    Attributes:
        pixels: uint8 (height, width, 3), in C order; (0, 0, 3) where there is a reason. Images of
            one call share memory: copy one that is to outlive the others.
        reason: why the file is no image that can be packed, or None.
        reduced: whether its samples had 16 bits and were made to fit into 8.
    """

    pixels: NDArray[np.uint8]
    reason: str | None
    reduced: bool


_NO_PIXELS = np.empty((0, 0, 3), np.uint8)


def decode_images(files: Sequence[bytes]) -> list[Decoded]:
    """Decode PNG files: the common kind in batches, every other one with Pillow.

    A file is accepted if every chunk of it is sound and Pillow accepts it, and then the pixels are
    those of ``Image.open(file).convert("RGB")``. So 16-bit samples lose their lower byte in colour
    but are clipped at 255 in grey, transparency and colour profiles have no effect, and of an
    animation there is the first frame.

    >>> [image] = decode_images([b"GIF89a"])
    >>> image.reason
    "not a PNG file: it starts with b'GIF89a'"
    """
    images = [Decoded(_NO_PIXELS, None, False)] * len(files)
    common: dict[tuple[int, int], list[tuple[int, bytes]]] = {}
    unusual: list[tuple[int, bool]] = []
    for index, file in enumerate(files):
        try:
            png = read_chunks(file)
        except BadImageError as error:
            images[index] = Decoded(_NO_PIXELS, str(error), False)
            continue
        rows = inflate(png)
        if rows is None:
            unusual.append((index, png.bit_depth == 16))
        else:
            common.setdefault((png.height, png.width), []).append((index, rows))
    for (height, width), batch in common.items():
        pixels, valid = unfilter(b"".join([rows for _, rows in batch]), height, width)
        for (index, _), image, good in zip(batch, pixels, valid.tolist(), strict=True):
            if good:
                images[index] = Decoded(image, None, False)
            else:
                unusual.append((index, False))
    if unusual:
        with _strict_pillow():
            for index, reduced in unusual:
                images[index] = _decode_with_pillow(files[index], reduced)
    return images


def _decode_with_pillow(file: bytes, reduced: bool) -> Decoded:
    # Not Image.open, because of the pixel limit that it takes from the running program (ours has
    # been kept), and because it swallows the reasons for which this class refuses a file.
    try:
        with PngImageFile(BytesIO(file)) as image:
            return Decoded(np.array(image.convert("RGB")), None, reduced)
    except MemoryError:
        raise
    except Exception as error:
        # Anything, since Pillow lets through whatever its parser stumbles over in a broken file.
        return Decoded(
            _NO_PIXELS, f"Pillow cannot decode it: {str(error) or type(error).__name__}", False
        )


@contextmanager
def _strict_pillow() -> Iterator[None]:
    """Let Pillow warn of nothing, and refuse half images even where the program wants them."""
    lenient = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = lenient
