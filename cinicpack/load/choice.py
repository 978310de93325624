"""Choice: which samples an epoch has instead of every one once, as users ask for it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cinicpack.arguments import check_int
from cinicpack.errors import ArgumentError
from cinicpack.load.labels import take_rows_of

__all__ = ["Order", "Repeated", "Weighted", "check_order", "check_rows"]

# The counter of a sample's draws has 16 bits for how often its row came before in the epoch.
_STOP: Final = 2**16


@dataclass(frozen=True, eq=False)
class Weighted:
    """An epoch of samples drawn by weights, as torch's ``WeightedRandomSampler`` draws them.

    Args:
        weights: how much more often than others a row is drawn: (N,), at least 0, by row of the
            split before `Loader` narrows it; they need not sum to 1. Weights count as whole
            multiples of 2**-(61 - log2(N)) of the largest.
        replacement: whether a row may come several times in an epoch; each time it is augmented
            anew.
        num_samples: how many samples an epoch has; None: as many as the loader has rows.

    Raises `ArgumentError` for weights that are negative, not finite or all 0, and for other shapes;
    `Loader` also where its rows have no weight above 0, or without replacement fewer such weights
    than an epoch has samples.

    >>> import cinicpack
    >>> pack = cinicpack.open_pack("cinic10.pack")
    >>> cats = pack["train"].labels == pack.class_to_idx["cat"]
    >>> order = cinicpack.Weighted(1 + 8 * cats, num_samples=256)
    >>> len(cinicpack.Loader(pack, "train", order=order, batch_size=64))
    4
    """

    weights: ArrayLike
    replacement: bool = True
    num_samples: int | None = None

    def __post_init__(self) -> None:
        try:
            weights = np.array(self.weights, np.float64)
        except (ValueError, TypeError, RuntimeError) as error:
            raise ArgumentError(f"expected weights to become numbers: {error}") from None
        if weights.ndim != 1 or not weights.size:
            raise ArgumentError(f"expected weights in one dimension, found {weights.shape}")
        if not np.all((weights >= 0) & (weights < np.inf)):
            row = np.flatnonzero(~((weights >= 0) & (weights < np.inf)))[0]
            raise ArgumentError(
                f"expected weights of at least 0 that are finite, found {weights[row]} in row {row}"
            )
        if not weights.any():
            raise ArgumentError(f"expected some weight above 0, found {len(weights)} times 0")
        if type(self.replacement) is not bool:
            raise ArgumentError(
                f"expected replacement to be True or False, found {self.replacement!r}"
            )
        _check_num_samples(self.num_samples)
        weights.flags.writeable = False
        object.__setattr__(self, "weights", weights)


@dataclass(frozen=True)
class Repeated:
    """An epoch that has every row ``k`` times, one after the other, each time augmented anew.

    This is repeated augmentation: rows come in a new order every epoch.

    Args:
        k: how often, 1 to 65,536.
        num_samples: how many samples an epoch has, the first ones of that order; None: k times as
            many as the loader has rows. DeiT and timm take as many as there are rows.

    Raises `ArgumentError` for anything else.

    >>> import cinicpack
    >>> loader = cinicpack.Loader("cinic10.pack", order=cinicpack.Repeated(3), batch_size=90)
    >>> len(loader)
    3
    """

    k: int
    num_samples: int | None = None

    def __post_init__(self) -> None:
        check_int("k", self.k, 1, _STOP + 1)
        _check_num_samples(self.num_samples)


Order: TypeAlias = Weighted | Repeated | str | NDArray[np.int64] | Callable[[int], Any]


def check_order(order: Any, count: int) -> Order:
    """Return what a `Loader` is given as ``order`` for a split of ``count`` rows.

    Raises `ArgumentError` for what is no order, or not one of that split.

    >>> check_order([2, 0, 2], 3)
    array([2, 0, 2])
    """
    if isinstance(order, str) and order != "balanced":
        raise ArgumentError(f"expected order to be 'balanced' if it is a word, found {order!r}")
    found: Order = Weighted(order) if _is_float(order) else order
    if isinstance(found, Weighted):
        take_rows_of("weights", found.weights, count)
    if isinstance(found, Weighted | Repeated | str) or callable(found):
        return found
    return check_rows("order", found, np.arange(count))


def check_rows(name: str, given: Any, known: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return rows as int64, (n,); raises `ArgumentError` if they are not all in ``known``.

    Args:
        name: what the error calls them.
        given: at least one whole number.
        known: ascending.
    """
    try:
        rows = np.asarray(given)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ArgumentError(f"expected {name} to become an array: {error}") from None
    if rows.ndim != 1 or rows.dtype.kind not in "iu" or not rows.size:
        raise ArgumentError(
            f"expected {name} to be rows, whole numbers in one dimension and at least one, found "
            f"{given!r}"
        )
    there = np.isin(rows, known)
    if not there.all():
        raise ArgumentError(
            f"expected {name} to be rows of the split that the loader has, found "
            f"{rows[~there][0]}, which is not there or was left out by source, classes or unique"
        )
    own = rows.astype(np.int64)
    own.flags.writeable = False
    return own


def _check_num_samples(num_samples: Any) -> None:
    if num_samples is not None:
        check_int("num_samples", num_samples, 1, 2**32)


def _is_float(order: Any) -> bool:
    try:
        found = np.asarray(order)
    except (ValueError, TypeError, RuntimeError):
        return False
    return found.dtype.kind == "f" and found.size > 0
