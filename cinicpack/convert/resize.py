"""Resizing: images of any size become images of one, by Pillow."""

from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cinicpack.convert.decoded import Decoded, Part, merge
from cinicpack.convert.pillow import check_size
from cinicpack.errors import ArgumentError
from cinicpack.formats.png import MAX_PIXELS, BadImageError
from cinicpack.store.format import FILTERS, FITS
from cinicpack.store.manifest import Resize

__all__ = ["check_resize", "resize_all"]

# CINIC-10's authors reduced ImageNet's images so.
_DEFAULTS: Final = ("box", "squash")


def check_resize(size: int | tuple[int, int] | None, filter: str, fit: str) -> Resize | None:  # noqa: A002
    """Take the arguments of `packer.pack`; None if images are to stay as they are.

    Raises `ArgumentError` where they are out of their domains.
    """
    if filter not in FILTERS:
        raise ArgumentError(f"expected filter out of {', '.join(FILTERS)}, found {filter!r}")
    if fit not in FITS:
        raise ArgumentError(f"expected fit out of {', '.join(FITS)}, found {fit!r}")
    if size is None:
        if (filter, fit) != _DEFAULTS:
            raise ArgumentError("expected a size for filter and fit: pass --resize N (resize=N)")
        return None
    sides = size if isinstance(size, tuple | list) else (size, size)
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise ArgumentError(f"expected resize=N or (height, width) of at least 1, found {size!r}")
    height, width = sides
    if height * width > MAX_PIXELS:
        raise ArgumentError(
            f"expected resize of at most {MAX_PIXELS} pixels in all, found {size!r}"
        )
    return Resize((height, width), filter, fit)


def resize_all(images: Iterable[Decoded], to: Resize) -> Iterator[Decoded]:
    """Give images, RGB already, the size that they are to have.

    One that would become too large on the way, since it is very long, is bad.
    """
    for decoded in images:
        parts: list[Part] = []
        bad = list(decoded.bad)
        for numbers, pixels in decoded.images:
            if pixels.shape[1:3] == to.size:
                parts.append((numbers, pixels))
                continue
            for number, image in zip(numbers, pixels, strict=True):
                try:
                    parts.append(([number], _resize(image, to)[np.newaxis]))
                except BadImageError as error:
                    bad.append((number, str(error)))
        merged = [merge(parts)] if parts else []
        yield decoded._replace(images=merged, bad=sorted(bad))


def _resize(pixels: NDArray[np.uint8], to: Resize) -> NDArray[np.uint8]:
    """Resize one image."""
    image, resampling = Image.fromarray(pixels), Image.Resampling[to.filter.upper()]
    height, width = to.size
    if to.fit == "squash":
        return np.array(image.resize((width, height), resampling))
    # The shorter side, measured by the sides to come, gets its size, the other one is in
    # proportion, and its middle is taken: as torchvision's Resize and CenterCrop for squares.
    whole_height, whole_width = height, width
    if image.width * height >= width * image.height:
        whole_width = image.width * height // image.height
    else:
        whole_height = image.height * width // image.width
    check_size(whole_height, whole_width)
    top, left = round((whole_height - height) / 2), round((whole_width - width) / 2)
    whole = np.array(image.resize((whole_width, whole_height), resampling))
    # What was cut out is copied, since `Decoded` has pixels in C order.
    return whole[top : top + height, left : left + width].copy()
