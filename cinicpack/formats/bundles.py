"""A bundle: files by their names, in a folder, a tar or a zip, each opened when it is asked for."""

import bz2
import lzma
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, cast

from zlib_ng import gzip_ng, zlib_ng

from cinicpack.errors import SourceError
from cinicpack.formats import tar
from cinicpack.shortage import is_shortage

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
_ZIP_ENCRYPTED: Final = 0x1
# Of the header before a zip's member: magic, sizes, length of the name and of the extra field.
_ZIP_LOCAL: Final = struct.Struct("<4s14xIIHH")
# How compressed tars begin, and what decompresses them.
_UNZIP: Final[dict[bytes, Callable[[IO[bytes]], Any]]] = {
    b"\x1f\x8b": lambda file: _Gunzipped(file),
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}
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
    """Open a folder, a tar (plain, gzip, bzip2 or xz), a zip, or one file, which is then alone.

    Nothing is extracted: whenever a file of a compressed tar is opened that lies before the last
    one, the tar is decompressed from its start again.

    Raises `SourceError` for an archive that is damaged, or has two files of one name.

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
    with open(path, "rb") as archive:
        start = archive.read(_BLOCK)
        archive.seek(0)
        if start.startswith(ZIP):
            list_zip(archive, bundle)
            if bundle.keys() >= NPZ:
                # The arrays of an npz file belong together.
                bundle.clear()
                bundle.add(path.name, _entry_of(path))
        elif (unzipped := _unzip(archive, start)) is not None:
            _list_tar(unzipped, bundle)
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
            f"({str(error) or type(error).__name__}); fetch or make it again"
        ) from error


def peek_name(path: Path, start: bytes) -> str:
    """Read the name of an archive's first file, whose first 512 bytes are ``start``.

    It has the folders above it, but for a leading ``./``. Of what is no archive, is damaged, or has
    no file at all it is "".
    """
    if start.startswith(ZIP):
        return _peek_zip(start)
    with suppress(*_DAMAGE), open(path, "rb") as file:
        if (unzipped := _unzip(file, start)) is not None:
            for member in tarfile.open(fileobj=unzipped, mode="r:"):
                if not member.isdir():
                    return member.name.removeprefix("./")
    return ""


def _peek_zip(start: bytes) -> str:
    at = 0
    while len(header := start[at : at + _ZIP_LOCAL.size]) == _ZIP_LOCAL.size:
        magic, size, _, name_size, extra_size = _ZIP_LOCAL.unpack(header)
        at += _ZIP_LOCAL.size
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
    for member in zipped.infolist():
        if member.is_dir():
            continue
        if member.flag_bits & _ZIP_ENCRYPTED:
            raise SourceError(
                f"{bundle.path}: expected files without a password, but {member.filename!r} is "
                "encrypted; unpack it"
            )
        if member.file_size > _MAX_RATIO * max(member.compress_size, _LEAST_BYTES):
            raise SourceError(
                f"{bundle.path}: expected images, found {member.filename!r}, of which "
                f"{member.compress_size:,} bytes become {member.file_size:,}; remove it"
            )
        bundle.add(member.filename, Entry(member.file_size, _opener(zipped.open, member)))


def _list_tar(file: IO[bytes], bundle: Bundle) -> None:
    with reporting_damage(bundle.path):
        archive = tarfile.open(fileobj=file, mode="r:")
        members = archive.getmembers()
        # tarfile takes a damaged header for the archive's end, which is a block of zeros.
        file.seek(archive.offset)
        if file.read(_BLOCK).strip(b"\0"):
            raise tarfile.ReadError(f"a damaged header after {members[-1].name!r}")
        # A compressed file has its checksum at its very end.
        while file.read(_CHUNK):
            pass
    for member in members:
        if member.isreg():
            extract = cast(Callable[[tarfile.TarInfo], IO[bytes]], archive.extractfile)
            bundle.add(member.name, Entry(member.size, _opener(extract, member)))


class _Gunzipped:
    """What a gzip file has compressed, read by zlib-ng, which takes half of zlib's time.

    To go back, the file is opened anew, since zlib-ng's own way to its start loses its place.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._stream: Any = gzip_ng.open(file)  # type: ignore[no-untyped-call]

    def read(self, size: int = -1) -> bytes:
        return self._stream.read(size)  # type: ignore[no-any-return]

    def tell(self) -> int:
        return self._stream.tell()  # type: ignore[no-any-return]

    def seek(self, offset: int) -> int:
        if offset < self._stream.tell():
            self._file.seek(0)
            self._stream = gzip_ng.open(self._file)  # type: ignore[no-untyped-call]
        return self._stream.seek(offset)  # type: ignore[no-any-return]


def _opener(extract: Callable[[Any], IO[bytes]], member: object) -> Callable[[], IO[bytes]]:
    return lambda: extract(member)


def _entry_of(file: Path) -> Entry:
    return Entry(file.stat().st_size, lambda: open(file, "rb"))


def _unzip(file: IO[bytes], start: bytes) -> IO[bytes] | None:
    """Return a tar without its compression; None: ``start`` is not of a tar."""
    for magic, unzip in _UNZIP.items():
        if start.startswith(magic):
            return cast(IO[bytes], unzip(file))
    return file if tar.is_tar(start) else None
