"""Label noise: labels of a split, of which a share is wrong on purpose."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cinicpack.arguments import check_int, check_number
from cinicpack.errors import ArgumentError
from cinicpack.store.selection import find_labels
from cinicpack.store.split import Split

__all__ = ["label_noise"]

Pairs: TypeAlias = Mapping[str, str] | Literal["next"]


def label_noise(
    split: Split,
    rate: float | Mapping[str, float] | Sequence[float],
    *,
    pairs: Pairs | None = None,
    seed: int = 0,
) -> NDArray[np.int64]:
    """Return the labels of a split, of which a share of every class is replaced by wrong ones.

    The share is exact: ``round(rate * images of the class)``, images drawn by ``seed``, by whole
    numbers alone and so the same on every machine. With a higher rate, the images that a lower one
    changes get the same labels.

    Args:
        split: whose labels.
        rate: which share, 0 to 1: of every class, or by class: {name: rate}, where classes that are
            not named stay as they are, or one for each class of the pack, in label order.
        pairs: None: any other class, each as often (symmetric noise); {name: name}: this one, and
            classes that are not named stay as they are (asymmetric noise); "next": the class with
            the next label, and the first for the last (pair flip).
        seed: of what is drawn, below 2**32.

    Returns:
        (N,) int64, by row of the split.

    Raises:
        ArgumentError: a rate is not between 0 and 1, there is not one for each class, or a class
            has a rate but no other class to become.
        SelectionError: the pack has no such class.

    >>> import cinicpack
    >>> train = cinicpack.open_pack("cinic10.pack")["train"]
    >>> noisy = cinicpack.study.label_noise(train, 0.4)
    >>> (noisy != train.labels).sum()
    np.int64(40)
    >>> alike = {"truck": "automobile", "bird": "airplane", "deer": "horse"}
    >>> alike |= {"cat": "dog", "dog": "cat"}
    >>> noisy = cinicpack.study.label_noise(train, 0.4, pairs=alike)
    >>> (noisy != train.labels).sum()
    np.int64(20)
    """
    count = len(split.classes)
    target_of = _find_targets(split, pairs)
    rates = _find_rates(split, rate, target_of)
    random = np.random.RandomState(check_int("seed", seed, 0, 2**32))
    noisy = split.labels.astype(np.int64)
    for label in range(count):
        rows = random.permutation(np.flatnonzero(split.labels == label))
        # The type is named, because the default one, and with it what is drawn, depends on the
        # system.
        others = random.randint(0, max(1, count - 1), len(rows), np.int64)
        others += others >= label
        if target_of is not None:
            others[:] = target_of.get(label, label)
        changed = round(rates[label] * len(rows))
        noisy[rows[:changed]] = others[:changed]
    return noisy


def _find_targets(split: Split, pairs: Pairs | None) -> dict[int, int] | None:
    """Return by label which one it becomes; None: any other."""
    count = len(split.classes)
    if pairs is None or pairs == "next":
        if count < 2:
            raise ArgumentError(f"{split!r} has one class: expected another for wrong labels")
        return None if pairs is None else {label: (label + 1) % count for label in range(count)}
    if not isinstance(pairs, Mapping):
        raise ArgumentError(
            f"expected pairs to be None, 'next' or {{name: name}} of classes, found {pairs!r}"
        )
    label_of = split.pack.class_to_idx
    targets = dict(
        zip(
            find_labels(list(pairs), label_of),
            find_labels([*pairs.values()], label_of),
            strict=True,
        )
    )
    if same := [split.classes[label] for label, target in targets.items() if label == target]:
        raise ArgumentError(f"expected pairs of different classes, found {same[0]!r} with itself")
    return targets


def _find_rates(
    split: Split,
    rate: float | Mapping[str, float] | Sequence[float],
    targets: dict[int, int] | None,
) -> list[float]:
    """Return the rate of every class of the pack."""
    count = len(split.classes)
    given: Any = rate
    if isinstance(rate, Mapping):
        given = dict(
            zip(find_labels(list(rate), split.pack.class_to_idx), rate.values(), strict=True)
        )
        if targets is not None and (lost := sorted(given.keys() - targets.keys())):
            raise ArgumentError(
                f"expected pairs for all classes that rate names, found none for "
                f"{split.classes[lost[0]]!r}"
            )
        rates = [given.get(label, 0) for label in range(count)]
    elif np.ndim(given) == 1:
        rates = list(given)
    else:
        rates = [rate] * count
    if len(rates) != count:
        raise ArgumentError(
            f"expected a rate for each of the {count} classes, found {len(rates)}; give "
            "{name: rate} for some of them"
        )
    return [check_number("rate", value, 0, 1, ends=True) for value in rates]
