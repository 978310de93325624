"""The contents of images become RGB pixels, exactly those that torchvision's ImageFolder gives.

To add a kind of file: its suffix in `SUFFIXES`, and in `_DECODERS` how it starts, what decodes some
of them, and what tells the size of one. One that Pillow knows is a line in `pictures.STARTS`.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cinicpack.convert.decoded import BATCH_BYTES, Decoded, Decoder
from cinicpack.convert.files import Content, count_bytes
from cinicpack.convert.pictures import STARTS, decode_pictures, measure_picture
from cinicpack.convert.pngs import decode_pngs, measure_png
from cinicpack.formats.png import SIGNATURE, BadImageError

__all__ = ["SUFFIXES", "decode_images", "is_image", "measure_image"]

#: How the file names of images end, in lower case: those that torchvision's ImageFolder loads.
SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")

# The contents and pixels of so many small images stay in the processor's cache between two steps.
_BATCH_IMAGES: Final = 256


def is_image(name: str) -> bool:
    """Say whether a file name is an image's, and not that of the ``._`` file macOS adds to it."""
    # The first test alone decides most names, in half the time of the second.
    found = name.endswith(SUFFIXES) or name.lower().endswith(SUFFIXES)
    return found and not name.startswith("._")


def measure_image(content: Content) -> tuple[int, int] | None:
    """Tell height and width of an image without decoding it; None if it is bad."""
    try:
        return _find_decoder(content).measure(content)
    except BadImageError:
        return None


def decode_images(contents: Iterable[Content]) -> Iterator[Decoded]:
    """Decode images in batches; pixels, uint8 (height, width, 3), are taken as they are.

    They are those of ``Image.open(file).convert("RGB")``, whatever the file's name: not turned as
    Exif would have it, transparency and colour profiles have no effect, 16-bit samples lose their
    lower byte in colour but are clipped at 255 in grey, and of an animation there is the first
    frame. What Pillow refuses is bad, a file that ends early for one.

    A PNG file is accepted if also every chunk of it is sound. Files of the common kind are decoded
    together, others by Pillow. Of the common kind, libdeflate decompresses the pixels: it gives a
    meaning to the codes that Deflate reserves, where Pillow's zlib refuses them, and is as strict
    in what the pixels must add up to.

    ``contents`` are taken only as the results are asked for, so that large images need not all be
    in memory at once. An error in place of a content is the reason why there is none.

    >>> [decoded] = decode_images([b"GIF89a"])
    >>> decoded.bad
    [(0, "no PNG, JPEG, PPM, BMP, TIFF or WebP file: it starts with b'GIF89a'")]
    """
    first = 0
    for batch in _cut_batches(contents):
        kinds: dict[Decoder, list[int]] = {}
        for place, content in enumerate(batch):
            kinds.setdefault(_find_decoder(content), []).append(place)
        for decoder, places in kinds.items():
            numbers = [first + place for place in places]
            yield from decoder.decode(numbers, [batch[place] for place in places])
        first += len(batch)


def _cut_batches(contents: Iterable[Content]) -> Iterator[list[Content]]:
    batch: list[Content] = []
    nbytes = 0
    for content in contents:
        batch.append(content)
        nbytes += count_bytes(content)
        if nbytes >= BATCH_BYTES or len(batch) == _BATCH_IMAGES:
            yield batch
            batch, nbytes = [], 0
    if batch:
        yield batch


def _find_decoder(content: Content) -> Decoder:
    """Find who decodes a content; PNG's decoder also knows an error, and a file cut that early."""
    if isinstance(content, bytes):
        for start, decoder in _DECODERS.items():
            if content.startswith(start):
                return decoder
        return _PNG if SIGNATURE.startswith(content) else _NONE
    return _PIXELS if isinstance(content, np.ndarray) else _PNG


def _refuse(numbers: Sequence[int], files: Sequence[Content]) -> Iterator[Decoded]:
    yield Decoded([], [(n, _refusal(file)) for n, file in zip(numbers, files, strict=True)], [])


def _measure_none(file: Content) -> tuple[int, int]:
    raise BadImageError(_refusal(file))


def _refusal(file: Content) -> str:
    assert isinstance(file, bytes)
    return f"no PNG, JPEG, PPM, BMP, TIFF or WebP file: it starts with {file[:8]!r}"


def _take_pixels(numbers: Sequence[int], images: Sequence[Content]) -> Iterator[Decoded]:
    """Take pixels as they are; those of one shape become one array."""
    bad: list[tuple[int, str]] = []
    shapes: dict[tuple[int, int], tuple[list[int], list[NDArray[np.uint8]]]] = {}
    for number, pixels in zip(numbers, images, strict=True):
        try:
            mine, same = shapes.setdefault(_measure_pixels(pixels), ([], []))
            assert isinstance(pixels, np.ndarray)
        except BadImageError as error:
            bad.append((number, str(error)))
            continue
        mine.append(number)
        same.append(pixels)
    images_of_shape = []
    for (height, width), (mine, same) in shapes.items():
        # Without ``out`` the result would have the memory order of the pixels, not always C order.
        out = np.empty((len(mine), height, width, 3), np.uint8)
        images_of_shape.append((mine, np.stack(same, out=out)))
    yield Decoded(images_of_shape, bad, [])


def _measure_pixels(pixels: Content) -> tuple[int, int]:
    assert isinstance(pixels, np.ndarray)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise BadImageError(
            f"expected pixels uint8 (height, width, 3), found {pixels.dtype} {pixels.shape}"
        )
    height, width, _ = pixels.shape
    return height, width


_PIXELS: Final = Decoder(_take_pixels, _measure_pixels)
_PNG: Final = Decoder(decode_pngs, measure_png)
_PICTURE: Final = Decoder(decode_pictures, measure_picture)
_NONE: Final = Decoder(_refuse, _measure_none)
# Decoders of files, by how these start.
_DECODERS: Final = {SIGNATURE: _PNG, **dict.fromkeys(STARTS, _PICTURE)}
