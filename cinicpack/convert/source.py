"""Sources: where images come from, and the one table of the kinds that there are.

- A directory (`tree`), a tar, also in gzip, bzip2, xz or zstd, or a zip (`archives`) with the files
  of images at SPLIT/CLASS/NAME, or at CLASS/NAME, which is one split named "train". Names end as
  torchvision's ImageFolder knows them: .png .jpg .jpeg .ppm .bmp .pgm .tif .tiff .webp. One lone
  folder above is skipped. Rows are ImageFolder's.
- Parquet as hubs have it: a file, several, or their folder (`parquet`). Rows are those of a tree.
- The own files of CIFAR-10 and CIFAR-100, python or binary, or of others in their form (`cifar`),
  ImageNet32x32 and 64x64 (`imagenet32`), CIFAR-10.1 and CIFAR-10-C (`shifted`), in a folder or an
  archive. Row i is image i of them.

Arrays and datasets of Python have functions of their own: `convert.arrays`, `convert.dataset`.

To add a kind: a module here with a class that has what `Source` asks for and a function
``recognise(path, start)``, and that function in `_KINDS`. Nothing else asks what kind a source has.
"""

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol, TypeAlias, runtime_checkable

from cinicpack.convert import archives, cifar, imagenet32, parquet, shifted, tree
from cinicpack.convert.files import SPECIAL_FILES
from cinicpack.convert.files import Content as Content
from cinicpack.convert.files import Read as Read
from cinicpack.convert.files import Remarks as Remarks
from cinicpack.errors import ArgumentError, SourceError
from cinicpack.paths import why_missing
from cinicpack.text import some

__all__ = ["HasLabels", "ListsPaths", "Source", "open_source"]

_EXPECTED: Final = "expected a directory, a .tar (also .gz, .bz2, .xz, .zst), .zip or .parquet"


class Source(Protocol):
    """Images with their paths, which are SPLIT/CLASS/NAME where classes are declared.

    Attributes:
        path: what messages name.
        keeps_order: rows are in the source's order; else in ImageFolder's, by class, then name.
        read: gives the contents of images by their paths, in any process (it is pickled), so that
            rows are known beforehand; None: images come as a stream.
    """

    path: Path
    keeps_order: bool
    read: Read | None

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Class names in the order of their labels; None: the names of the folders, sorted."""

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

    def paths(self) -> Iterable[str]:
        """List the paths of all images: in the order of rows if classes are declared, else any."""

    def stream(self) -> Iterator[tuple[str, Content]]:
        """Give every image once, in the source's order."""


@runtime_checkable
class HasLabels(Protocol):
    """A `Source` whose images have several labels each."""

    def choose_labels(self, labels: str) -> Source:
        """Return the same source with these labels."""


@runtime_checkable
class ListsPaths(Protocol):
    """A `Source` that is a stream, but tells the paths of its images in far less time."""

    def list_paths(self) -> Iterable[str]:
        """List the paths of all images, in the order of the stream."""


Recognise: TypeAlias = Callable[[Path, bytes], Source | None]

# Who first knows what is at a path has it. Each is given the first 512 bytes, of a directory none.
_KINDS: Final[tuple[Recognise, ...]] = (
    cifar.recognise,
    imagenet32.recognise,
    shifted.recognise,
    parquet.recognise,
    tree.recognise,
    archives.recognise,
)


def open_source(
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    labels: str | None = None,
    columns: Sequence[str] | None = None,
) -> Source:
    """Find out, from what is at ``path``, how to read it.

    Several paths are those of parquet files, and only parquet has ``columns``, of images and of
    labels. ``labels`` is which ones to take, of a source whose images have several. File names and
    extensions of trees and archives do not matter.

    Raises ``FileNotFoundError`` if nothing is there, `SourceError` if it is no kind of source, and
    `ArgumentError` for labels or columns that it has not.
    """
    if isinstance(path, str | os.PathLike):
        source = _recognise(Path(path))
    else:
        opened = [open_source(one) for one in path]
        files = [one for one in opened if isinstance(one, parquet.Parquet)]
        if not opened or (files != opened and len(opened) > 1):
            raise SourceError(
                "expected one source, or several parquet files, found "
                f"{some([str(one) for one in path]) or 'none'}; pack them one by one"
            )
        source = parquet.join(files) if len(opened) > 1 else opened[0]
    if labels is not None:
        source = _choose_labels(source, labels)
    if columns is not None:
        source = _choose_columns(source, columns)
    return source


def _recognise(path: Path) -> Source:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        found = why_missing(path) or "nothing"
        raise FileNotFoundError(f"{path}: {_EXPECTED}, found {found}") from None
    start = b""
    if not stat.S_ISDIR(mode):
        if not stat.S_ISREG(mode):
            raise SourceError(f"{path}: {_EXPECTED}, found {SPECIAL_FILES[stat.S_IFMT(mode)]}")
        with open(path, "rb") as file:
            start = file.read(512)
    for recognise in _KINDS:
        if (source := recognise(path, start)) is not None:
            return source
    raise SourceError(f"{path}: {_EXPECTED}, found a file that starts with {start[:8]!r}")


def _choose_labels(source: Source, labels: str) -> Source:
    if not isinstance(source, HasLabels):
        raise ArgumentError(
            f"{source.path}: expected no choice of labels, since an image has one there, found "
            f"{labels!r}; leave it out"
        )
    return source.choose_labels(labels)


def _choose_columns(source: Source, columns: Sequence[str]) -> Source:
    if not isinstance(source, parquet.Parquet):
        raise ArgumentError(
            f"{source.path}: expected no columns, since only parquet has them, found {columns}; "
            "leave them out"
        )
    return source.choose_columns(columns)
