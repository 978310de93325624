"""Choosing rows of a split: by number, source and class, and without copies."""

from collections.abc import Iterable
from ctypes import string_at
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cinicpack.cinic10 import Origin
from cinicpack.errors import SelectionError
from cinicpack.text import some

__all__ = ["ORIGINS_OF_SOURCE", "check_indices", "drop_copies", "find_labels", "find_origins"]

#: What ``source=`` may be, and for which origins each of the names stands.
ORIGINS_OF_SOURCE: Final = {
    "cifar10": (Origin.CIFAR10_TRAIN, Origin.CIFAR10_TEST),
    "imagenet": (Origin.IMAGENET,),
}


def check_indices(indices: ArrayLike, count: int) -> NDArray[np.int64]:
    """Return the rows below ``count`` that a mask, or integers from either end, stand for.

    Raises `SelectionError` for anything else.

    >>> check_indices([0, -1], 5).tolist(), check_indices([True, False, True], 3).tolist()
    ([0, 4], [0, 2])
    """
    try:
        array = np.asarray(indices)
    except ValueError as error:
        raise SelectionError(f"expected indices in one dimension: {error}") from error
    if array.dtype == bool and array.shape == (count,):
        return np.flatnonzero(array)
    if array.ndim != 1 or not (np.issubdtype(array.dtype, np.integer) or not array.size):
        raise SelectionError(
            f"expected indices as whole numbers, or a mask of {count}, in one dimension, "
            f"found {array.dtype} {array.shape}"
        )
    # Compared as they are: converted first, a large unsigned integer would wrap around.
    outside = array[(array < -count) | (array >= count)]
    if outside.size:
        raise SelectionError(f"expected indices from {-count} to {count - 1}, found {outside[0]}")
    array = array.astype(np.int64)
    return np.where(array < 0, array + count, array)


def find_origins(source: object) -> tuple[Origin, ...]:
    """Return the origins that a source stands for; raises `SelectionError` for no source.

    >>> find_origins("imagenet")
    (<Origin.IMAGENET: 3>,)
    """
    if not isinstance(source, str) or source not in ORIGINS_OF_SOURCE:
        raise SelectionError(
            f"expected source {' or '.join(map(repr, ORIGINS_OF_SOURCE))}, found {source!r}"
        )
    return ORIGINS_OF_SOURCE[source]


def find_labels(classes: Any, class_to_idx: dict[str, int]) -> list[int]:
    """Return the labels of a class name or several; raises `SelectionError` for no such class.

    >>> find_labels(["cat"], {"airplane": 0, "cat": 1})
    [1]
    """
    several = isinstance(classes, Iterable) and not isinstance(classes, str | bytes)
    names: list[Any] = list(classes) if several else [classes]
    if unknown := [name for name in names if not isinstance(name, str) or name not in class_to_idx]:
        raise SelectionError(
            f"expected classes out of {some(list(class_to_idx), 20)}, "
            f"found {some(unknown, quoted=True)}; a label's name is classes[label]"
        )
    return [class_to_idx[name] for name in names]


def drop_copies(addresses: NDArray[np.uint64], size: int) -> NDArray[np.int64]:
    """Return which images to keep so that no two have the same pixels: the first of each.

    Hashes only say which images to compare; those with the same hash are compared byte by byte.

    Args:
        addresses: (N,), where each image lies in memory.
        size: bytes of an image.

    Returns:
        Positions in ``addresses``, ascending.

    >>> images = np.array([[1, 2], [3, 4], [1, 2]], np.uint8)
    >>> starts = images.ctypes.data + np.array([0, 2, 4], np.uint64)
    >>> drop_copies(starts, 2).tolist()
    [0, 1]
    """
    first: dict[int, int] = {}
    kept = []
    for position, place in enumerate(addresses.tolist()):
        # Python's hash of bytes makes 3 GB/s on one core, faster than any digest.
        pixels = string_at(place, size)
        key = hash(pixels)
        # Where another picture has the same hash, the second picture takes the next free key.
        while key in first and string_at(first[key], size) != pixels:
            key += 1
        if key not in first:
            first[key] = place
            kept.append(position)
    return np.array(kept, np.int64)
