"""PNG files become pixels: the common ones together, the others by Pillow."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext

import numpy as np
from numpy.typing import NDArray
from PIL.PngImagePlugin import PngImageFile

from cinicpack.convert.decoded import BATCH_BYTES, GREY, Decoded, Part, merge
from cinicpack.convert.files import Content
from cinicpack.convert.pillow import decode_with_pillow, strict_pillow
from cinicpack.formats.filters import unfilter
from cinicpack.formats.png import BadImageError, Png, inflate, inflate_plain, read_chunks

__all__ = ["decode_pngs", "measure_png"]


def decode_pngs(numbers: Sequence[int], files: Sequence[Content]) -> Iterator[Decoded]:
    """Decode the common kind of PNG files together, every other one with Pillow."""
    plain = inflate_plain(files, BATCH_BYTES)
    done = set().union(*plain.values())
    pngs: dict[int, Png | str] = {}
    nbytes = 0
    for place, file in enumerate(files):
        if place in done:
            continue
        pngs[place] = png = _read_chunks(file)
        nbytes += 3 * png.height * png.width if isinstance(png, Png) else 0
        if nbytes >= BATCH_BYTES:
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


def measure_png(file: Content) -> tuple[int, int]:
    """Tell height and width of a PNG file; raises `BadImageError`."""
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
    images: dict[tuple[int, ...], list[Part]] = {}
    recoloured: list[tuple[int, str]] = []
    for height, width in dict.fromkeys(shape[:2] for shape in common):
        parts = {n: common[height, width, n] for n in (1, 3) if (height, width, n) in common}
        places, pixels, refused = _unfilter(height, width, parts)
        unusual += refused
        grey = parts.get(1, {})
        recoloured += [(numbers[place], GREY) for place in places if place in grey]
        if places:
            images[height, width] = [(places, pixels)]
    reduced: list[int] = []
    with strict_pillow() if unusual else nullcontext():
        for place in sorted(unusual):
            try:
                file = files[place]
                assert isinstance(file, bytes)
                pixels, _, former = decode_with_pillow(file, PngImageFile)
            except BadImageError as error:
                bad.append((numbers[place], str(error)))
                continue
            images.setdefault(pixels.shape[:2], []).append(([place], pixels[np.newaxis]))
            recoloured += [(numbers[place], former)] if former else []
            said = pngs.get(place)
            if isinstance(said, Png) and said.bit_depth == 16:
                reduced.append(numbers[place])
    merged = [merge(parts) for parts in images.values()]
    named = [([numbers[place] for place in places], pixels) for places, pixels in merged]
    return Decoded(named, sorted(bad), reduced, recoloured)


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
