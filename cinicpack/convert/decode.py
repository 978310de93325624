"""The bytes of PNG files become RGB pixels, exactly those that torchvision's ImageFolder gives."""

import threading
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
    """What became of some PNG files, each named by its number, from 0 for the first of all.

    Attributes:
        images: by shape, the numbers of n images, ascending, and their pixels, uint8 (n, height,
            width, 3) in C order.
        bad: number and reason of every file that is no image that can be packed.
        reduced: numbers of images whose samples had 16 bits and were made to fit into 8.
    """

    images: list[tuple[list[int], NDArray[np.uint8]]]
    bad: list[tuple[int, str]]
    reduced: list[int]


# So much is held at a time, of files and of pixels.
_BATCH_BYTES: Final = 4 << 20
# What these have stays in the processor's cache from one step to the next.
_BATCH_IMAGES: Final = 256
_PILLOW: Final = threading.Lock()


def decode_images(files: Iterable[bytes | OSError]) -> Iterator[Decoded]:
    """Decode PNG files in batches: the common kind together, every other one with Pillow.

    A file is accepted if every chunk of it is sound and Pillow accepts it, and then the pixels are
    those of ``Image.open(file).convert("RGB")``. So 16-bit samples lose their lower byte in colour
    but are clipped at 255 in grey, transparency and colour profiles have no effect, and of an
    animation there is the first frame. Of the common kind, libdeflate decompresses the pixels: it
    gives a meaning to the codes that Deflate reserves, where Pillow's zlib refuses them, and is as
    strict in what the pixels must add up to.

    ``files`` are taken only as the results are asked for, so that large images need not all be in
    memory at once. An error in place of a file is the reason why there is none.

    >>> [decoded] = decode_images([b"GIF89a"])
    >>> decoded.bad
    [(0, "not a PNG file: it starts with b'GIF89a'")]
    """
    first = 0
    for batch in _batches(files):
        pngs = [_read_chunks(file) for file in batch]
        start = nbytes = 0
        for stop, png in enumerate(pngs, 1):
            nbytes += 3 * png.height * png.width if isinstance(png, Png) else 0
            if nbytes >= _BATCH_BYTES or stop == len(batch):
                yield _decode_batch(first, batch[start:stop], pngs[start:stop])
                first += stop - start
                start, nbytes = stop, 0


def _batches(files: Iterable[bytes | OSError]) -> Iterator[list[bytes | OSError]]:
    batch: list[bytes | OSError] = []
    nbytes = 0
    for file in files:
        batch.append(file)
        nbytes += len(file) if isinstance(file, bytes) else 0
        if nbytes >= _BATCH_BYTES or len(batch) == _BATCH_IMAGES:
            yield batch
            batch, nbytes = [], 0
    if batch:
        yield batch


def _read_chunks(file: bytes | OSError) -> Png | str:
    """Read the chunks of a file, or give the reason why it is bad."""
    if isinstance(file, OSError):
        # Not the path again, which for a tree is another than for an archive.
        return file.strerror or str(file)
    try:
        return read_chunks(file)
    except BadImageError as error:
        return str(error)


def _decode_batch(first: int, files: list[bytes | OSError], pngs: list[Png | str]) -> Decoded:
    """Decode files, of which the first has that number, with what their chunks say."""
    bad: list[tuple[int, str]] = []
    reduced: list[int] = []
    common: dict[tuple[int, int, int], tuple[list[int], list[bytearray]]] = {}
    unusual: list[int] = []
    for number, png in enumerate(pngs, first):
        if isinstance(png, str):
            bad.append((number, png))
            continue
        rows = inflate(png)
        if rows is None:
            unusual.append(number)
        else:
            numbers, alike = common.setdefault((png.height, png.width, png.channels), ([], []))
            numbers.append(number)
            alike.append(rows)
    images: dict[tuple[int, ...], list[tuple[list[int], NDArray[np.uint8]]]] = {}
    for (height, width, channels), (numbers, alike) in common.items():
        pixels, valid = unfilter(b"".join(alike), height, width, channels)
        if not valid.all():
            unusual += [number for number, good in zip(numbers, valid, strict=True) if not good]
            numbers = [number for number, good in zip(numbers, valid, strict=True) if good]
            pixels = pixels[valid]
        if numbers:
            images.setdefault((height, width), []).append((numbers, pixels))
    if unusual:
        with _strict_pillow():
            for number in sorted(unusual):
                file, png = files[number - first], pngs[number - first]
                assert isinstance(file, bytes)
                assert isinstance(png, Png)
                try:
                    pixels = _decode_with_pillow(file)
                except BadImageError as error:
                    bad.append((number, str(error)))
                    continue
                images.setdefault(pixels.shape[:2], []).append(([number], pixels[np.newaxis]))
                if png.bit_depth == 16:
                    reduced.append(number)
    return Decoded([_merge(parts) for parts in images.values()], sorted(bad), reduced)


def _merge(
    parts: list[tuple[list[int], NDArray[np.uint8]]],
) -> tuple[list[int], NDArray[np.uint8]]:
    """Put images of one shape into one array, by their numbers."""
    if len(parts) == 1:
        return parts[0]
    numbers = [number for some, _ in parts for number in some]
    order = np.argsort(numbers)
    pixels: NDArray[np.uint8] = np.concatenate([pixels for _, pixels in parts])[order]
    return sorted(numbers), pixels


def _decode_with_pillow(file: bytes) -> NDArray[np.uint8]:
    # Not Image.open, because of the pixel limit that it takes from the running program (ours has
    # been kept), and because it swallows the reasons for which this class refuses a file.
    try:
        with PngImageFile(BytesIO(file)) as image:
            return np.array(image.convert("RGB"))
    except MemoryError:
        raise
    except Exception as error:
        # Anything, since Pillow lets through whatever its parser stumbles over in a broken file.
        raise BadImageError(
            f"Pillow cannot decode it: {str(error) or type(error).__name__}"
        ) from None


@contextmanager
def _strict_pillow() -> Iterator[None]:
    """Let Pillow warn of nothing, and refuse half images even where the program wants them."""
    # One thread at a time, since both are the whole program's.
    with _PILLOW:
        lenient = ImageFile.LOAD_TRUNCATED_IMAGES
        ImageFile.LOAD_TRUNCATED_IMAGES = False
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = lenient
