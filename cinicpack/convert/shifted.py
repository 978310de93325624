"""CIFAR-10's test sets under shift as sources: CIFAR-10.1 and CIFAR-10-C, images in npy files."""

import re
from functools import partial
from pathlib import Path
from typing import Final

from cinicpack.cinic10 import CLASSES
from cinicpack.convert.batches import Batches, DataSet, Part, require_files
from cinicpack.formats.batches import Batch, Labels, read_npy
from cinicpack.formats.bundles import Bundle, Entry, peek_name

__all__ = ["recognise"]

_NPY: Final = b"\x93NUMPY"
_LABELS: Final = "labels.npy"
# CIFAR-10.1's images, of which there are two versions.
_VERSION: Final = re.compile(r"cifar10\.1_(v[0-9]+)_data\.npy")


def recognise(path: Path, start: bytes) -> Batches | None:
    """Take the files' folder, an archive that begins with an npy file, or one such file.

    CIFAR-10.1's splits are its versions: "v6" is ``cifar10.1_v6_data.npy``, whose labels are in
    ``cifar10.1_v6_labels.npy`` beside it. CIFAR-10-C's are the corruptions: "fog" is ``fog.npy``,
    and all share ``labels.npy``. In a folder without folders every npy file that lies beside
    ``labels.npy`` is a split. Images are called ``cifar10.1-v6-0.png`` and ``cifar10-c-fog-0.png``;
    the severities follow each other in the rows, 10,000 of each. The classes are CIFAR-10's.
    """
    if start.startswith(_NPY):
        return Batches(path.parent, partial(_find, only=path.name))
    if path.is_dir():
        entries = [entry for entry in path.iterdir() if not entry.name.startswith(".")]
        names = {entry.name for entry in entries}
        flat = not any(entry.is_dir() for entry in entries)
        others = any(name.endswith(".npy") for name in names - {_LABELS})
        known = any(map(_VERSION.fullmatch, names)) or (flat and others and _LABELS in names)
    else:
        known = peek_name(path, start).endswith(".npy")
    return Batches(path, _find) if known else None


def _find(bundle: Bundle, only: str | None = None) -> DataSet:
    versions = {name: match[1] for name in bundle if (match := _VERSION.fullmatch(name))}
    if versions and (only is None or only in versions):
        name = "cifar10.1"
        labels_of = {images: images.replace("_data", "_labels") for images in versions}
    else:
        name = "cifar10-c"
        labels_of = {
            images: _LABELS for images in bundle if images.endswith(".npy") and images != _LABELS
        }
        versions = {images: images.removesuffix(".npy") for images in labels_of}
    wanted = [only] if only else sorted(labels_of)
    require_files(bundle, [*wanted, *(labels_of.get(images, _LABELS) for images in wanted)])
    parts = [
        Part(versions[images], bundle, images, partial(_read, labels=bundle[labels_of[images]]))
        for images in wanted
    ]
    return DataSet(name, CLASSES, parts)


def _read(entry: Entry, where: str, labels: Entry) -> Batch:
    return read_npy(entry, labels, where, Labels(len(CLASSES)))
