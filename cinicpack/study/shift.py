"""Distribution shift: how much better a model is on one source of CINIC-10 than on the other."""

import math
from collections.abc import Iterator
from statistics import NormalDist
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cinicpack.cinic10 import Origin
from cinicpack.errors import ArgumentError
from cinicpack.store.pack import Pack
from cinicpack.store.selection import ORIGINS_OF_SOURCE
from cinicpack.store.split import Split
from cinicpack.text import table

__all__ = ["Accuracy", "Exchange", "exchange_sources", "format_accuracies", "measure_accuracies"]

# By the name in the table the origins whose images are measured together, in the table's order.
_GROUPS: Final[dict[str | None, tuple[Origin, ...]]] = {
    None: tuple(Origin),
    "cifar10": ORIGINS_OF_SOURCE["cifar10"],
    "cifar10 train": (Origin.CIFAR10_TRAIN,),
    "cifar10 test": (Origin.CIFAR10_TEST,),
    "imagenet": ORIGINS_OF_SOURCE["imagenet"],
    "unknown": (Origin.UNKNOWN,),
}
_CLASS_COLUMNS: Final = (None, "cifar10", "imagenet", "unknown")


class Accuracy(NamedTuple):
    """How many images of a group are classified correctly.

    Attributes:
        source: "cifar10"; "cifar10 train" or "cifar10 test", the set of CIFAR-10 that they are
            from; "imagenet"; "unknown"; None: any.
        class_name: their class; None: any.
        images: how many there are.
        correct: how many of them are classified correctly.
        accuracy: the share of these, in [0, 1].
        low: lower end of its confidence interval.
        high: upper end.
    """

    source: str | None
    class_name: str | None
    images: int
    correct: int
    accuracy: float
    low: float
    high: float


class Exchange(NamedTuple):
    """What trains on one source and tests on both.

    Attributes:
        train: the training images of the one source.
        same: the test images of that source.
        other: the test images of the other source.
    """

    train: Split
    same: Split
    other: Split


def measure_accuracies(
    predictions: ArrayLike, split: Split, *, confidence: float = 0.95
) -> list[Accuracy]:
    """Measure the accuracy by source, by class and by both.

    It is the comparison that the README of BayesWatch/cinic-10 suggests ("Distribution shift").
    CINIC-10's test split has CIFAR-10's test images and also 10,000 of its training images, which
    a model that was trained on CIFAR-10 itself has seen: the two are also measured apart.

    The interval is Wilson's (Journal of the American Statistical Association 22, 1927).

    Args:
        predictions: for every image of the split, in its order, a label: (n,) integers; or scores:
            (n, classes), of which the highest counts.
        split: a split or selection, as a Loader with ``shuffle=False`` goes through it.
        confidence: of the intervals, between 0 and 1.

    Returns:
        An entry for every group that has images, and every class in it: first those of all
        sources; of each source first that of all classes.

    Raises `ArgumentError` if the predictions are of another shape or kind, or no labels.

    >>> import cinicpack
    >>> test = cinicpack.open_pack("cinic10.pack")["test"]
    >>> measure_accuracies(test.labels, test)[0].accuracy
    1.0
    """
    if not 0 < confidence < 1:
        raise ArgumentError(f"expected confidence between 0 and 1, found {confidence}")
    correct = _predicted_labels(predictions, split) == split.labels
    origins = split.sources["origin"]
    quantile = NormalDist().inv_cdf((1 + confidence) / 2)
    classes = split.pack.classes
    return [
        Accuracy(source, name, images, hits, hits / images, *_wilson(hits, images, quantile))
        for source, members in _GROUPS.items()
        for name, images, hits in _count(np.isin(origins, members), correct, split.labels, classes)
    ]


def exchange_sources(
    pack: Pack, train_on: str, *, train: str = "train", test: str = "test"
) -> Exchange:
    """Select the images to train on one source, and to test on that and on the other.

    The authors' notebooks ``cifar-extraction`` and ``imagenet-extraction`` make trees for it
    (BayesWatch/cinic-10). A `Loader` takes these selections as its ``split``.

    Args:
        pack: the pack.
        train_on: "cifar10" or "imagenet".
        train: the split to train on, or several: "train+valid".
        test: the split to test on.

    Raises `SelectionError` if the pack has no such split, or no image of a source in it.
    """
    other = "imagenet" if train_on == "cifar10" else "cifar10"
    return Exchange(
        pack[train].select(source=train_on),
        pack[test].select(source=train_on),
        pack[test].select(source=other),
    )


def format_accuracies(accuracies: list[Accuracy]) -> str:
    """Lay out what `measure_accuracies` found for people to read, in percent."""
    by_group = {(entry.source, entry.class_name): entry for entry in accuracies}
    rows = [("source", "images", "correct", "accuracy and interval")]
    for source in _GROUPS:
        if entry := by_group.get((source, None)):
            name = source or "all"
            name = f"  {name}" if " " in name else name
            rows.append((name, f"{entry.images:,}", f"{entry.correct:,}", _percent(entry)))
    columns = [source for source in _CLASS_COLUMNS if (source, None) in by_group]
    by_class = [("class", *(source or "all" for source in columns))]
    by_class += [
        (name, *(_percent(by_group.get((source, name))) for source in columns))
        for name in dict.fromkeys(name for _, name in by_group if name is not None)
    ]
    return "\n".join(
        [
            *table(rows, (13, 7, 7), left=(0, 3)),
            "",
            *table(by_class, (13, *[22] * len(columns)), left=range(1 + len(columns))),
        ]
    )


def _predicted_labels(predictions: ArrayLike, split: Split) -> NDArray[np.integer]:
    array = np.asarray(predictions)
    count, classes = len(split), len(split.pack.classes)
    if array.ndim == 2 and array.shape == (count, classes):
        if np.isnan(array).any():
            raise ArgumentError("expected scores that are numbers, found NaN among them")
        labels: NDArray[np.integer] = array.argmax(1)
        return labels
    if array.shape != (count,) or not np.issubdtype(array.dtype, np.integer):
        raise ArgumentError(
            f"expected the predictions for {split!r} as ({count},) integers or ({count}, {classes})"
            f" scores, found {array.shape} {array.dtype}"
        )
    if count and not 0 <= array.min() <= array.max() < classes:
        raise ArgumentError(
            f"expected labels from 0 to {classes - 1}, found {array.min()} to {array.max()}"
        )
    return array


def _count(
    chosen: NDArray[np.bool_],
    correct: NDArray[np.bool_],
    labels: NDArray[np.integer],
    classes: tuple[str, ...],
) -> Iterator[tuple[str | None, int, int]]:
    """Count images and correct ones among the chosen, in all and by class."""
    if not chosen.any():
        return
    yield None, int(chosen.sum()), int((chosen & correct).sum())
    images = np.bincount(labels[chosen], minlength=len(classes)).tolist()
    hits = np.bincount(labels[chosen & correct], minlength=len(classes)).tolist()
    yield from (row for row in zip(classes, images, hits, strict=True) if row[1])


def _wilson(hits: int, images: int, quantile: float) -> tuple[float, float]:
    share, square = hits / images, quantile**2 / images
    centre = (share + square / 2) / (1 + square)
    half = math.sqrt(share * (1 - share) * square + square**2 / 4) / (1 + square)
    # Of no hits, or of nothing but hits, an end is exactly 0 or 1, which rounding would miss.
    return centre - half if hits else 0.0, centre + half if hits < images else 1.0


def _percent(entry: Accuracy | None) -> str:
    if entry is None:
        return "-"
    return f"{entry.accuracy:7.2%} ({entry.low:.2%}-{entry.high:.2%})".replace("%", "")
