"""Paths become splits, classes and row numbers, in ImageFolder's order."""

import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cinicpack.cinic10 import CLASSES, SPLITS, parse_names
from cinicpack.convert.paths import Paths
from cinicpack.errors import SelectionError, SourceError
from cinicpack.store.format import NAME_BYTES, is_folder_name, is_split_name
from cinicpack.text import some

__all__ = ["Layout", "arrange", "check_declared", "rank_split"]

_EXPECTED: Final = (
    "expected all images at SPLIT/CLASS/NAME.png (or .jpg, ...), or all at CLASS/NAME.png, if need "
    "be with one lone folder above SPLIT"
)
_MAX_CLASSES: Final = 1 << 16
# A folder that macOS puts into a zip, beside the folder that is zipped.
_MACOS: Final = "__MACOSX"

# By folder the places of its images in ``paths``, ascending, and the same by split and class.
_Folders = Mapping[str, NDArray[np.int64]]
_Found = dict[str, dict[str, NDArray[np.int64]]]
_NONE: Final = np.empty(0, np.int64)


class Layout(NamedTuple):
    """The structure that paths have.

    Attributes:
        classes: names; a label is a place among them.
        rows: for each split an (n,) int64 array of places in ``paths``, in the order of its rows.
        labels: for each split an (n,) uint8 array, uint16 above 256 classes.

    ``rows`` and ``labels`` have CINIC-10's splits first, in its order, then others by name.
    """

    classes: tuple[str, ...]
    rows: dict[str, NDArray[np.int64]]
    labels: dict[str, NDArray[np.uint8 | np.uint16]]


def arrange(
    paths: Iterable[str],
    splits: str | Iterable[str] | None = None,
    *,
    classes: Sequence[str] | None = None,
    keeps_order: bool = True,
    folders: Iterable[str] = (),
    allow_missing: bool = False,
) -> Layout:
    """Find the splits and classes in paths of images, and the order of their rows.

    ``SPLIT/CLASS/NAME.png`` are as many splits, ``CLASS/NAME.png`` is one that is named "train",
    and one lone folder above SPLIT is skipped. Row i of a split is image i of torchvision's
    ``ImageFolder(SPLIT)``, by class, then by name, or where the source keeps its order, image i of
    the split among ``paths``.

    Args:
        paths: of the images to pack.
        splits: the splits to take, or the name of one; None: all.
        classes: the declared ones, in the order of their labels, of which a split may lack some;
            then all paths are SPLIT/CLASS/NAME. None: the folders are the classes, sorted.
        keeps_order: rows are in the order of ``paths``, if classes are declared.
        folders: of the source, at least those without images; with declared classes, the splits.
        allow_missing: take what is there, though images are left out, or some class has none: it
            keeps its label, which is that of ``ImageFolder(SPLIT, allow_empty=True)``. Where all
            files are named as in CINIC-10, and all classes are its, they are all ten. A split
            without images is left out.

    Raises:
        SourceError: there are no paths, they are of another shape, some are the same, a split or a
            class has a name that no pack has, or something is missing that ``allow_missing`` would
            accept.
        SelectionError: a split is asked for that is not there, or none is.

    >>> arrange(["cat/b.png", "bird/c.png", "cat/a.png"]).rows["train"].tolist()
    [1, 2, 0]
    """
    if not isinstance(paths, Paths):
        paths = Paths(paths)
    if not paths:
        raise SourceError(f"{_EXPECTED}; found no image at all")
    filled = paths.in_folders()
    _check_distinct(paths, filled)
    if classes is None:
        try:
            layout = _arrange_folders(paths, filled, splits, folders, allow_missing)
        except SourceError:
            # Such as a notebook's checkpoints, which are the likeliest cause of any other error.
            _refuse_hidden(filled)
            raise
    else:
        found = _sort_folders(filled, [SPLITS[0]])
        empty = sorted({*folders} - found.keys())
        if empty and splits is None and not allow_missing:
            _refuse_missing([], empty, [])
        layout = _number_rows(paths, found, _choose(found, splits), classes, keeps_order)
    _check_names(layout)
    return layout


def _refuse_hidden(folders: Iterable[str]) -> None:
    """Raise `SourceError` if images are in hidden folders, and others are not."""
    folders = [*folders]
    hidden = sorted(folder for folder in folders if "/." in f"/{folder}")
    # Where all are, it is only the lone folder above them.
    if 0 < len(hidden) < len(folders):
        raise SourceError(
            f"expected visible folders, found images in {some(hidden, quoted=True)}; remove or "
            "rename the hidden folder"
        )


def _check_distinct(paths: Paths, folders: _Folders) -> None:
    twice: list[str] = []
    for folder, places in folders.items():
        names = np.sort(paths.encoded(places))
        again = dict.fromkeys(names[1:][names[1:] == names[:-1]].tolist())
        twice += [os.path.join(folder, os.fsdecode(name)) for name in again]
    if twice:
        raise SourceError(f"expected every path once, found more of {some(twice, quoted=True)}")


def _arrange_folders(
    paths: Paths,
    filled: _Folders,
    splits: str | Iterable[str] | None,
    folders: Iterable[str],
    allow_missing: bool,
) -> Layout:
    """Take the names of folders for classes, and sort the rows as ImageFolder does."""
    _check_shape(paths, filled)
    *above, _ = next(iter(filled)).split("/")
    found = _sort_folders(filled, above)
    chosen = _choose(found, splits)
    empty_splits = _add_empty(found, folders, above)
    present = sorted({name for split in chosen for name in found[split]})
    classes = _complete(present, paths, filled)
    if not allow_missing:
        if splits is not None:
            empty_splits = []
        lacking = [
            "/".join([*above[:-1], split, name] if above else [name])
            for name in present
            for split in chosen
            if not len(found[split].get(name, _NONE))
        ]
        absent = sorted({*classes}.difference(present))
        _refuse_missing(lacking, empty_splits, absent)
    return _number_rows(paths, found, chosen, classes, keeps_order=False)


def _sort_folders(filled: _Folders, above: Sequence[str]) -> _Found:
    """Sort folders by split and class; ``above`` are the folders above a class."""
    found: _Found = {}
    for folder, places in filled.items():
        split, name = _from_split(folder, above)
        found.setdefault(split, {})[name] = places
    return found


def _number_rows(
    paths: Paths, found: _Found, chosen: Sequence[str], classes: Sequence[str], keeps_order: bool
) -> Layout:
    """Give all images of the chosen splits their labels, and the rows of a split their order.

    That is the order of ``paths``, or else by class, then by name.
    """
    numbers = _number(classes)
    rows: dict[str, NDArray[np.int64]] = {}
    labels: dict[str, NDArray[np.uint8 | np.uint16]] = {}
    for split in chosen:
        runs = [found[split].get(name, _NONE) for name in classes]
        labels[split] = np.repeat(numbers, [len(run) for run in runs])
        rows[split] = np.concatenate(runs if keeps_order else [_by_name(paths, r) for r in runs])
        if keeps_order:
            label_of = np.empty(len(paths), numbers.dtype)
            label_of[rows[split]] = labels[split]
            rows[split].sort()
            labels[split] = label_of[rows[split]]
    return Layout(tuple(classes), rows, labels)


def _by_name(paths: Paths, places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sort the images of a folder as Python sorts their names, which differ."""
    names = paths.names(places)
    return places[sorted(range(len(names)), key=names.__getitem__)]


def _number(classes: Sequence[str]) -> NDArray[np.uint8 | np.uint16]:
    """Return the labels of all classes, in the type that labels have."""
    if len(classes) > _MAX_CLASSES:
        raise SourceError(f"expected at most {_MAX_CLASSES} classes, found {len(classes)}")
    return np.arange(len(classes)).astype(np.uint8 if len(classes) <= 256 else np.uint16)


def _check_names(layout: Layout) -> None:
    for name in layout.rows:
        if not is_split_name(name):
            raise SourceError(
                "expected visible folders as splits, with names in UTF-8 and without '+', found "
                f"{name!r}; rename it, or name the splits to take with --splits (splits=)"
            )
    for name in layout.classes:
        if name.startswith("."):
            raise SourceError(
                f"expected visible folders as classes, found {name!r}; rename or remove it"
            )
        if not is_folder_name(name):
            # Archives can have names that no file system takes.
            raise SourceError(
                f"expected classes with names of at most {NAME_BYTES} bytes, found {name[:40]!r} "
                "and so on; rename it"
            )


def check_declared(classes: Sequence[str], where: object, what: str) -> None:
    """Raise `SourceError`, to correct ``what``, unless declared classes can be those of folders."""
    for number, name in enumerate(classes):
        if not is_folder_name(name) or name in classes[:number]:
            raise SourceError(
                f"{where}: expected a name for every class, each another one and as a folder can "
                f"have it, found {name!r}; correct {what}"
            )


def _check_shape(paths: Paths, folders: _Folders) -> None:
    depths: dict[int, list[NDArray[np.int64]]] = {}
    for folder, places in folders.items():
        depths.setdefault(folder.count("/") + 2 if folder else 1, []).append(places)
    if len(depths) > 1 or not depths.keys() <= {2, 3, 4}:
        shapes = [
            some(paths.take(np.concatenate(depths[depth])), quoted=True) for depth in sorted(depths)
        ]
        raise SourceError("\n  ".join([f"{_EXPECTED}; found", *shapes]))
    tops = {folder.split("/", 1)[0] for folder in folders}
    if 4 in depths and len(tops) > 1:
        raise SourceError(
            f"{_EXPECTED}; found {len(tops)} of these: {some(sorted(tops), quoted=True)}"
        )
    inner = {folder.split("/")[1] for folder in folders} if 4 in depths else set()
    if inner and tops <= {*SPLITS} and not inner & {*SPLITS}:
        # The lone folder is a split's, so what would be taken for splits are its classes.
        raise SourceError(
            f"{_EXPECTED}; found images deeper in {some(sorted(folders), quoted=True)}"
        )


def _from_split(path: str, above: Sequence[str]) -> list[str]:
    """Give the components of a path from its split on, which is "" beside the lone folder.

    ``above`` are the folders above a class with images: none, its split, or a lone one and that.
    """
    parts = path.split("/")
    if len(above) == 2:
        return parts[1:] if parts[0] == above[0] and parts[1:] else [""]
    return parts if above else [SPLITS[0], *parts]


def _add_empty(found: _Found, folders: Iterable[str], above: Sequence[str]) -> list[str]:
    """Add the classes without images to their splits, and return the splits without images.

    Such a split is a folder that is named like one of CINIC-10's, or that has a class in it.
    """
    listed: dict[str, set[str]] = {}
    for folder in folders:
        if folder and folder.partition("/")[0] != _MACOS:
            split, *inner = _from_split(folder, above)
            listed.setdefault(split, set()).update(inner[:1])
    classes = {name for names in found.values() for name in names}
    for split in found.keys() & listed.keys():
        for name in listed[split] - found[split].keys():
            found[split][name] = _NONE
    return sorted(
        split
        for split in listed.keys() - found.keys()
        if split in SPLITS or listed[split] & classes
    )


def _complete(classes: Sequence[str], paths: Paths, folders: _Folders) -> tuple[str, ...]:
    """Return the classes; CINIC-10's ten if they are some of these and all files are named so."""
    if {*classes} < {*CLASSES} and all(
        origin for places in folders.values() for origin, _, _ in parse_names(paths.names(places))
    ):
        return CLASSES
    return tuple(classes)


def _choose(found: Iterable[str], splits: str | Iterable[str] | None) -> list[str]:
    chosen = {splits} if isinstance(splits, str) else set(found if splits is None else splits)
    if not chosen or not chosen <= set(found):
        there: list[str] = sorted(found, key=rank_split)
        named = some(sorted(chosen.difference(found)), 20) or "none"
        raise SelectionError(f"expected splits out of {some(there, 20)}; found {named}")
    return sorted(chosen, key=rank_split)


def rank_split(split: str) -> tuple[int, str]:
    """Return what sorts splits: CINIC-10's come first, in its order, then others by name."""
    return (SPLITS.index(split) if split in SPLITS else len(SPLITS), split)


def _find_twins(names: Iterable[str]) -> str:
    """List the names that look alike and are not, in Unicode's forms NFC and NFD."""
    alike: dict[str, list[str]] = {}
    for name in sorted(names):
        alike.setdefault(unicodedata.normalize("NFC", name), []).append(name)
    twins = [name for group in alike.values() if len(group) > 1 for name in group]
    return some(twins, quoted=True) if twins else ""


def _refuse_missing(
    lacking: Sequence[str], empty_splits: Sequence[str], absent: Sequence[str]
) -> None:
    # ImageFolder numbers the folders of each split by themselves, so in a split that lacks one the
    # same label would mean another class.
    problems: list[str] = []
    if lacking:
        problems.append(f"no images in {some(lacking, quoted=True)}")
    if empty_splits:
        problems.append(f"no images in the splits {some(empty_splits, quoted=True)}")
    if twins := _find_twins({path.rpartition("/")[2] for path in lacking}):
        problems.append(f"names of the same letters in two forms of Unicode, {twins}")
    if absent:
        problems.append(f"the file names of CINIC-10, but not its classes {', '.join(absent)}")
    if problems:
        raise SourceError(
            f"expected images in every class of every split; found {'; '.join(problems)}. Add "
            "some, name the splits to take with --splits (splits=), or accept it with "
            "--allow-missing (allow_missing=True): classes without images keep their labels"
        )
