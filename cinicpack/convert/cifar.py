"""CIFAR-10's own files as a source: its archives and folders, binary or pickled."""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from cinicpack.cinic10 import CLASSES, IMAGE_SHAPE, Origin, Provenance, format_name
from cinicpack.convert.files import MAX_BYTES, Content, Read, Remarks, explain_unreadable
from cinicpack.formats import tar
from cinicpack.formats.cifar10 import Cifar10, read_batches

__all__ = ["CifarFiles", "recognise"]

_FOLDERS: Final = ("cifar-10-batches-bin", "cifar-10-batches-py")
_FIRST_BATCHES: Final = ("data_batch_1.bin", "data_batch_1")
_GZIP: Final = b"\x1f\x8b"


def recognise(path: Path, start: bytes) -> "CifarFiles | None":
    """Take a folder with the first batch, or an archive whose first member is in their folder."""
    if path.is_dir():
        places = [path, *(path / name for name in _FOLDERS)]
        found = any((place / name).is_file() for place in places for name in _FIRST_BATCHES)
    else:
        first = _read_first_name(path, start).removeprefix("./")
        found = first.startswith(_FOLDERS)
    return CifarFiles(path) if found else None


def _read_first_name(path: Path, start: bytes) -> str:
    """Read the name of the first member of a tar; of what is none, or is damaged, return ""."""
    if not start.startswith(_GZIP) and not tar.is_tar(start):
        return ""
    open_file = gzip.open if start.startswith(_GZIP) else open
    with suppress(ValueError, EOFError, OSError, zlib.error), open_file(path, "rb") as file:
        for name, _, _ in tar.read_members(file, MAX_BYTES):
            return name
    return ""


class CifarFiles:
    """The six batches of CIFAR-10, a `Source` that is a stream of pixels.

    Row i of a split, "train" or "test", is image i of the set, counted through the batches in their
    order. Streaming holds all batches in memory, since an archive has them in any order, and raises
    `SourceError` if they are not all there, or something else is in them.
    """

    classes: tuple[str, ...] | None = CLASSES
    keeps_order = True
    read: Read | None = None
    remarks = Remarks()

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fraction = 0.0

    def is_small(self, images: int, nbytes: int) -> bool:  # noqa: ARG002  it has one size
        """Tell that it is: all 60,000 are converted before worker processes would have started."""
        return True

    def paths(self) -> list[str]:
        """List the images, which reads all batches."""
        return [path for path, _ in self.stream()]

    def stream(self) -> Iterator[tuple[str, Content]]:
        """Give the pixels of every image, those of the training set first."""
        cifar10 = self._read_batches()
        total, given = len(cifar10.train.records) + len(cifar10.test.records), 0
        for split, origin in (("train", Origin.CIFAR10_TRAIN), ("test", Origin.CIFAR10_TEST)):
            for row, record in enumerate(getattr(cifar10, split).records):
                given += 1
                self.fraction = given / total
                name = format_name(Provenance(origin, 0, row))
                pixels = record[1:].reshape(3, *IMAGE_SHAPE[:2]).transpose(1, 2, 0)
                yield f"{split}/{CLASSES[record[0]]}/{name}", pixels

    def _read_batches(self) -> Cifar10:
        try:
            return read_batches(self.path)
        except (OSError, MemoryError) as error:
            raise explain_unreadable(str(self.path), error) from error
