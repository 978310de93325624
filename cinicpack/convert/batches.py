"""Batches as a source: the files of a data set whose images have numbers instead of names."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cinicpack.convert.files import Content, Read, Remarks, explain_unreadable
from cinicpack.convert.layout import check_declared
from cinicpack.errors import SourceError
from cinicpack.formats.batches import Batch
from cinicpack.formats.bundles import Bundle, Entry, open_bundle, reporting_damage
from cinicpack.text import some

__all__ = ["Batches", "DataSet", "Find", "Part", "require_files"]

# CIFAR-10's 60,000 images have 184 MB, and are converted before worker processes would have
# started.
_SMALL_BYTES: Final = 256 << 20


class Part(NamedTuple):
    """A file with images of a split.

    Attributes:
        split: its name.
        bundle: has the file.
        name: of the file.
        read: reads it; takes its entry, and how messages name it.
    """

    split: str
    bundle: Bundle
    name: str
    read: Callable[[Entry, str], Batch]

    @property
    def nbytes(self) -> int:
        """The size of the file."""
        return self.bundle[self.name].nbytes

    def open(self) -> Batch:
        """Begin to read the file."""
        return self.read(self.bundle[self.name], self.bundle.where(self.name))


class DataSet(NamedTuple):
    """What was found in a bundle.

    Attributes:
        name: how the names of images begin: ``cifar10`` for ``cifar10-train-0.png``.
        classes: names in the order of their labels.
        parts: in the order of the rows, those of one split together.
    """

    name: str
    classes: tuple[str, ...]
    parts: list[Part]


#: Finds the files of a data set in a bundle; raises `SourceError` where some are missing.
Find: TypeAlias = Callable[[Bundle], DataSet]


def require_files(bundle: Bundle, names: Sequence[str]) -> None:
    """Raise `SourceError` unless a bundle has all of these files."""
    if missing := [name for name in names if name not in bundle]:
        raise SourceError(
            f"{bundle.path}: expected {some(names)}, but {some(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing, found {some(sorted(bundle))}; fetch "
            "it again"
        )


class Batches:
    """Files of a data set, a `Source` that is a stream of pixels.

    Row i of a split is image i of its files, one after the other in the order of their numbers, and
    is called NAME-SPLIT-i.png. One file is read at a time, whatever the number of files. Streaming
    raises `SourceError`, which names the file, for what is damaged, missing or something else.

    Args:
        path: the archive, the folder or the file.
        find: finds the data set there.
    """

    keeps_order = True
    read: Read | None = None

    def __init__(self, path: Path, find: Find) -> None:
        self.path = path
        self._find = find
        self.fraction = 0.0
        self.remarks = Remarks()

    @cached_property
    def classes(self) -> tuple[str, ...] | None:
        """Class names, in the order of their labels."""
        with self._explaining(), open_bundle(self.path) as bundle:
            return self._list(bundle).classes

    def is_small(self, images: int, nbytes: int) -> bool:  # noqa: ARG002  pixels need no decoding
        """Tell whether it has no more bytes than CIFAR-10, or few more."""
        files = self.path.iterdir() if self.path.is_dir() else [self.path]
        return sum(file.stat().st_size for file in files if file.is_file()) <= _SMALL_BYTES

    def paths(self) -> list[str]:
        """List the images, which reads all files."""
        return [path for path, _ in self.stream()]

    def stream(self) -> Iterator[tuple[str, Content]]:
        """Give the pixels of every image."""
        with self._explaining(), open_bundle(self.path) as bundle:
            found = self._list(bundle)
            self.classes = found.classes
            total = sum(part.nbytes for part in found.parts) or 1
            read, rows = 0, dict.fromkeys((part.split for part in found.parts), 0)
            for part in found.parts:
                batch = part.open()
                first = rows[part.split]
                for row, (label, pixels) in enumerate(_take_images(batch), first):
                    share = (row + 1 - first) / batch.size
                    self.fraction = (read + part.nbytes * share) / total
                    name = f"{found.name}-{part.split}-{row}.png"
                    yield f"{part.split}/{found.classes[label]}/{name}", pixels
                rows[part.split] += batch.size
                read += part.nbytes
            self.remarks = Remarks(folders=frozenset(rows))

    def _list(self, bundle: Bundle) -> DataSet:
        found = self._find(bundle)
        check_declared(found.classes, self.path, "the list of names")
        return found

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        try:
            with reporting_damage(self.path):
                yield
        except (OSError, MemoryError) as error:
            raise explain_unreadable(str(self.path), error) from error


def _take_images(batch: Batch) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    for labels, images in batch.blocks:
        yield from zip(labels.tolist(), images, strict=True)
