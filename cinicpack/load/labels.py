"""Labels of the user's own, by row of a split."""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cinicpack.errors import ArgumentError

__all__ = ["Labels", "check_labels", "take_rows_of"]

Labels: TypeAlias = NDArray[np.int64] | NDArray[np.float32]


def check_labels(labels: Any, count: int) -> Labels:
    """Return labels as batches have them: int64 or float32, (N,) or (N, K), read-only.

    Args:
        labels: integers or floats of any size, as an array or what becomes one.
        count: N.

    Raises `ArgumentError` for other shapes, other kinds, and numbers that are not finite.

    >>> check_labels([0, -1, 2], 3)
    array([ 0, -1,  2])
    >>> check_labels([[0.5, 0.5], [1, 0]], 2).dtype
    dtype('float32')
    """
    found = take_rows_of("labels", labels, count, (1, 2))
    if found.dtype.kind not in "iuf" or not found[:1].size:
        raise ArgumentError(
            f"expected labels to be integers or floats, (N,) or (N, K), found {found.dtype} "
            f"{found.shape}"
        )
    if found.dtype.kind != "f":
        if found.dtype.kind == "u" and found.max() > np.iinfo(np.int64).max:
            raise ArgumentError(f"expected labels that int64 can hold, found {found.max()}")
        own: Labels = found.astype(np.int64)
    else:
        with np.errstate(over="ignore"):
            own = found.astype(np.float32)
        if not np.isfinite(own).all():
            row = np.flatnonzero(~np.isfinite(own.reshape(count, -1)).all(1))[0]
            raise ArgumentError(
                f"expected labels that are finite in float32, found {found[row]} in row {row}: "
                "mark what has no label in another way, for example by -1"
            )
    own.flags.writeable = False
    return own


def take_rows_of(
    name: str, values: Any, count: int, dimensions: tuple[int, ...] = (1,)
) -> NDArray[Any]:
    """Return an array that has a value for every row of a split; `ArgumentError` for others."""
    try:
        found = np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ArgumentError(f"expected {name} to become an array: {error}") from None
    if found.ndim not in dimensions or len(found) != count:
        raise ArgumentError(
            f"expected {name} for each of the {count} rows of the split, before source, classes "
            f"and unique narrow it, found {found.dtype} {found.shape}"
        )
    return found
