"""Paths become splits, classes and row numbers, in ImageFolder's order."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cinicpack.cinic10 import SPLITS
from cinicpack.errors import SelectionError, SourceError

__all__ = ["Layout", "arrange", "file_names"]

_EXAMPLES: Final = 5
_EXPECTED: Final = (
    "expected all PNG files at SPLIT/CLASS/NAME.png, or all at CLASS/NAME.png, if need be with one "
    "lone folder above SPLIT"
)
_MAX_CLASSES: Final = 1 << 16


class Layout(NamedTuple):
    """The structure that paths have.

    Attributes:
        classes: names, sorted; a label is a place in it.
        rows: for each split an (n,) int64 array of places in ``paths``, in the order of its rows.
        labels: for each split an (n,) uint8 array, uint16 above 256 classes.

    ``rows`` and ``labels`` have CINIC-10's splits first, in its order, then others by name.
    """

    classes: tuple[str, ...]
    rows: dict[str, NDArray[np.int64]]
    labels: dict[str, NDArray[np.uint8 | np.uint16]]


def arrange(paths: Sequence[str], splits: str | Iterable[str] | None = None) -> Layout:
    """Find the splits and classes in paths of PNG files, and the order of their rows.

    ``SPLIT/CLASS/NAME.png`` are as many splits, ``CLASS/NAME.png`` is one that is named "train",
    and one lone folder above SPLIT is skipped. Row i of a split is image i of torchvision's
    ``ImageFolder(SPLIT)``. ``splits`` narrows the layout to the splits that it names, or to
    the one whose name it is.

    Raises:
        SourceError: there are no paths, they are of another shape, some are the same, or a class
            is not in every split that is asked for.
        SelectionError: a split is asked for that is not there, or none is.

    >>> arrange(["cat/b.png", "bird/c.png", "cat/a.png"]).rows["train"].tolist()
    [1, 2, 0]
    """
    if not paths:
        raise SourceError(f"{_EXPECTED}; found no PNG file at all")
    if len(set(paths)) < len(paths):
        twice = [path for path, count in Counter(paths).items() if count > 1]
        raise SourceError(f"expected every path once, found more of {_show(twice)}")
    folders: dict[str, list[int]] = {}
    for index, path in enumerate(paths):
        folders.setdefault(path.rpartition("/")[0], []).append(index)
    _check_shape(paths, folders)

    found: dict[str, dict[str, list[int]]] = {}
    for folder, indices in folders.items():
        *above, class_name = folder.split("/")
        found.setdefault(above[-1] if above else SPLITS[0], {})[class_name] = indices
    chosen = _choose(found, splits)
    classes = tuple(sorted({name for split in chosen for name in found[split]}))
    _check_classes(classes, {split: found[split] for split in chosen})
    numbers = np.arange(len(classes)).astype(np.uint8 if len(classes) <= 256 else np.uint16)
    rows: dict[str, NDArray[np.int64]] = {}
    labels: dict[str, NDArray[np.uint8 | np.uint16]] = {}
    for split in chosen:
        # Within a folder the order of paths is that of names.
        runs = [sorted(found[split][name], key=paths.__getitem__) for name in classes]
        rows[split] = np.fromiter(chain.from_iterable(runs), np.int64)
        labels[split] = np.repeat(numbers, [len(run) for run in runs])
    return Layout(classes, rows, labels)


def file_names(paths: Sequence[str]) -> list[bytes]:
    """Return the names of files, without folders, as the file system has them."""
    # Encoded together, which is three times as fast as one by one: there is no slash in a name.
    joined = os.fsencode("/".join([path.rpartition("/")[2] for path in paths]))
    return joined.split(b"/") if paths else []


def _check_shape(paths: Sequence[str], folders: Mapping[str, Sequence[int]]) -> None:
    depths: dict[int, list[int]] = {}
    for folder, indices in folders.items():
        depths.setdefault(folder.count("/") + 2 if folder else 1, []).extend(indices)
    if len(depths) > 1 or not depths.keys() <= {2, 3, 4}:
        shapes = [_show([paths[index] for index in depths[depth]]) for depth in sorted(depths)]
        raise SourceError("\n  ".join([f"{_EXPECTED}; found", *shapes]))
    tops = {folder.split("/", 1)[0] for folder in folders}
    if 4 in depths and len(tops) > 1:
        raise SourceError(f"{_EXPECTED}; found {len(tops)} of these: {_show(sorted(tops))}")


def _choose(found: Iterable[str], splits: str | Iterable[str] | None) -> list[str]:
    chosen = {splits} if isinstance(splits, str) else set(found if splits is None else splits)
    if not chosen or not chosen <= set(found):
        there = ", ".join(sorted(found, key=_rank_split))
        named = ", ".join(sorted(chosen.difference(found))) or "none"
        raise SelectionError(f"expected splits out of {there}; found {named}")
    return sorted(chosen, key=_rank_split)


def _rank_split(split: str) -> tuple[int, str]:
    return (SPLITS.index(split) if split in SPLITS else len(SPLITS), split)


def _check_classes(
    classes: Sequence[str], found: Mapping[str, Mapping[str, Sequence[int]]]
) -> None:
    # ImageFolder numbers the classes of each split by themselves: where one is missing, the same
    # label would be another class.
    lacking = [f"{split}/{name}" for name in classes for split in found if name not in found[split]]
    if lacking:
        raise SourceError(
            f"expected the same classes in every split, found no images in {_show(lacking)}; "
            "add some, or name the splits to take"
        )
    if len(classes) > _MAX_CLASSES:
        raise SourceError(f"expected at most {_MAX_CLASSES} classes, found {len(classes)}")


def _show(items: Sequence[str]) -> str:
    more = f" and {len(items) - _EXAMPLES} more" if len(items) > _EXAMPLES else ""
    # As literals, since names that are not UTF-8 cannot be printed.
    return ", ".join(repr(item) for item in items[:_EXAMPLES]) + more
