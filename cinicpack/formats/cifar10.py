"""CIFAR-10's own files, its six batches, binary or pickled: writing and reading.

Alex Krizhevsky describes both (https://www.cs.toronto.edu/~kriz/cifar.html): the 50,000 training
images are ``data_batch_1`` to ``data_batch_5`` and the 10,000 test images ``test_batch``. In the
binary version an image is a record of 3,073 bytes: its label, then its red, green and blue plane.
"""

import gzip
import hashlib
import itertools
import os
import tarfile
import zlib
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cinicpack.cinic10 import CLASSES, IMAGE_SHAPE
from cinicpack.errors import ArgumentError, SourceError
from cinicpack.formats.pickles import Value, dump_pickle, load_pickle

__all__ = [
    "ARCHIVE_MD5S",
    "BLOB_IDS",
    "LAYOUTS",
    "RECORD_BYTES",
    "Cifar10",
    "Cifar10Set",
    "compute_blob_id",
    "read_batches",
    "split_batches",
    "write_batches",
]

Records = NDArray[np.uint8]

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


def write_batches(cifar10: Cifar10, folder: Path, layout: str) -> None:
    """Write CIFAR-10's files into a folder.

    "bin" is the official binary version, byte for byte. "py" is the official Python version, but
    for the file names in it; its ``batches.meta`` is that byte for byte, MD5
    5ff9c542aee3614f3951f8cda6e48888. "npy" is not official: images (n, 32, 32, 3) and labels (n,),
    both uint8, as ``train-images.npy``, ``train-labels.npy``, ``test-images.npy`` and
    ``test-labels.npy``.
    """
    if layout not in LAYOUTS:
        raise ArgumentError(f"expected layout {' or '.join(map(repr, LAYOUTS))}, found {layout!r}")
    if layout == "npy":
        for name, part in cifar10._asdict().items():
            planes = part.records[:, 1:].reshape(-1, 3, *IMAGE_SHAPE[:2])
            images = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
            np.save(folder / f"{name}-images.npy", images)
            np.save(folder / f"{name}-labels.npy", np.ascontiguousarray(part.records[:, 0]))
        return
    batches = split_batches(cifar10)
    if layout == "bin":
        (folder / "batches.meta.txt").write_bytes(b"\n".join([*_LABEL_NAMES, b"", b""]))
        for name, part in batches.items():
            part.records.tofile(folder / f"{name}.bin")
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
    files = _read_folder(Path(path)) if Path(path).is_dir() else _read_archive(Path(path))
    for ending, parse in ((".bin", _parse_records), ("", _parse_pickle)):
        names = [name + ending for name in _BATCHES]
        if files.keys() >= set(names):
            parsed = [parse(files[name], f"{path}: {name}") for name in names]
            return Cifar10(_join(parsed[:-1]), _join(parsed[-1:]))
    raise SourceError(
        f"{path}: expected CIFAR-10's {', '.join(_BATCHES)}, all as .bin files or all pickled, "
        f"found {', '.join(sorted(files)) or 'none of them'}"
    )


def _read_folder(path: Path) -> dict[str, bytes]:
    inner = [path / "cifar-10-batches-bin", path / "cifar-10-batches-py"]
    for folder in (path, *inner):
        files = [folder / (name + ending) for name in _BATCHES for ending in ("", ".bin")]
        if found := {file.name: file.read_bytes() for file in files if file.is_file()}:
            return found
    return {}


def _read_archive(path: Path) -> dict[str, bytes]:
    wanted = {name + ending for name in _BATCHES for ending in ("", ".bin")}
    found = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = member.name.rsplit("/", 1)[-1]
                if name in wanted and (content := archive.extractfile(member)):
                    found[name] = content.read()
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise SourceError(
            f"{path}: expected a .tar.gz of CIFAR-10, or a folder, found {error}"
        ) from error
    return found


def _parse_records(data: bytes, where: str) -> Records:
    if len(data) % RECORD_BYTES:
        raise SourceError(
            f"{where}: expected records of {RECORD_BYTES} bytes, found {len(data)} bytes"
        )
    return _check_labels(np.frombuffer(data, np.uint8).reshape(-1, RECORD_BYTES), where)


def _parse_pickle(data: bytes, where: str) -> Records:
    content = load_pickle(data, where)
    images, labels = content.get("data"), content.get("labels")
    if not (
        isinstance(images, np.ndarray)
        and isinstance(labels, list)
        and images.shape == (len(labels), RECORD_BYTES - 1)
        and all(isinstance(label, int) and 0 <= label < 256 for label in labels)
    ):
        raise SourceError(
            f"{where}: expected 'labels' and as many rows of {RECORD_BYTES - 1} bytes in 'data', "
            f"found {', '.join(map(repr, content))}"
        )
    records = np.empty((len(labels), RECORD_BYTES), np.uint8)
    records[:, 0] = labels
    records[:, 1:] = images
    return _check_labels(records, where)


def _check_labels(records: Records, where: str) -> Records:
    if len(records) and (label := int(records[:, 0].max())) >= len(CLASSES):
        raise SourceError(f"{where}: expected labels below {len(CLASSES)}, found {label}")
    return records


def _join(batches: list[Records]) -> Cifar10Set:
    records = np.concatenate(batches)
    return Cifar10Set(np.arange(len(records)), records, [])
