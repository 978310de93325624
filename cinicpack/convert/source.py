"""Sources: where images come from, and the one table of the kinds that there are.

To add a kind: a module here with a class that has what `Source` asks for and a function
``recognise(path, start)``, and that function in `_KINDS`. Nothing else asks what kind a source has.
"""

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Protocol, TypeAlias, runtime_checkable

from cinicpack.convert import archives, cifar, imagenet32, shifted, tree
from cinicpack.convert.files import SPECIAL_FILES
from cinicpack.convert.files import Content as Content
from cinicpack.convert.files import Read as Read
from cinicpack.convert.files import Remarks as Remarks
from cinicpack.errors import ArgumentError, SourceError

__all__ = ["HasLabels", "Source", "open_source"]

_EXPECTED: Final = "expected a directory, a .tar (also .gz, .bz2, .xz, .zst) or a .zip"


class Source(Protocol):
    """Images with their paths, which are SPLIT/CLASS/NAME where classes are declared.

    Attributes:
        path: what messages name.
        read: gives the contents of images by their paths, in any process (it is pickled), so that
            rows are known beforehand; None: images come as a stream.
    """

    path: Path
    read: Read | None

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Class names in the order of their labels, and then rows are in the source's order.

        None: the folders' names, and rows in ImageFolder's order.
        """

    @property
    def fraction(self) -> float:
        """How much of a stream has been read, from 0 to 1."""

    @property
    def remarks(self) -> Remarks:
        """What has been passed over so far."""

    def is_small(self, images: int, nbytes: int) -> bool:
        """Tell, by whichever takes no time, whether it has fewer than so many images or bytes.

        A small source is converted before worker processes would have started.
        """

    def paths(self) -> list[str]:
        """List the paths of all images: in the order of rows if classes are declared, else any."""

    def stream(self) -> Iterator[tuple[str, Content]]:
        """Give every image once, in the source's order."""


@runtime_checkable
class HasLabels(Protocol):
    """A `Source` whose images have several labels each."""

    def choose_labels(self, labels: str) -> Source:
        """Return the same source with these labels."""


Recognise: TypeAlias = Callable[[Path, bytes], Source | None]

# Who first knows what is at a path has it. Each is given the first 512 bytes, of a directory none.
_KINDS: Final[tuple[Recognise, ...]] = (
    cifar.recognise,
    imagenet32.recognise,
    shifted.recognise,
    tree.recognise,
    archives.recognise,
)


def open_source(path: str | os.PathLike[str], labels: str | None = None) -> Source:
    """Find out, from what is at ``path``, how to read it.

    ``labels`` is which ones to take, of a source whose images have several.

    Raises ``FileNotFoundError`` if nothing is there, ``SourceError`` if it is something else than a
    directory, a tar (also compressed) or a zip, and `ArgumentError` if it has no such labels. File
    names and extensions of trees and archives do not matter.
    """
    path = Path(path)
    mode = path.stat().st_mode
    start = b""
    if not stat.S_ISDIR(mode):
        if not stat.S_ISREG(mode):
            raise SourceError(f"{path}: {_EXPECTED}, found {SPECIAL_FILES[stat.S_IFMT(mode)]}")
        with open(path, "rb") as file:
            start = file.read(512)
    for recognise in _KINDS:
        if (source := recognise(path, start)) is not None:
            return source if labels is None else _choose_labels(source, labels)
    raise SourceError(f"{path}: {_EXPECTED}, found a file that starts with {start[:8]!r}")


def _choose_labels(source: Source, labels: str) -> Source:
    if not isinstance(source, HasLabels):
        raise ArgumentError(
            f"{source.path}: expected no choice of labels, since an image has one there, found "
            f"{labels!r}; leave it out"
        )
    return source.choose_labels(labels)
