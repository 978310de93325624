"""CIFAR-10's and CIFAR-100's own files as a source, and files like CIFAR-10's."""

import re
from functools import partial
from pathlib import Path
from typing import Any, Final

from cinicpack.cinic10 import CLASSES
from cinicpack.convert.batches import Batches, DataSet, Part, require_files
from cinicpack.errors import ArgumentError, SourceError
from cinicpack.formats.batches import Labels, read_pickle, read_records
from cinicpack.formats.bundles import Bundle, peek_name
from cinicpack.formats.cifar10 import FOLDERS
from cinicpack.formats.pickles import load_pickle

__all__ = ["CifarFiles", "recognise"]

# The folders in the official archives.
_FOLDERS_100: Final = ("cifar-100-binary", "cifar-100-python")
_FOLDERS: Final = (*FOLDERS, *_FOLDERS_100)
_BATCH: Final = re.compile(r"data_batch_([1-9][0-9]*)(\.bin)?")
# Files of which one shows that a folder, or an archive whose first file it is, has CIFAR-10's.
_SIGNS: Final = re.compile(rf"{_BATCH.pattern}|test_batch(\.bin)?|batches\.meta(\.txt)?")
_OFFICIAL_BATCHES: Final = 5
# No list of class names is longer.
_MAX_NAMES: Final = 1 << 20
_LABELS: Final = ("fine", "coarse")


def recognise(path: Path, start: bytes) -> "CifarFiles | None":
    """Take the files' folder, the folder above, or an archive that begins with one of them.

    CIFAR-100's files, whose names are only "train" and "test", are known in any folder with
    "meta", in archives by the name of their folder.
    """
    if not path.is_dir():
        *above, name = peek_name(path, start).split("/")
        known = _SIGNS.fullmatch(name) or (above and above[-1] in _FOLDERS)
        return CifarFiles(path) if known else None
    found = [place for place in (path, *(path / name for name in _FOLDERS)) if _is_folder(place)]
    if not found:
        return None
    if len({place.name in _FOLDERS_100 for place in found}) > 1:
        raise SourceError(
            f"{path}: expected one data set, found {', '.join(place.name for place in found)}; "
            "name one of these folders"
        )
    return CifarFiles(found[0])


def _is_folder(path: Path) -> bool:
    names = {file.name for file in path.iterdir() if file.is_file()} if path.is_dir() else set()
    hundred = ({"train", "test", "meta"}, {"train.bin", "test.bin", "fine_label_names.txt"})
    return any(_BATCH.fullmatch(name) for name in names) or any(map(names.issuperset, hundred))


class CifarFiles(Batches):
    """CIFAR-10's or CIFAR-100's python or binary version, a `Source` with splits train and test.

    CIFAR-10's are ``data_batch_1``, ``data_batch_2`` and so on, as many as there are, of any number
    of images, and ``test_batch``; or the same with ``.bin``. The classes are those in
    ``batches.meta`` (``batches.meta.txt``), without it CIFAR-10's ten. Images are called
    ``cifar10-train-0.png``, counted through the batches, as CINIC-10 calls them; the names in the
    files are not used.

    CIFAR-100's are ``train`` and ``test`` with ``meta``, or ``train.bin`` and ``test.bin`` with
    ``fine_label_names.txt`` and ``coarse_label_names.txt``. Images are called
    ``cifar100-train-0.png``.

    Args:
        path: the archive or the folder.
        labels: of CIFAR-100, "fine" (None too), its 100 classes, or "coarse", its 20.
    """

    def __init__(self, path: Path, labels: str | None = None) -> None:
        super().__init__(path, partial(_find, labels=labels))

    def choose_labels(self, labels: str) -> "CifarFiles":
        """Return the same source with other labels."""
        return CifarFiles(self.path, labels)


def _find(bundle: Bundle, labels: str | None) -> DataSet:
    if "train" in bundle or "train.bin" in bundle:
        return _find_100(bundle, labels or _LABELS[0])
    if labels is not None:
        raise ArgumentError(
            f"{bundle.path}: expected no choice of labels, since only CIFAR-100 has two for an "
            f"image, found {labels!r}; leave it out"
        )
    return _find_10(bundle)


def _find_10(bundle: Bundle) -> DataSet:
    matches = [match for name in bundle if (match := _BATCH.fullmatch(name))]
    ending = ".bin" if any(match[2] for match in matches) else ""
    numbers = sorted(int(match[1]) for match in matches if (match[2] or "") == ending)
    count = max(len(numbers), _OFFICIAL_BATCHES if bundle.folder in FOLDERS else 1)
    batches = [f"data_batch_{number}{ending}" for number in range(1, count + 1)]
    require_files(bundle, [*batches, f"test_batch{ending}"])
    classes: tuple[str, ...] = CLASSES
    if (meta := f"batches.meta{ending and '.txt'}") in bundle:
        classes = _read_names(bundle, meta, "label_names")
    read = read_records if ending else read_pickle
    return DataSet(
        "cifar10",
        classes,
        [
            Part(split, bundle, name, partial(read, labels=Labels(len(classes))))
            for split, names in (("train", batches), ("test", [f"test_batch{ending}"]))
            for name in names
        ],
    )


def _find_100(bundle: Bundle, labels: str) -> DataSet:
    if labels not in _LABELS:
        raise ArgumentError(f"expected labels {' or '.join(map(repr, _LABELS))}, found {labels!r}")
    ending = ".bin" if "train.bin" in bundle else ""
    meta = f"{labels}_label_names.txt" if ending else "meta"
    require_files(bundle, [f"train{ending}", f"test{ending}", meta])
    classes = _read_names(bundle, meta, f"{labels}_label_names")
    known = Labels(len(classes))
    if ending:
        # The coarse label is the first byte of a record, the fine one the second.
        column = 0 if labels == "coarse" else 1
        read = partial(read_records, labels=known, column=column, columns=2)
    else:
        read = partial(read_pickle, labels=known, key=f"{labels}_labels")
    parts = [Part(split, bundle, split + ending, read) for split in ("train", "test")]
    return DataSet("cifar100", classes, parts)


def _read_names(bundle: Bundle, name: str, key: str) -> tuple[str, ...]:
    """Read the names of classes, pickled or one in a line."""
    where = bundle.where(name)
    names: Any
    with bundle[name].open() as file:
        if name.endswith(".txt"):
            text = file.read(_MAX_NAMES).decode("utf-8", "surrogateescape")
            names = [line for line in text.splitlines() if line]
        else:
            names = load_pickle(file, where).get(key)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise SourceError(f"{where}: expected a list of names {key!r}, found none; fetch it again")
    return tuple(names)
