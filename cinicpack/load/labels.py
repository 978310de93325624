"""Labels of the user's own, by row of a split."""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cinicpack.errors import ArgumentError

__all__ = ["Labels", "check_labels", "tabulate", "take_rows_of"]

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


def tabulate(labels: Labels, classes: int | None) -> tuple[Labels | None, NDArray[np.int64]]:
    """Make a table of labels, and say which row of it each sample has; or keep the labels.

    Args:
        labels: of all samples, (N,) or (N, K).
        classes: K, where batches are mixed, so that a label has a share of each class; else None.

    Returns:
        The table and the rows (N,); where a label is one integer that is not mixed, None and the
        labels.

    Raises `ArgumentError` for integers that are no class where batches are mixed.

    >>> tabulate(np.array([1, 0, 1]), 2)[0]
    array([[1., 0.],
           [0., 1.]], dtype=float32)
    """
    if labels.ndim > 1 or labels.dtype != np.int64:
        mixed = labels if classes is None else labels.astype(np.float32).reshape(len(labels), -1)
        return mixed, np.arange(len(labels))
    rows = labels.astype(np.int64)
    if classes is None:
        return None, rows
    for wrong in rows[(rows < 0) | (rows >= classes)][:1]:
        raise ArgumentError(
            f"expected labels from 0 to {classes - 1} to mix, found {wrong}: leave such rows out, "
            "or pass labels (N, K), a column for each class"
        )
    return np.eye(classes, dtype=np.float32), rows


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
