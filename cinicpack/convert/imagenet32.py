"""ImageNet32x32 and ImageNet64x64 as sources: their pickled batches, or those in npz files."""

import re
from functools import partial
from pathlib import Path
from typing import Final

from cinicpack.convert.batches import Batches, DataSet, Part, require_files
from cinicpack.errors import SourceError
from cinicpack.formats.batches import Batch, Labels, read_npz, read_pickle
from cinicpack.formats.bundles import NPZ, ZIP, Bundle, Entry, peek_name

__all__ = ["recognise"]

_BATCH: Final = re.compile(r"train_data_batch_([1-9][0-9]*)(\.npz)?")
_VALID: Final = re.compile(r"val_data(\.npz)?")
_SIGNS: Final = re.compile(f"{_BATCH.pattern}|{_VALID.pattern}")
# The list of the classes, in the order of their labels: "n02119789 1 kit_fox".
_CLASSES: Final = "map_clsloc.txt"
_NUMBER_OF_CLASSES: Final = 1000
# No list of the classes is longer.
_MAX_CLASSES: Final = 1 << 20


def recognise(path: Path, start: bytes) -> Batches | None:
    """Take the files' folder, an archive that begins with one of them, or one file alone.

    Splits are "train", of ``train_data_batch_1``, ``train_data_batch_2`` and so on, as many as
    there are, and "valid", of ``val_data``, or one of the two; each file is pickled, or an npz file
    with that suffix. A file alone is train's, unless its name begins with ``val``. Images are
    called ``imagenet-train-0.png``, counted through the files.

    Labels are from 1 to 1000 in the files, and one less in the pack. The classes are named after
    the synsets in ``map_clsloc.txt`` if that lies beside the files (``n02119789``), else after
    those numbers (``0001``), so that sorting the names keeps their order.
    """
    if path.is_dir():
        known = any(_SIGNS.fullmatch(file.name) and file.is_file() for file in path.iterdir())
    else:
        names = (path.name, peek_name(path, start).rpartition("/")[2])
        known = any(map(_SIGNS.fullmatch, names)) or names[1] in NPZ
    return Batches(path, _find) if known else None


def _find(bundle: Bundle) -> DataSet:
    numbers = {match[1] for name in bundle if (match := _BATCH.fullmatch(name))}
    train = [_choose(bundle, f"train_data_batch_{number}") for number in range(1, len(numbers) + 1)]
    valid = [_choose(bundle, "val_data")] if any(map(_VALID.fullmatch, bundle)) else []
    if bundle.path.name in bundle and not valid:
        # One file alone, which may have any number.
        train = [bundle.path.name]
    require_files(bundle, train or valid or ["train_data_batch_1"])
    classes = tuple(f"{label:04d}" for label in range(1, _NUMBER_OF_CLASSES + 1))
    if _CLASSES in bundle:
        classes = _read_classes(bundle)
    labels = Labels(len(classes), first=1)
    parts = [
        Part(split, bundle, name, partial(_read, labels=labels))
        for split, names in (("train", train), ("valid", valid))
        for name in names
    ]
    return DataSet("imagenet", classes, parts)


def _read(entry: Entry, where: str, labels: Labels) -> Batch:
    """Read a file by its content: a zip is an npz file."""
    with entry.open() as file:
        is_npz = file.read(len(ZIP)) == ZIP
    return read_npz(entry, where, labels) if is_npz else read_pickle(entry, where, labels)


def _choose(bundle: Bundle, stem: str) -> str:
    """Return the name of a file, which is pickled or npz; raises `SourceError` if it is both."""
    if {stem, stem + ".npz"} <= bundle.keys():
        raise SourceError(f"{bundle.path}: expected {stem} once, found {stem}.npz too; remove one")
    return stem + ".npz" if stem + ".npz" in bundle else stem


def _read_classes(bundle: Bundle) -> tuple[str, ...]:
    with bundle[_CLASSES].open() as file:
        words = [
            line.split() for line in file.read(_MAX_CLASSES).decode(errors="replace").split("\n")
        ]
    found = {int(line[1]): line[0] for line in words if len(line) > 1 and line[1].isdecimal()}
    if sorted(found) != list(range(1, _NUMBER_OF_CLASSES + 1)):
        raise SourceError(
            f"{bundle.where(_CLASSES)}: expected lines 'n02119789 1 kit_fox', numbered from 1 to "
            f"{_NUMBER_OF_CLASSES}, found {len(found)} of them; fetch it again or remove it"
        )
    return tuple(found[label] for label in sorted(found))
