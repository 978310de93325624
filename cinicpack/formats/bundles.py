"""A bundle: files by their names, in a folder, a tar or a zip, each opened when it is asked for."""

import io
import lzma
import os
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, cast

from zlib_ng import zlib_ng

from cinicpack.errors import SourceError
from cinicpack.formats import tar
from cinicpack.formats.compression import Decompress, find_decompression
from cinicpack.formats.zips import LOCAL, check_places, check_readable
from cinicpack.shortage import is_shortage
from cinicpack.text import one_line

__all__ = [
    "NPZ",
    "ZIP",
    "Bundle",
    "Entry",
    "list_zip",
    "open_bundle",
    "peek_name",
    "reporting_damage",
]

#: How a zip begins.
ZIP: Final = b"PK\3\4"
#: The files in the zip that an npz file of images is.
NPZ: Final = frozenset({"data.npy", "labels.npy"})
_BLOCK: Final = 512
_CHUNK: Final = 256 << 10
# Deflate makes images at most some 50 times smaller, and what is nothing but zeros 1,000 times. In
# a small file a few images may well be of one colour.
_MAX_RATIO: Final = 200
_LEAST_BYTES: Final = 64 << 10
# The exceptions of all readers for damage. Any, since zlib-ng's stub declares its exception as an
# object.
_DAMAGE: Final[Any] = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    zlib_ng.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    NotImplementedError,  # zipfile's, for a way to compress that it does not know
)


class Entry(NamedTuple):
    """A file of a bundle.

    Attributes:
        nbytes: its size.
        open: opens it for reading.
    """

    nbytes: int
    open: Callable[[], IO[bytes]]


class Bundle(dict[str, Entry]):
    """Files by name, without the folders above them.

    Attributes:
        path: the folder or the archive.
        folder: the name of the folder that the last file is in.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.folder = path.name

    def add(self, name: str, entry: Entry) -> None:
        """Add a file; raises `SourceError` if there is one of that name."""
        above, _, name = name.rpartition("/")
        if above:
            self.folder = above.rpartition("/")[2]
        if name in self:
            raise SourceError(
                f"{self.path}: expected one file {name}, found another in a second folder; "
                "remove one of the two"
            )
        self[name] = entry

    def where(self, name: str) -> str:
        """Name a file in messages."""
        return str(self.path) if self.path.name == name else f"{self.path}: {name}"


@contextmanager
def open_bundle(path: str | os.PathLike[str]) -> Iterator[Bundle]:
    """Open a folder, a tar, also a compressed one, a zip, or one file, which is then alone.

    A compressed tar is decompressed once, into a file without a name beside it, or in the system's
    folder for such files, since the files in it may be asked for in any order. Nothing else is
    extracted.

    Raises `SourceError` for an archive that is damaged, or has two files of one name, and for what
    is neither a folder nor a regular file.

    >>> with open_bundle("CINIC-10/test/cat") as bundle:
    ...     len(bundle)
    9
    """
    path = Path(path)
    bundle = Bundle(path)
    if path.is_dir():
        for file in sorted(path.iterdir()):
            if file.is_file():
                bundle.add(file.name, _entry_of(file))
        yield bundle
        return
    if path.exists() and not path.is_file():
        # To open a pipe would wait for ever.
        raise SourceError(
            f"{path}: expected a folder or a regular file, found a pipe, a socket or a device"
        )
    with io.FileIO(path) as archive:
        start = archive.read(_BLOCK)
        archive.seek(0)
        if start.startswith(ZIP):
            list_zip(archive, bundle)
            if bundle.keys() >= NPZ:
                # The arrays of an npz file belong together.
                bundle.clear()
                bundle.add(path.name, _entry_of(path))
            yield bundle
        elif (decompress := _find_decompression(path, start)) is not None:
            with _open_scratch(path) as scratch:
                _inflate(path, archive, decompress, scratch)
                _list_tar(scratch, bundle)
                yield bundle
        elif tar.is_tar(start):
            _list_tar(archive, bundle)
            yield bundle
        else:
            bundle.add(path.name, _entry_of(path))
            yield bundle


@contextmanager
def reporting_damage(where: object) -> Iterator[None]:
    """Raise `SourceError`, which names ``where``, for what readers of archives raise for damage.

    An error is left as it is if the file may be as good as any, and reading it failed.
    """
    try:
        yield
    except _DAMAGE as error:
        if is_shortage(error):
            raise
        raise SourceError(
            f"{where}: expected a whole archive, found it damaged or cut off "
            f"({one_line(error)}); fetch or make it again"
        ) from error


def peek_name(path: Path, start: bytes) -> str:
    """Read the name of an archive's first file, whose first 512 bytes are ``start``.

    It has the folders above it, but for a leading ``./``. Of what is no archive, is damaged, or has
    no file at all it is "".
    """
    if start.startswith(ZIP):
        return _peek_zip(start)
    # Without the module for a compression, whoever opens the archive says so.
    with suppress(*_DAMAGE, ImportError), io.FileIO(path) as file:
        if (decompress := find_decompression(start)) is not None:
            with decompress(file) as stream:
                return _peek_tar(stream)
        if tar.is_tar(start):
            return _peek_tar(file)
    return ""


def _peek_tar(stream: Any) -> str:
    for member in tarfile.open(fileobj=stream, mode="r|"):
        if not member.isdir():
            return member.name.removeprefix("./")
    return ""


def _peek_zip(start: bytes) -> str:
    at = 0
    while len(header := start[at : at + LOCAL.size]) == LOCAL.size:
        magic, size, name_size, extra_size = LOCAL.unpack(header)
        at += LOCAL.size
        name = start[at : at + name_size].decode("utf-8", "surrogateescape")
        if magic != ZIP:
            break
        if not name.endswith("/"):
            return name.removeprefix("./")
        at += name_size + extra_size + size
    return ""


def list_zip(file: IO[bytes], bundle: Bundle) -> None:
    """Add the files of a zip to a bundle, which then reads them from the open ``file``.

    Raises `SourceError` where the zip is damaged, or a file in it is a bomb.
    """
    with reporting_damage(bundle.path):
        zipped = zipfile.ZipFile(file)
    members = zipped.infolist()
    try:
        check_places(members)
        for member in members:
            check_readable(member, member.filename)
    except ValueError as error:
        raise SourceError(f"{bundle.path}: {error}") from None
    for member in members:
        if member.is_dir():
            continue
        if _is_bomb(member.compress_size, member.file_size):
            raise SourceError(
                f"{bundle.path}: expected images, found {member.filename!r}, of which "
                f"{member.compress_size:,} bytes become {member.file_size:,}; remove it"
            )
        bundle.add(member.filename, Entry(member.file_size, _opener(zipped.open, member)))


def _is_bomb(compressed: int, nbytes: int) -> bool:
    return nbytes > _MAX_RATIO * max(compressed, _LEAST_BYTES)


def _find_decompression(path: Path, start: bytes) -> Decompress | None:
    try:
        return find_decompression(start)
    except ImportError as error:
        raise SourceError(f"{path}: {error}") from error


def _open_scratch(path: Path) -> IO[bytes]:
    try:
        return tempfile.TemporaryFile(dir=path.absolute().parent)
    except OSError:
        return tempfile.TemporaryFile()


def _inflate(path: Path, archive: io.FileIO, decompress: Decompress, scratch: IO[bytes]) -> None:
    """Write what an archive has compressed into a scratch file."""
    nbytes = 0
    with reporting_damage(path), decompress(archive) as stream:
        while chunk := stream.read(_CHUNK):
            nbytes += len(chunk)
            if _is_bomb(archive.tell(), nbytes):
                raise SourceError(
                    f"{path}: expected images, found {archive.tell():,} bytes of it to become more "
                    f"than {nbytes:,}; fetch or make it again"
                )
            try:
                scratch.write(chunk)
                scratch.flush()
            except OSError as error:
                raise SourceError(
                    f"{path}: expected room for what it has compressed, beside it or in "
                    f"{tempfile.gettempdir()}, found {error.strerror}; make room, or decompress "
                    "and unpack it"
                ) from error
    scratch.seek(0)


def _list_tar(file: IO[bytes], bundle: Bundle) -> None:
    with reporting_damage(bundle.path):
        archive = tarfile.open(fileobj=file, mode="r:")
        members = archive.getmembers()
        # tarfile takes a damaged header for the archive's end, which is a block of zeros.
        file.seek(archive.offset)
        if file.read(_BLOCK).strip(b"\0"):
            raise tarfile.ReadError(f"a damaged header after {members[-1].name!r}")
    for member in members:
        if member.isreg():
            extract = cast(Callable[[tarfile.TarInfo], IO[bytes]], archive.extractfile)
            bundle.add(member.name, Entry(member.size, _opener(extract, member)))


def _opener(extract: Callable[[Any], IO[bytes]], member: object) -> Callable[[], IO[bytes]]:
    return lambda: extract(member)


def _entry_of(file: Path) -> Entry:
    return Entry(file.stat().st_size, lambda: open(file, "rb"))
