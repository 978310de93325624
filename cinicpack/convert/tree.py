"""A directory tree as a source: its files are listed here and read where they are decoded."""

import errno
import os
from collections.abc import Iterator
from functools import partial
from itertools import chain, islice
from pathlib import Path

from cinicpack.convert.decode import is_image
from cinicpack.convert.files import Content, Read, Remarks, read_files
from cinicpack.errors import SourceError

__all__ = ["Tree", "recognise"]


def recognise(path: Path, _: bytes) -> "Tree | None":
    """Take every directory for a tree."""
    return Tree(path) if path.is_dir() else None


class Tree:
    """A directory tree, a `Source` whose rows are known beforehand.

    As for ImageFolder the extension of an image is in any case and links are followed. What is
    named so but is no regular file, or a link that leads nowhere, is listed too, for `read_files`
    to say what it is. Listing raises ``SourceError`` if links go in a circle or a directory cannot
    be read.
    """

    classes: tuple[str, ...] | None = None
    keeps_order = False
    # There is nothing to wait for: all paths are known before the first file is read.
    fraction: float = 1.0

    def __init__(self, path: Path) -> None:
        self.path = path
        self.read: Read | None = partial(read_files, str(path))
        self._listing: Iterator[str] | None = None
        self._forget()

    def _forget(self) -> None:
        self._folders: set[str] = set()
        self._ignored = 0

    @property
    def remarks(self) -> Remarks:
        """What the last listing has passed over."""
        return Remarks(self._ignored, frozenset(self._folders))

    def is_small(self, images: int, nbytes: int) -> bool:  # noqa: ARG002  sizes would take longer
        """Tell whether there are fewer than so many images, without listing more of them."""
        listing = self._list()
        begun = list(islice(listing, images))
        self._listing = chain(begun, listing)
        return len(begun) < images

    def paths(self) -> Iterator[str]:
        """List the images, relative to the root, in any order."""
        listing, self._listing = self._listing, None
        return listing or self._list()

    def stream(self) -> Iterator[tuple[str, Content]]:
        """Give every image with the bytes of its file, or the reason why there are none."""
        paths = list(self.paths())
        return zip(paths, read_files(self.path, paths), strict=True)

    def _list(self) -> Iterator[str]:
        self._forget()
        try:
            for paths in self._visit("", ()):
                yield from paths
        except OSError as error:
            raise SourceError(f"{self.path}: expected a readable tree, found {error}") from error

    def _visit(self, folder: str, above: tuple[tuple[int, int], ...]) -> Iterator[list[str]]:
        """Give the images of one folder after the other."""
        status = os.stat(self.path / folder)
        here = (status.st_dev, status.st_ino)
        if here in above:
            raise SourceError(
                f"{self.path}: expected a tree, found that {folder!r} leads back to a directory "
                "above it; remove that link"
            )
        folders, paths = [], []
        with os.scandir(self.path / folder) as entries:
            for entry in entries:
                name = entry.name
                if _is_folder(entry):
                    folders.append(name)
                elif is_image(name):
                    paths.append(folder + name)
                elif entry.is_symlink() and not entry.is_file():
                    self._folders.add(folder + name)
                else:
                    self._ignored += 1
        self._folders.update(folder + name for name in folders)
        yield paths
        for name in folders:
            yield from self._visit(f"{folder}{name}/", (*above, here))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        # An image's link to itself is one image that is bad, and no class that is missing.
        if error.errno != errno.ELOOP or not is_image(entry.name):
            raise
        return False
