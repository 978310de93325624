"""The bytes of PNG files become RGB pixels, exactly those that torchvision's ImageFolder gives."""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ImageFile
from PIL.PngImagePlugin import PngImageFile

from cinicpack.convert.png import BadImageError, Png, inflate, read_chunks, unfilter

__all__ = ["Decoded", "decode_images"]


class Decoded(NamedTuple):
    """What became of a PNG file.

    Attributes:
        pixels: uint8 (height, width, 3), in C order; (0, 0, 3) where there is a reason. Images
            share memory with their neighbours: copy one that is to outlive them.
        reason: why the file is no image that can be packed, or None.
        reduced: whether its samples had 16 bits and were made to fit into 8.
    """

    pixels: NDArray[np.uint8]
    reason: str | None
    reduced: bool


# So many bytes of files and pixels are held at a time; 512 images of 32x32 have 3 MB.
_BATCH_BYTES: Final = 4 << 20

_NO_PIXELS = np.empty((0, 0, 3), np.uint8)


def decode_images(files: Iterable[bytes | OSError]) -> Iterator[Decoded]:
    """Decode PNG files: the common kind in batches, every other one with Pillow.

    A file is accepted if every chunk of it is sound and Pillow accepts it, and then the pixels are
    those of ``Image.open(file).convert("RGB")``. So 16-bit samples lose their lower byte in colour
    but are clipped at 255 in grey, transparency and colour profiles have no effect, and of an
    animation there is the first frame.

    ``files`` are taken only as the results are asked for, so that large images need not all be in
    memory at once. An error in place of a file is the reason why there is none.

    >>> [image] = decode_images([b"GIF89a"])
    >>> image.reason
    "not a PNG file: it starts with b'GIF89a'"
    """
    batch: list[tuple[bytes, Png | str]] = []
    nbytes = 0
    for file in files:
        if isinstance(file, OSError):
            # Not the path again, which for a tree is another than for an archive.
            batch.append((b"", file.strerror or str(file)))
            continue
        try:
            png = read_chunks(file)
        except BadImageError as error:
            batch.append((b"", str(error)))
            continue
        batch.append((file, png))
        nbytes += len(file) + 3 * png.height * png.width
        if nbytes >= _BATCH_BYTES:
            yield from _decode_batch(batch)
            batch, nbytes = [], 0
    yield from _decode_batch(batch)


def _decode_batch(batch: list[tuple[bytes, Png | str]]) -> list[Decoded]:
    """Decode files, with what their chunks say or the reason why they are bad."""
    images = [Decoded(_NO_PIXELS, None, False)] * len(batch)
    common: dict[tuple[int, int], list[tuple[int, bytes]]] = {}
    unusual: list[tuple[int, bool]] = []
    for index, (_, png) in enumerate(batch):
        if isinstance(png, str):
            images[index] = Decoded(_NO_PIXELS, png, False)
            continue
        rows = inflate(png)
        if rows is None:
            unusual.append((index, png.bit_depth == 16))
        else:
            common.setdefault((png.height, png.width), []).append((index, rows))
    for (height, width), alike in common.items():
        pixels, valid = unfilter(b"".join([rows for _, rows in alike]), height, width)
        for (index, _), image, good in zip(alike, pixels, valid.tolist(), strict=True):
            if good:
                images[index] = Decoded(image, None, False)
            else:
                unusual.append((index, False))
    if unusual:
        with _strict_pillow():
            for index, reduced in unusual:
                images[index] = _decode_with_pillow(batch[index][0], reduced)
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
