"""CIFAR-10's own files, its six batches, binary or pickled: writing and reading.

Alex Krizhevsky describes both (https://www.cs.toronto.edu/~kriz/cifar.html): the 50,000 training
images are ``data_batch_1`` to ``data_batch_5`` and the 10,000 test images ``test_batch``. In the
binary version an image is a record of 3,073 bytes: its label, then its red, green and blue plane.
"""

import hashlib
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cinicpack.cinic10 import CLASSES, IMAGE_SHAPE
from cinicpack.errors import ArgumentError, SourceError
from cinicpack.formats.batches import Batch, Labels, read_pickle, read_records
from cinicpack.formats.bundles import Entry, open_bundle, reporting_damage
from cinicpack.formats.pickles import Value, dump_pickle
from cinicpack.paths import naming_file

__all__ = [
    "ARCHIVE_MD5S",
    "BLOB_IDS",
    "FOLDERS",
    "LAYOUTS",
    "RECORD_BYTES",
    "Cifar10",
    "Cifar10Set",
    "check_layout",
    "compute_blob_id",
    "read_batches",
    "split_batches",
    "write_batches",
]

Records = NDArray[np.uint8]

#: The folders in the official archives.
FOLDERS: Final = ("cifar-10-batches-bin", "cifar-10-batches-py")
LAYOUTS: Final = ("bin", "py", "npy")
RECORD_BYTES: Final = 3_073

#: MD5 of the official archives, as their page gives it.
ARCHIVE_MD5S: Final = {
    "c58f30108f718f92721af3b95e74349a": "cifar-10-python.tar.gz",
    "c32a1d4ab5d03f1284b67883e8d87530": "cifar-10-binary.tar.gz",
}
#: Git's ids of the official binary batches, as one public repository lists them.
BLOB_IDS: Final = {
    "data_batch_1": "da09f891072747be90e69e4f00ba7cba870dc87e",
    "data_batch_2": "7e958840b7a55df3353574298ebc9ca0e4bba48e",
    "data_batch_3": "5259a3e9674ffdf2d5c33a1067f7192ff06c9e2f",
    "data_batch_4": "301e7d16d78428f13262e87a5bc78ed45b8224aa",
    "data_batch_5": "51fe428dfbdd065852912743ae8b7b63bb1e9d8d",
    "test_batch": "e3f3b4653f18f27ada1558cabc3352a3ed1b25cc",
}

_BATCHES: Final = tuple(BLOB_IDS)
_BATCH_IMAGES: Final = 10_000
# What reads the batches, by the endings of their names.
_READERS: Final[dict[str, Callable[[Entry, str, Labels], Batch]]] = {
    ".bin": read_records,
    "": read_pickle,
}
_LABEL_NAMES: Final = [name.encode() for name in CLASSES]


class Cifar10Set(NamedTuple):
    """Images of CIFAR-10's training or test set.

    Attributes:
        rows: (n,) int64, ascending: which rows of the set these are.
        records: (n, 3073) uint8: the label, then the planes.
        names: a file name for each, or nothing if they were not read.
    """

    rows: NDArray[np.int64]
    records: Records
    names: list[bytes]


class Cifar10(NamedTuple):
    """CIFAR-10: its training and its test set."""

    train: Cifar10Set
    test: Cifar10Set


def split_batches(cifar10: Cifar10) -> dict[str, Cifar10Set]:
    """Divide CIFAR-10 into its six batches, by name; some are empty where images are missing."""
    rows, records, names = cifar10.train
    ends = np.searchsorted(rows, np.arange(len(_BATCHES)) * _BATCH_IMAGES).tolist()
    spans = [slice(*span) for span in itertools.pairwise(ends)]
    parts = [Cifar10Set(rows[span], records[span], names[span]) for span in spans]
    return dict(zip(_BATCHES, [*parts, cifar10.test], strict=True))


def check_layout(layout: str) -> None:
    """Raise `ArgumentError` if there is no such layout."""
    if layout not in LAYOUTS:
        raise ArgumentError(f"expected layout {' or '.join(map(repr, LAYOUTS))}, found {layout!r}")


def write_batches(cifar10: Cifar10, folder: Path, layout: str) -> None:
    """Write CIFAR-10's files into a folder.

    "bin" is the official binary version, byte for byte. "py" is the official Python version, but
    for the file names in it; its ``batches.meta`` is that byte for byte, MD5
    5ff9c542aee3614f3951f8cda6e48888. "npy" is not official: images (n, 32, 32, 3) and labels (n,),
    both uint8, as ``train-images.npy``, ``train-labels.npy``, ``test-images.npy`` and
    ``test-labels.npy``.
    """
    check_layout(layout)
    if layout == "npy":
        for name, part in cifar10._asdict().items():
            planes = part.records[:, 1:].reshape(-1, 3, *IMAGE_SHAPE[:2])
            images = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
            _save(folder / f"{name}-images.npy", images)
            _save(folder / f"{name}-labels.npy", np.ascontiguousarray(part.records[:, 0]))
        return
    batches = split_batches(cifar10)
    if layout == "bin":
        (folder / "batches.meta.txt").write_bytes(b"\n".join([*_LABEL_NAMES, b"", b""]))
        for name, part in batches.items():
            (folder / f"{name}.bin").write_bytes(np.ascontiguousarray(part.records).data)
        return
    meta: Value = {
        b"num_cases_per_batch": _BATCH_IMAGES,
        b"label_names": _LABEL_NAMES,
        b"num_vis": RECORD_BYTES - 1,
    }
    (folder / "batches.meta").write_bytes(dump_pickle(meta))
    for number, (name, part) in enumerate(batches.items(), 1):
        test = name == _BATCHES[-1]
        title = "testing batch 1 of 1" if test else f"training batch {number} of 5"
        batch: Value = {
            b"batch_label": title.encode(),
            b"labels": part.records[:, 0].tolist(),
            b"data": part.records[:, 1:],
            b"filenames": part.names,
        }
        (folder / name).write_bytes(dump_pickle(batch))


def _save(file: Path, array: NDArray[np.uint8]) -> None:
    """Write an npy file as `numpy.save` does, which does not say why a write has failed."""
    with open(file, "wb") as stream:
        header = np.lib.format.header_data_from_array_1_0(array)
        np.lib.format.write_array_header_1_0(stream, header)
        stream.write(array.data)


def compute_blob_id(records: Records) -> str:
    """Compute the id that Git gives to a file of these records."""
    # Not for security: Git names files by their SHA-1.
    digest = hashlib.sha1(b"blob %d\0" % records.nbytes, usedforsecurity=False)
    digest.update(np.ascontiguousarray(records).data)
    return digest.hexdigest()


def read_batches(path: str | os.PathLike[str]) -> Cifar10:
    """Read CIFAR-10 from an official archive, from what it unpacks to, or from like files.

    Args:
        path: a .tar.gz (or .tar), or a folder with the six batches, or with a folder
            ``cifar-10-batches-bin`` or ``cifar-10-batches-py`` in it that has them.

    Raises `SourceError` if there are not all six batches, or something else is in them.

    >>> images = Cifar10Set(np.arange(7), np.zeros((7, 3073), np.uint8), [b"0.png"] * 7)
    >>> write_batches(Cifar10(train=images, test=images), Path(), "bin")
    >>> read_batches(Path()).train.records.shape
    (7, 3073)
    """
    path = Path(path)
    with naming_file(path), reporting_damage(path), open_bundle(_find_folder(path)) as bundle:
        for ending, read in _READERS.items():
            names = [name + ending for name in _BATCHES]
            if bundle.keys() >= {*names}:
                labels = Labels(len(CLASSES))
                parts = [_to_records(read(bundle[n], f"{path}: {n}", labels)) for n in names]
                return Cifar10(_join(parts[:-1]), _join(parts[-1:]))
        known = {name + ending for name in _BATCHES for ending in _READERS}
        found = sorted(known & bundle.keys())
    raise SourceError(
        f"{path}: expected a .tar.gz of CIFAR-10, or a folder, with {', '.join(_BATCHES)}, all as "
        f".bin files or all pickled, found {', '.join(found) or 'none of them'}"
    )


def _find_folder(path: Path) -> Path:
    """Return the folder with the batches, which may be in the one at ``path``."""
    for folder in (path, *(path / name for name in FOLDERS)):
        if any((folder / (name + ending)).is_file() for name in _BATCHES for ending in _READERS):
            return folder
    return path


def _to_records(batch: Batch) -> Records:
    records = np.empty((batch.size, RECORD_BYTES), np.uint8)
    start = 0
    for labels, images in batch.blocks:
        part = records[start : start + len(labels)]
        part[:, 0] = labels
        part[:, 1:] = images.transpose(0, 3, 1, 2).reshape(len(labels), -1)
        start += len(labels)
    return records


def _join(batches: list[Records]) -> Cifar10Set:
    records = np.concatenate(batches)
    return Cifar10Set(np.arange(len(records)), records, [])
