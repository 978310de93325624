"""Images to leave out: their names, from a file or a list, and where they are in a pack."""

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cinicpack.cells import unshield
from cinicpack.errors import ArgumentError, SelectionError
from cinicpack.paths import naming_file, why_missing
from cinicpack.text import some

__all__ = ["find_excluded"]

_COLUMNS: Final = ("split", "class", "name")


def find_excluded(
    exclude: str | os.PathLike[str] | Iterable[str],
    splits: Mapping[str, tuple[NDArray[Any], NDArray[Any]]],
    classes: Sequence[str],
) -> dict[str, NDArray[np.int64]]:
    """Find the images of a pack that a file or a list names.

    Args:
        exclude: a CSV file with columns split, class and name, of which rows without a name count
            for nothing and `cells.shield` is undone, or names: SPLIT/CLASS/NAME, or NAME where only
            one image has it.
        splits: labels and names of every split of the pack.
        classes: class names in label order.

    Returns:
        By split the rows, ascending.

    Raises:
        ArgumentError: there is no such file, or it has other columns.
        SelectionError: an image is named that is not in the pack, or by a NAME that several have.
    """
    if isinstance(exclude, str | os.PathLike):
        place, entries = f"{os.fspath(exclude)}: ", _read_names(Path(exclude))
    else:
        place, entries = "", list(exclude)
    label_of = {name: label for label, name in enumerate(classes)}
    found: dict[Any, list[tuple[str, int]]] = {}
    entry_of = {}
    for entry in entries:
        key = _parse(entry, label_of)
        found[key] = []
        entry_of[key] = entry
    for split, (labels, names) in splits.items():
        for row, (label, name) in enumerate(zip(labels.tolist(), names.tolist(), strict=True)):
            for key in ((split, label, name), name):
                if key in found:
                    found[key].append((split, row))
    if unknown := [entry_of[key] for key, images in found.items() if not images]:
        raise SelectionError(
            f"{place}expected names of images of this pack, as SPLIT/CLASS/NAME, "
            f"found {some(unknown, quoted=True)}; are they another pack's?"
        )
    for key, images in found.items():
        if isinstance(key, bytes) and len(images) > 1:
            several = [f"{split}/{classes[splits[split][0][row]]}" for split, row in images]
            raise SelectionError(
                f"{place}{entry_of[key]!r} is the name of {len(images)} images, in "
                f"{some(several)}: write SPLIT/CLASS/NAME"
            )
    chosen = {image for images in found.values() for image in images}
    return {
        name: np.array(sorted(row for split, row in chosen if split == name), np.int64)
        for name in splits
    }


def _parse(entry: object, label_of: dict[str, int]) -> Any:
    """Return (split, label, file name) of SPLIT/CLASS/NAME, and the file name of a NAME."""
    # A class may have a slash in its name where folders did not name it.
    split, slash, rest = entry.partition("/") if isinstance(entry, str) else ("", "", "")
    class_name, slashes, name = rest.rpartition("/")
    if not isinstance(entry, str) or not entry or (slash and not slashes):
        raise SelectionError(
            f"expected names of images to leave out, as SPLIT/CLASS/NAME, found {entry!r}"
        )
    if not slash:
        return os.fsencode(entry)
    return split, label_of.get(class_name), os.fsencode(name)


def _read_names(path: Path) -> list[str]:
    if not path.is_file():
        raise ArgumentError(
            f"{path}: expected exclude to be a CSV file, as `cinicpack audit -o` writes it, found "
            f"{why_missing(path) or 'none'}; give names of images as a list"
        )
    opened = open(path, encoding="utf-8", errors="surrogateescape", newline="")
    with naming_file(path), opened as stream:
        rows = csv.DictReader(stream, strict=True)
        names = []
        try:
            if missing := [name for name in _COLUMNS if name not in (rows.fieldnames or ())]:
                raise ArgumentError(
                    f"{path}: expected a CSV file with columns {', '.join(_COLUMNS)}, as "
                    f"`cinicpack audit -o` writes it, found none called {some(missing)}"
                )
            for row in rows:
                parts = [row[column] for column in _COLUMNS]
                if None in parts:
                    raise ArgumentError(f"{path}: line {rows.line_num} ends early")
                if row["name"]:
                    names.append("/".join(map(unshield, parts)))
        except csv.Error as error:
            raise ArgumentError(f"{path}: expected a CSV file: {error}") from error
    return names
