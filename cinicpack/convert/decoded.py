"""What decoding gives: the pixels of images by their shape, and what cannot be packed."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cinicpack.convert.files import Content

__all__ = ["BATCH_BYTES", "GREY", "Decoded", "Decoder", "Part", "merge"]

#: At most about so many bytes of contents, and of pixels, are in memory at a time.
BATCH_BYTES: Final = 4 << 20

#: How messages call images of one channel.
GREY: Final = "grey"

#: The numbers of some images of one shape, ascending, and their pixels.
Part: TypeAlias = tuple[list[int], NDArray[np.uint8]]


class Decoded(NamedTuple):
    """What became of some images, each named by its number, from 0 for the first of all.

    Attributes:
        images: by shape, the numbers of n images, ascending, and their pixels, uint8 (n, height,
            width, 3) in C order.
        bad: number and reason of every one that cannot be packed.
        reduced: numbers of images whose samples had 16 bits and were made to fit into 8.
        recoloured: number and former kind, `GREY` for one, of every image that was not RGB.
    """

    images: list[Part]
    bad: list[tuple[int, str]]
    reduced: list[int]
    recoloured: Sequence[tuple[int, str]] = ()


@dataclass(frozen=True, eq=False)  # compared by identity, which is fast
class Decoder:
    """A way from contents of one kind to pixels.

    Attributes:
        decode: takes the numbers of some images and their contents.
        measure: tells height and width; raises `BadImageError`.
    """

    decode: Callable[[Sequence[int], Sequence[Content]], Iterator[Decoded]]
    measure: Callable[[Content], tuple[int, int]]


def merge(parts: list[Part]) -> Part:
    """Put images of one shape into one array, in the order of their numbers."""
    if len(parts) == 1:
        return parts[0]
    numbers = [number for some, _ in parts for number in some]
    order = np.argsort(numbers)
    pixels: NDArray[np.uint8] = np.concatenate([pixels for _, pixels in parts])[order]
    return sorted(numbers), pixels
