"""Unpacking: the images of a pack become a tree of PNG files again, or of links to them."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cinicpack.errors import ArgumentError, PackError, SelectionError, SourceError
from cinicpack.formats.png import encode_pngs
from cinicpack.store.pack import Pack, open_pack
from cinicpack.store.publish import publishing
from cinicpack.store.selection import find_labels
from cinicpack.store.split import Split
from cinicpack.study.tree import run_jobs, write_files
from cinicpack.text import some

__all__ = ["unpack"]

_JOB_IMAGES: Final = 512

# The splits that the authors' enlarged training set is made of; it has the name of the first.
_MERGED: Final = ("train", "valid")


class _ClassFolder(NamedTuple):
    """The images of one class in one split, and the split folder that they go to."""

    split: Split
    rows: NDArray[np.int64]
    target: str
    class_name: str
    names: list[str]


def unpack(
    pack: Pack | str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    split: str | None = None,
    source: str | None = None,
    classes: str | Iterable[str] | None = None,
    merge_train_valid: bool = False,
    link: str | os.PathLike[str] | None = None,
    num_workers: int | None = None,
    progress: bool = True,
) -> dict[str, int]:
    """Write images of a pack as ``DESTINATION/SPLIT/CLASS/NAME.png``, under their original names.

    The pixels are the same, though not the bytes of the files: a pack of the tree has splits with
    the fingerprints of what was selected, unless some was of another format than PNG: ``a.jpg``
    becomes ``a.jpg.png``. A class without images in a split gets an empty folder,
    so that its label is not lost; of such a tree, or of some of CINIC-10's classes, make a pack
    with ``allow_missing=True``. ``destination`` appears when all is written.

    Reproduces the authors' notebooks ``enlarge-train-set`` (``merge_train_valid=True``),
    ``cifar-extraction`` and ``imagenet-extraction`` (``source=``) of BayesWatch/cinic-10.

    Args:
        pack: a pack, or its path.
        destination: the tree to make: not there yet, or an empty directory.
        split: the splits to write: "train", "train+valid"; None: all.
        source: "cifar10" or "imagenet" alone.
        classes: one class or several alone.
        merge_train_valid: write train and valid into one split, "train".
        link: a tree that has the files. Relative links, named as these, are written instead.
        num_workers: threads; None: as many as there are usable cores.
        progress: show a bar, if standard error is a terminal.

    Returns:
        The number of images in each split folder.

    Raises:
        SelectionError: a split, source or class is not there, no image is selected, or two of one
            folder would have the same name.
        ArgumentError: train and valid are to be merged but not both selected, or images that were
            resized are to be links.
        SourceError: the tree that is to be linked lacks some of the files.
        DestinationError: ``destination`` is there, or cannot be written.

    >>> unpack("cinic10.pack", "enlarged", merge_train_valid=True)
    {'train': 180, 'test': 90}
    """
    pack = pack if isinstance(pack, Pack) else open_pack(pack)
    parts = _choose(pack, split, source, classes, merge_train_valid, link is None)
    counts: Counter[str] = Counter()
    for part in parts:
        counts[part.target] += len(part.rows)
    destination = Path(destination)
    with publishing(destination, overwrite=False, sync=False, empty_folder=True) as new:
        jobs = _make_jobs(parts, new, None if link is None else Path(link), destination)
        run_jobs(jobs, counts.total(), num_workers=num_workers, progress=progress)
    return dict(counts)


def _choose(
    pack: Pack,
    split: str | None,
    source: str | None,
    classes: str | Iterable[str] | None,
    merge_train_valid: bool,
    as_png: bool,
) -> list[_ClassFolder]:
    """Divide what is selected into class folders, of files that are named as PNG or as they are."""
    names = list(pack.splits) if split is None else split.split("+")
    if merge_train_valid and not set(_MERGED) <= set(names):
        raise ArgumentError(
            f"expected {' and '.join(_MERGED)} to merge, found the splits {', '.join(names)}"
        )
    chosen = classes
    if classes is not None:
        chosen = [pack.classes[label] for label in find_labels(classes, pack.class_to_idx)]
    # Only for its errors: select() refuses a selection without images.
    pack["+".join(names)].select(source=source, classes=chosen)
    parts = [
        part
        for name in names
        for part in _group_by_class(
            pack[name],
            pack[name].where(source=source, classes=chosen),
            _MERGED[0] if merge_train_valid and name in _MERGED else name,
            {*(pack.classes if chosen is None else chosen)},
        )
    ]
    _check_names(parts)
    if as_png:
        parts = [part._replace(names=[*map(_name_png, part.names)]) for part in parts]
    _check_clashes(parts)
    return parts


def _group_by_class(
    split: Split, rows: NDArray[np.int64], target: str, classes: set[str]
) -> Iterator[_ClassFolder]:
    """Divide rows of a split into classes, some of which may have none; of no rows no parts."""
    labels = split.labels[rows]
    for label, class_name in enumerate(split.pack.classes if len(rows) else ()):
        if class_name in classes:
            mine = rows[labels == label]
            names = [os.fsdecode(name) for name in split.names[mine].tolist()]
            yield _ClassFolder(split, mine, target, class_name, names)


def _name_png(name: str) -> str:
    """Name a PNG file after one of any format."""
    return name if name.lower().endswith(".png") else f"{name}.png"


def _check_names(parts: list[_ClassFolder]) -> None:
    """Refuse names that lead elsewhere."""
    for split, _, _, class_name, names in parts:
        for name in names:
            if "/" in name + class_name or {name, class_name} & {"", ".", ".."}:
                raise PackError(
                    f"{split.pack.path}: expected names of a class and a file, "
                    f"found {class_name!r} and {name!r}"
                )


def _check_clashes(parts: list[_ClassFolder]) -> None:
    """Refuse names that two images of a folder would share."""
    splits: dict[tuple[str, str, str], str] = {}
    shared: list[str] = []
    doubled: list[str] = []
    for split, _, target, class_name, names in parts:
        for name in names:
            key = (target, class_name, name)
            if key in splits:
                (doubled if splits[key] == split.name else shared).append(f"{class_name}/{name}")
            splits[key] = split.name
    if doubled:
        raise SelectionError(
            f"expected names that differ when those of other formats end in .png too, found "
            f"{some(doubled)} twice; link the files with --link TREE (link=)"
        )
    if shared:
        raise SelectionError(
            f"{' and '.join(_MERGED)} cannot be merged: expected different names, found "
            f"{some(shared)} in both; leave out --merge-train-valid (merge_train_valid=True)"
        )


def _make_jobs(
    parts: list[_ClassFolder],
    new: Path,
    link: Path | None,
    destination: Path,
) -> list[Callable[[], int]]:
    """Make jobs that write the files of all class folders, or links to those of a tree."""
    for part in parts:
        if not part.names:
            write_files(new / part.target / part.class_name, [], [])
    if link is not None:
        pack = parts[0].split.pack
        if pack.manifest.resize is not None:
            raise ArgumentError(
                f"{pack.path}: expected images with the pixels of the files to link, found resized "
                "ones; leave out --link (link=)"
            )
        final = Path(os.path.realpath(destination))
        return [
            partial(_link, part, folder, new, final)
            for part, folder in zip(parts, _locate(link, parts), strict=True)
        ]
    return [
        partial(
            _write,
            part.split,
            part.rows[start : start + _JOB_IMAGES],
            new / part.target / part.class_name,
            part.names[start : start + _JOB_IMAGES],
        )
        for part in parts
        for start in range(0, len(part.rows), _JOB_IMAGES)
    ]


def _write(split: Split, rows: NDArray[np.int64], folder: Path, names: list[str]) -> int:
    write_files(folder, names, encode_pngs(np.ascontiguousarray(split.images[rows])))
    return len(rows)


def _locate(tree: Path, parts: list[_ClassFolder]) -> list[Path]:
    """Find the folders of a tree that have the files, with or without a lone folder above."""
    folders = [tree / part.split.name / part.class_name for part in parts]
    if not any(map(Path.is_dir, folders)) and tree.is_dir():
        inner = [path for path in tree.iterdir() if path.is_dir()]
        if len(inner) == 1:
            return _locate(inner[0], parts)
    missing = []
    for folder, part in zip(folders, parts, strict=True):
        there = set(os.listdir(folder)) if folder.is_dir() else set()
        missing += [str(folder / name) for name in part.names if name not in there]
    if missing:
        raise SourceError(
            f"{tree}: expected SPLIT/CLASS/NAME of every selected image, found no "
            f"{some(missing)}; name the tree that was packed"
        )
    return folders


def _link(part: _ClassFolder, linked: Path, new: Path, final: Path) -> int:
    # A relative link starts at the real place of its folder, so symbolic links in the paths of
    # destination and tree are resolved first.
    folder = new / part.target / part.class_name
    folder.mkdir(parents=True, exist_ok=True)
    start = os.path.relpath(os.path.realpath(linked), final / part.target / part.class_name)
    for name in part.names:
        os.symlink(f"{start}/{name}", folder / name)
    return len(part.names)
