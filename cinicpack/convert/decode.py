"""The contents of images become RGB pixels, exactly those that torchvision's ImageFolder gives.

To add a kind of file: its suffix in `SUFFIXES`, and in `_DECODERS` how it starts, what decodes some
of them, and what tells the size of one.
"""

import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from io import BytesIO
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import ImageFile
from PIL.PngImagePlugin import PngImageFile

from cinicpack.convert.files import Content, count_bytes
from cinicpack.formats.filters import unfilter
from cinicpack.formats.png import (
    SIGNATURE,
    BadImageError,
    Png,
    inflate,
    inflate_plain,
    read_chunks,
)
from cinicpack.shortage import is_shortage

__all__ = [
    "SUFFIXES",
    "Decoded",
    "decode_images",
    "is_image",
    "is_other_image",
    "measure_image",
]

#: How the file names of images that are packed end, in lower case.
SUFFIXES: Final = (".png",)
# How the names of the other images end that torchvision's ImageFolder loads.
_OTHER_SUFFIXES: Final = (".jpg", ".jpeg", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


class Decoded(NamedTuple):
    """What became of some images, each named by its number, from 0 for the first of all.

    Attributes:
        images: by shape, the numbers of n images, ascending, and their pixels, uint8 (n, height,
            width, 3) in C order.
        bad: number and reason of every one that cannot be packed.
        reduced: numbers of images whose samples had 16 bits and were made to fit into 8.
    """

    images: list[tuple[list[int], NDArray[np.uint8]]]
    bad: list[tuple[int, str]]
    reduced: list[int]


@dataclass(frozen=True, eq=False)  # compared by identity, which is fast
class _Decoder:
    """A way from contents of one kind to pixels.

    Attributes:
        decode: takes the numbers of some images and their contents.
        measure: tells height and width; raises `BadImageError`.
    """

    decode: Callable[[Sequence[int], Sequence[Content]], Iterator[Decoded]]
    measure: Callable[[Content], tuple[int, int]]


# The places of some images in a batch, ascending, and their pixels.
_Part: TypeAlias = tuple[list[int], NDArray[np.uint8]]

# At most about so many bytes of contents, and of pixels, are in memory at a time.
_BATCH_BYTES: Final = 4 << 20
# The contents and pixels of so many small images stay in the processor's cache between two steps.
_BATCH_IMAGES: Final = 256
_PILLOW: Final = threading.Lock()


def is_image(name: str) -> bool:
    """Say whether a file name is an image's, and not that of the ``._`` file macOS adds to it."""
    # The first test alone decides most names, in half the time of the second.
    found = name.endswith(SUFFIXES) or name.lower().endswith(SUFFIXES)
    return found and not name.startswith("._")


def is_other_image(name: str) -> bool:
    """Say whether a file name is that of another image, which ImageFolder loads."""
    return name.lower().endswith(_OTHER_SUFFIXES) and not name.startswith("._")


def measure_image(content: Content) -> tuple[int, int] | None:
    """Tell height and width of an image without decoding it; None if it is bad."""
    try:
        return _find_decoder(content).measure(content)
    except BadImageError:
        return None


def decode_images(contents: Iterable[Content]) -> Iterator[Decoded]:
    """Decode images in batches; pixels, uint8 (height, width, 3), are taken as they are.

    A PNG file is accepted if every chunk of it is sound and Pillow accepts it, and then the pixels
    are those of ``Image.open(file).convert("RGB")``. So 16-bit samples lose their lower byte in
    colour but are clipped at 255 in grey, transparency and colour profiles have no effect, and of
    an animation there is the first frame. Files of the common kind are decoded together, others by
    Pillow. Of the common kind, libdeflate decompresses the pixels: it gives a meaning to the codes
    that Deflate reserves, where Pillow's zlib refuses them, and is as strict in what the pixels
    must add up to.

    ``contents`` are taken only as the results are asked for, so that large images need not all be
    in memory at once. An error in place of a content is the reason why there is none.

    >>> [decoded] = decode_images([b"GIF89a"])
    >>> decoded.bad
    [(0, "not a PNG file: it starts with b'GIF89a'")]
    """
    first = 0
    for batch in _cut_batches(contents):
        kinds: dict[_Decoder, list[int]] = {}
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
        if nbytes >= _BATCH_BYTES or len(batch) == _BATCH_IMAGES:
            yield batch
            batch, nbytes = [], 0
    if batch:
        yield batch


def _find_decoder(content: Content) -> _Decoder:
    """Find who decodes a content; what nobody knows is for the decoder of PNG files to refuse."""
    if isinstance(content, bytes):
        for start, decoder in _DECODERS.items():
            if content.startswith(start):
                return decoder
    return _PIXELS if isinstance(content, np.ndarray) else _PNG


def _decode_pngs(numbers: Sequence[int], files: Sequence[Content]) -> Iterator[Decoded]:
    """Decode the common kind of PNG files together, every other one with Pillow."""
    plain = inflate_plain(files, _BATCH_BYTES)
    done = set().union(*plain.values())
    pngs: dict[int, Png | str] = {}
    nbytes = 0
    for place, file in enumerate(files):
        if place in done:
            continue
        pngs[place] = png = _read_chunks(file)
        nbytes += 3 * png.height * png.width if isinstance(png, Png) else 0
        if nbytes >= _BATCH_BYTES:
            yield _decode_batch(numbers, files, {}, pngs)
            pngs, nbytes = {}, 0
    if plain or pngs:
        yield _decode_batch(numbers, files, plain, pngs)


def _read_chunks(file: Content) -> Png | str:
    """Read the chunks of a file, or give the reason why it is bad."""
    if isinstance(file, OSError):
        # Without the path, which differs between a tree and an archive of the same images.
        return file.strerror or str(file)
    assert isinstance(file, bytes)
    try:
        return read_chunks(file)
    except BadImageError as error:
        return str(error)


def _measure_png(file: Content) -> tuple[int, int]:
    png = _read_chunks(file)
    if isinstance(png, str):
        raise BadImageError(png)
    return png.height, png.width


def _decode_batch(
    numbers: Sequence[int],
    files: Sequence[Content],
    common: dict[tuple[int, int, int], dict[int, bytearray]],
    pngs: dict[int, Png | str],
) -> Decoded:
    """Decode some of the files with these numbers.

    They are those in ``common``, as `inflate_plain` gives them, and those of which ``pngs`` has by
    place what their chunks say.
    """
    bad: list[tuple[int, str]] = []
    unusual: list[int] = []
    for place, png in pngs.items():
        if isinstance(png, str):
            bad.append((numbers[place], png))
        elif (rows := inflate(png)) is not None:
            common.setdefault((png.height, png.width, png.channels), {})[place] = rows
        else:
            unusual.append(place)
    images: dict[tuple[int, ...], list[_Part]] = {}
    for height, width in dict.fromkeys(shape[:2] for shape in common):
        parts = {n: common[height, width, n] for n in (1, 3) if (height, width, n) in common}
        places, pixels, refused = _unfilter(height, width, parts)
        unusual += refused
        if places:
            images[height, width] = [(places, pixels)]
    reduced: list[int] = []
    with _strict_pillow() if unusual else nullcontext():
        for place in sorted(unusual):
            try:
                pixels = _decode_with_pillow(files[place])
            except BadImageError as error:
                bad.append((numbers[place], str(error)))
                continue
            images.setdefault(pixels.shape[:2], []).append(([place], pixels[np.newaxis]))
            said = pngs.get(place)
            if isinstance(said, Png) and said.bit_depth == 16:
                reduced.append(numbers[place])
    merged = [_merge(parts) for parts in images.values()]
    named = [([numbers[place] for place in places], pixels) for places, pixels in merged]
    return Decoded(named, sorted(bad), reduced)


def _unfilter(
    height: int, width: int, parts: dict[int, dict[int, bytearray]]
) -> tuple[list[int], NDArray[np.uint8], list[int]]:
    """Undo the filters of images of one shape, whose rows are given by channels and place.

    Returns places and pixels of the sound ones, and the places of the others.
    """
    places = sorted(place for part in parts.values() for place in part)
    pixels = np.empty((len(places), height, width, 3), np.uint8)
    valid = np.empty(len(places), np.bool_)
    for channels, part in parts.items():
        targets = np.searchsorted(places, [*part])
        valid[targets] = unfilter(b"".join(part.values()), channels, pixels, targets)
    if valid.all():
        return places, pixels, []
    refused = [place for place, good in zip(places, valid, strict=True) if not good]
    return (
        [place for place, good in zip(places, valid, strict=True) if good],
        pixels[valid],
        refused,
    )


def _merge(parts: list[_Part]) -> _Part:
    """Put images of one shape into one array, in the order of their places."""
    if len(parts) == 1:
        return parts[0]
    places = [place for some, _ in parts for place in some]
    order = np.argsort(places)
    pixels: NDArray[np.uint8] = np.concatenate([pixels for _, pixels in parts])[order]
    return sorted(places), pixels


def _decode_with_pillow(file: Content) -> NDArray[np.uint8]:
    assert isinstance(file, bytes)
    # Image.open would apply a pixel limit that the running program sets (our own limit has been
    # checked), and swallow the reasons for which PngImageFile refuses a file.
    try:
        with PngImageFile(BytesIO(file)) as image:
            return np.array(image.convert("RGB"))
    except Exception as error:
        if is_shortage(error):
            raise
        # Any exception is caught, since Pillow lets through whatever a broken file makes it raise.
        raise BadImageError(
            f"Pillow cannot decode it: {str(error) or type(error).__name__}"
        ) from None


@contextmanager
def _strict_pillow() -> Iterator[None]:
    """Let Pillow warn of nothing, and refuse half images even where the program wants them."""
    # One thread at a time, since the flag and the filters of warnings are the whole program's.
    with _PILLOW:
        lenient = ImageFile.LOAD_TRUNCATED_IMAGES
        ImageFile.LOAD_TRUNCATED_IMAGES = False
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = lenient


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


_PIXELS: Final = _Decoder(_take_pixels, _measure_pixels)
_PNG: Final = _Decoder(_decode_pngs, _measure_png)
# Decoders of files, by how these start.
_DECODERS: Final = {SIGNATURE: _PNG}
