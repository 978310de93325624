"""Tars and zips as sources: nothing is extracted, members come one after the other as a stream."""

import io
import os
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

from zlib_ng import zlib_ng

from cinicpack.convert import zips
from cinicpack.convert.decode import SUFFIXES, is_image
from cinicpack.convert.files import (
    MAX_BYTES,
    Content,
    Read,
    Remarks,
    explain_unreadable,
    too_large,
)
from cinicpack.errors import SourceError
from cinicpack.formats import tar
from cinicpack.formats.compression import Decompress, Readable, find_decompression
from cinicpack.formats.zips import STARTS
from cinicpack.shortage import is_shortage
from cinicpack.store.format import NAME_BYTES
from cinicpack.text import one_line

__all__ = ["Archive", "recognise"]

# So many characters never take more bytes in UTF-8 than a name can have.
_ALWAYS_SHORT: Final = NAME_BYTES // 4

# The exceptions of readers for damage, besides ValueError. Any, since zlib-ng's stub declares its
# exception as an object.
_DAMAGE: Final[Any] = (EOFError, OSError, NotImplementedError, zipfile.BadZipFile, zlib_ng.error)

# Of every member its name, its size and its data, None of one that is too large.
_Members: TypeAlias = Iterator[tuple[str, int, bytes | None]]


def recognise(path: Path, start: bytes, limit: int = MAX_BYTES) -> "Archive | None":
    """Take a file for an archive by its first bytes; members above ``limit`` bytes are not read."""
    try:
        decompress = find_decompression(start)
    except ImportError as error:
        raise SourceError(f"{path}: {error}") from error
    if decompress is not None:
        return Archive(path, partial(_read_compressed_tar, decompress), limit)
    if start.startswith(STARTS):
        return Archive(path, _read_zip, limit)
    if tar.is_tar(start):
        return Archive(path, tar.read_members, limit)
    return None


class Archive:
    """A tar or zip, a `Source` that is a stream.

    Paths are relative and without ``.`` components. Streaming raises ``SourceError``, which names
    the archive and the member, where the archive is damaged or incomplete, and for members that
    are links or devices, that have an absolute path or one with ``..``, or that are encrypted. A
    member that is too large has an ``OSError`` as its content.

    Args:
        path: the archive; the attribute may become what messages are to name instead.
        read_members: gives the members of its file, of those above a limit without their data.
        limit: that many bytes.
    """

    classes: tuple[str, ...] | None = None
    keeps_order = False
    read: Read | None = None

    def __init__(
        self, path: Path, read_members: Callable[[io.FileIO, int], _Members], limit: int
    ) -> None:
        self.path = self._archive = path
        self._read_members = read_members
        self._limit = limit
        self._size = max(1, path.stat().st_size)
        self._file: io.FileIO | None = None
        self._forget()

    def _forget(self) -> None:
        self._folders: set[str] = set()
        self._ignored = 0

    @property
    def fraction(self) -> float:
        """How much of the archive's bytes has been read, from 0 to 1."""
        if self._file is None:
            return 0.0
        return 1.0 if self._file.closed else min(1.0, self._file.tell() / self._size)

    @property
    def remarks(self) -> Remarks:
        """What has been passed over so far."""
        return Remarks(self._ignored, frozenset(self._folders))

    def is_small(self, images: int, nbytes: int) -> bool:  # noqa: ARG002  it would have to be read
        """Tell whether the archive has fewer than so many bytes."""
        return self._size < nbytes

    def paths(self) -> list[str]:
        """List the images in the archive's order, which reads all of it."""
        return [path for path, _ in self.stream()]

    def stream(self) -> Iterator[tuple[str, Content]]:
        """Give every image with the bytes of its file, in the archive's order."""
        self._forget()
        last = ""
        with io.FileIO(self._archive) as self._file:
            try:
                for name, size, data in self._read_members(self._file, self._limit):
                    last = name
                    path = _image_path(name)
                    if path is None:
                        self._pass_over(name)
                        continue
                    yield path, too_large(path, size, self._limit) if data is None else data
            except ValueError as error:
                raise SourceError(f"{self.path}: {error}") from error
            except (*_DAMAGE, MemoryError) as error:
                where = f" after {last!r}" if last else ""
                # Where a zip cannot be read, zipfile raises that it is no zip, with the cause in
                # the error's context.
                for cause in (error, error.__context__):
                    if isinstance(cause, Exception) and is_shortage(cause):
                        raise explain_unreadable(f"{self.path}{where}", cause) from error
                raise SourceError(
                    f"{self.path}: expected a whole archive, found it damaged or cut off{where} "
                    f"({one_line(error)}); fetch or make it again"
                ) from error

    def _pass_over(self, name: str) -> None:
        """Note what a member is that has no image to pack."""
        path = _plain_path(name)
        if name.endswith("/"):
            self._folders.add(path)
            return
        self._folders.add(path.rpartition("/")[0])
        self._ignored += 1


def _read_compressed_tar(decompress: Decompress, file: io.FileIO, limit: int) -> _Members:
    with decompress(file) as stream:
        start = b""
        while len(start) < tar.BLOCK and (more := stream.read(tar.BLOCK - len(start))):
            start += more
        if not tar.is_tar(start):
            found = f"a file that starts with {start[:8]!r}" if start else "nothing"
            raise ValueError(f"expected a tar within the compressed file, found {found}")
        yield from tar.read_members(_Rest(start, stream), limit)


class _Rest:
    """A stream of which the start has been read."""

    def __init__(self, start: bytes, stream: Readable) -> None:
        self._start, self._stream = start, stream

    def read(self, size: int, /) -> bytes:
        """Read the start again, then what comes behind it."""
        start, self._start = self._start, b""
        return start or self._stream.read(size)


def _read_zip(file: io.FileIO, limit: int) -> _Members:
    yield from zips.read_members(file, limit, lambda name: _image_path(name) is not None)


def _image_path(name: str) -> str | None:
    """Return the path that the name of an image to pack means, None for other members."""
    # Plain names, nearly all, take 0.4 us this way, and 2 us the other.
    if len(name) > _ALWAYS_SHORT:
        _check_lengths(name)
    plain = not ("/." in name or "//" in name or "\0" in name)
    if plain and name.endswith(SUFFIXES) and name[0] not in "./":
        return name
    parts = name.split("/")
    if not parts[0] or ".." in parts or "\0" in name:
        raise ValueError(f"expected relative paths without '..', found member {name!r}")
    return _plain_path(name) if is_image(parts[-1]) else None


def _check_lengths(name: str) -> None:
    """Refuse a name with a part that no file can have: each row of a pack would be as wide."""
    longest = max(map(os.fsencode, name.split("/")), key=len)
    if len(longest) > NAME_BYTES:
        raise ValueError(
            f"expected names of files and folders of at most {NAME_BYTES} bytes, found one of "
            f"{len(longest):,}: {os.fsdecode(longest[:_ALWAYS_SHORT])!r}..."
        )


def _plain_path(name: str) -> str:
    """Leave out the parts of a member's name that lead nowhere: "." and none."""
    return "/".join(part for part in name.split("/") if part not in ("", "."))
