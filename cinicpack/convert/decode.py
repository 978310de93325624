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

from cinicpack.formats.filters import unfilter
from cinicpack.formats.png import BadImageError, Png, inflate, inflate_plain, read_chunks
from cinicpack.shortage import is_shortage

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
        plain = inflate_plain(batch, _BATCH_BYTES)
        done = set().union(*plain.values())
        pngs: dict[int, Png | str] = {}
        nbytes = 0
        for place, file in enumerate(batch):
            if place in done:
                continue
            pngs[place] = png = _read_chunks(file)
            nbytes += 3 * png.height * png.width if isinstance(png, Png) else 0
            if nbytes >= _BATCH_BYTES:
                yield _decode_batch(first, batch, {}, pngs)
                pngs, nbytes = {}, 0
        if plain or pngs:
            yield _decode_batch(first, batch, plain, pngs)
        first += len(batch)


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


def _decode_batch(
    first: int,
    files: list[bytes | OSError],
    common: dict[tuple[int, int, int], dict[int, bytearray]],
    pngs: dict[int, Png | str],
) -> Decoded:
    """Decode some files of a batch, whose first has that number.

    They are those in ``common``, as `inflate_plain` gives them, and those of which ``pngs`` has by
    place what their chunks say.
    """
    bad: list[tuple[int, str]] = []
    reduced: list[int] = []
    unusual: list[int] = []
    for place, png in pngs.items():
        if isinstance(png, str):
            bad.append((first + place, png))
        elif (rows := inflate(png)) is not None:
            common.setdefault((png.height, png.width, png.channels), {})[place] = rows
        else:
            unusual.append(first + place)
    images: dict[tuple[int, ...], list[tuple[list[int], NDArray[np.uint8]]]] = {}
    for height, width in dict.fromkeys(shape[:2] for shape in common):
        parts = {n: common[height, width, n] for n in (1, 3) if (height, width, n) in common}
        numbers = sorted(first + place for part in parts.values() for place in part)
        pixels = np.empty((len(numbers), height, width, 3), np.uint8)
        valid = np.empty(len(numbers), np.bool_)
        for channels, part in parts.items():
            places = np.searchsorted(numbers, [first + place for place in part])
            valid[places] = unfilter(b"".join(part.values()), channels, pixels, places)
        if not valid.all():
            unusual += [number for number, good in zip(numbers, valid, strict=True) if not good]
            numbers = [number for number, good in zip(numbers, valid, strict=True) if good]
            pixels = pixels[valid]
        if numbers:
            images[height, width] = [(numbers, pixels)]
    if unusual:
        with _strict_pillow():
            for number in sorted(unusual):
                file = files[number - first]
                assert isinstance(file, bytes)
                try:
                    pixels = _decode_with_pillow(file)
                except BadImageError as error:
                    bad.append((number, str(error)))
                    continue
                images.setdefault(pixels.shape[:2], []).append(([number], pixels[np.newaxis]))
                said = pngs.get(number - first)
                if isinstance(said, Png) and said.bit_depth == 16:
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
    except Exception as error:
        if is_shortage(error):
            raise
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
