"""Where images come from: a directory tree, a tar or a zip, read as a stream.

Nothing is extracted. The files of a tree are listed here and read where they are decoded; the
members of an archive come one after the other, each with its bytes.
"""

import contextlib
import errno
import io
import os
import stat
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

from zlib_ng import gzip_ng, zlib_ng

from cinicpack.errors import SourceError
from cinicpack.formats import tar
from cinicpack.shortage import is_shortage

__all__ = ["MAX_BYTES", "Archive", "Tree", "open_source", "read_files"]

# No image of the sizes that are packed comes near it; more is not held in memory.
MAX_BYTES: Final = 64 << 20

# Besides PNG, what torchvision's ImageFolder loads.
_OTHER_IMAGES: Final = (".jpg", ".jpeg", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")

_EXPECTED: Final = "expected a directory, .tar, .tar.gz, .tgz or .zip"
_FIRST_READ: Final = 8192
_PNG_END: Final = b"IEND\xaeB`\x82"
# Opening a named pipe would wait for its writer.
_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK

_SPECIAL: Final = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
}
_ZIP_ENCRYPTED: Final = 0x1
_ZIP_UTF8: Final = 0x800
# Magic, and the lengths of the name and of the extra field, of a member's own header.
_ZIP_LOCAL: Final = struct.Struct("<4s22xHH")

# What readers raise besides ValueError. The stub of zlib-ng has its exception for an object.
_DAMAGE: Final[Any] = (EOFError, OSError, NotImplementedError, zipfile.BadZipFile, zlib_ng.error)

_Members = Iterator[tuple[str, int, bytes | None]]


def open_source(path: str | os.PathLike[str]) -> "Tree | Archive":
    """Find out, from what is at ``path``, how to read it.

    Raises ``FileNotFoundError`` if nothing is there, and ``SourceError`` if it is something else
    than a directory, a tar, a gzipped tar or a zip. File names and extensions do not matter.
    """
    path = Path(path)
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        return Tree(path)
    if not stat.S_ISREG(mode):
        raise SourceError(f"{path}: {_EXPECTED}, found {_SPECIAL[stat.S_IFMT(mode)]}")
    with open(path, "rb") as file:
        start = file.read(512)
    if start.startswith(b"\x1f\x8b"):
        return Archive(path, _read_gzipped_tar)
    if start.startswith((b"PK\3\4", b"PK\5\6")):
        return Archive(path, _read_zip)
    if tar.is_tar(start):
        return Archive(path, _read_tar)
    raise SourceError(f"{path}: {_EXPECTED}, found a file that starts with {start[:8]!r}")


class Tree:
    """A directory tree; iterating lists its PNG files, relative to the root, in any order.

    As for ImageFolder the extension is ``.png`` in any case and links are followed. What is named
    so but is no regular file, or a link that leads nowhere, is listed too, for ``read_files`` to
    say what it is. ``SourceError`` is raised if links go in a circle or a directory cannot be read.

    Attributes:
        path: its root.
        folders: the directories that the last listing found, and the links that lead nowhere,
            which may be to directories that are missing.
        left_out: the images that it found and that are not PNG, but of another kind which
            ImageFolder loads.
        ignored: number of files that it found and that are no images.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._forget()

    def _forget(self) -> None:
        self.folders: set[str] = set()
        self.left_out: list[str] = []
        self.ignored = 0

    def __iter__(self) -> Iterator[str]:
        self._forget()
        try:
            for paths in self._visit("", ()):
                yield from paths
        except OSError as error:
            raise SourceError(f"{self.path}: expected a readable tree, found {error}") from error

    def _visit(self, folder: str, above: tuple[tuple[int, int], ...]) -> Iterator[list[str]]:
        """Give the files of one folder after the other."""
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
                try:
                    is_folder = entry.is_dir()
                except OSError as error:
                    # A link to itself: one image that is bad, but no class that is missing.
                    if error.errno != errno.ELOOP or not _is_png(name):
                        raise
                    is_folder = False
                if is_folder:
                    folders.append(name)
                elif _is_png(name):
                    paths.append(folder + name)
                elif _is_other_image(name):
                    self.left_out.append(folder + name)
                elif entry.is_symlink() and not entry.is_file():
                    self.folders.add(folder + name)
                else:
                    self.ignored += 1
        self.folders.update(folder + name for name in folders)
        yield paths
        for name in folders:
            yield from self._visit(f"{folder}{name}/", (*above, here))


def read_files(root: str | os.PathLike[str], paths: Iterable[str]) -> Iterator[bytes | OSError]:
    """Read files of a tree whole, as they are asked for; what is no image's file gives the reason.

    ``paths`` are relative to ``root``. An error is what is given for a file above ``MAX_BYTES``,
    for what is not a regular file, and for a link in a circle.

    Raises `SourceError` where reading fails: want of descriptors or memory, a disk's error, a file
    that has gone or is not for us to read say nothing of the image.
    """
    folder = os.open(root, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        for path in paths:
            yield _read_file(root, folder, path)
    finally:
        os.close(folder)


class Archive:
    """A tar or zip; iterating yields ``(path, content)`` of its PNG members in their order.

    The content is the bytes, or an ``OSError`` for a member above ``MAX_BYTES``. Paths are
    relative and without ``.`` components. ``SourceError``, which names the archive and the member,
    is raised where the archive is damaged or incomplete, and for members that are links or
    devices, that have an absolute path or one with ``..``, that are encrypted, or that are there
    twice.

    Attributes:
        path: the archive.
        folders: the directories found so far, as members or on the way to files that are not PNG.
        left_out: the images found so far that are not PNG, but of another kind which ImageFolder
            loads.
        ignored: number of files found so far that are no images.
    """

    def __init__(self, path: Path, read_members: Callable[[io.FileIO], _Members]) -> None:
        self.path = path
        self._forget()
        self._read_members = read_members
        self._size = max(1, path.stat().st_size)
        self._file: io.FileIO | None = None

    @property
    def fraction(self) -> float:
        """How much of the archive's bytes has been read, from 0 to 1."""
        if self._file is None:
            return 0.0
        return 1.0 if self._file.closed else min(1.0, self._file.tell() / self._size)

    def _forget(self) -> None:
        self.folders: set[str] = set()
        self.left_out: list[str] = []
        self.ignored = 0

    def _pass_over(self, name: str) -> None:
        """Note what a member is that is no PNG."""
        path = _plain_path(name)
        if name.endswith("/"):
            self.folders.add(path)
            return
        self.folders.add(path.rpartition("/")[0])
        if _is_other_image(path.rpartition("/")[2]):
            self.left_out.append(path)
        else:
            self.ignored += 1

    def __iter__(self) -> Iterator[tuple[str, bytes | OSError]]:
        self._forget()
        seen = set()
        last = ""
        with io.FileIO(self.path) as self._file:
            try:
                for name, size, data in self._read_members(self._file):
                    last = name
                    path = _image_path(name)
                    if path is None:
                        self._pass_over(name)
                        continue
                    if path in seen:
                        raise ValueError(f"expected every member once, found {path!r} again")
                    seen.add(path)
                    yield path, _too_large(path, size) if data is None else data
            except ValueError as error:
                raise SourceError(f"{self.path}: {error}") from error
            except (*_DAMAGE, MemoryError) as error:
                where = f" after {last!r}" if last else ""
                # zipfile says that it is no zip where it cannot be read.
                for cause in (error, error.__context__):
                    if isinstance(cause, Exception) and is_shortage(cause):
                        raise _unreadable(f"{self.path}{where}", cause) from error
                raise SourceError(
                    f"{self.path}: expected a whole archive, found it damaged or cut off{where} "
                    f"({error}); fetch or make it again"
                ) from error


def _read_tar(file: io.FileIO) -> _Members:
    return tar.read_members(file, MAX_BYTES)


def _read_gzipped_tar(file: io.FileIO) -> _Members:
    with gzip_ng.open(file) as unzipped:  # type: ignore[no-untyped-call]
        yield from tar.read_members(unzipped, MAX_BYTES)


def _read_zip(file: io.FileIO) -> _Members:
    # zipfile finds the members; reading each through it as well would take 30 us instead of 10.
    with zipfile.ZipFile(file) as directory:
        members = directory.infolist()
    with open(file.fileno(), "rb", buffering=1 << 20, closefd=False) as buffered:
        for member in members:
            # zipfile takes a name without the UTF-8 flag for cp437; most are UTF-8 all the same.
            encoding = "utf-8" if member.flag_bits & _ZIP_UTF8 else "cp437"
            raw = member.orig_filename.encode(encoding)
            name = raw.decode("utf-8", "surrogateescape")
            _check_zip_member(member, name)
            if _image_path(name) is None:
                yield name, 0, b""
            elif max(member.file_size, member.compress_size) > MAX_BYTES:
                yield name, member.file_size, None
            else:
                yield name, member.file_size, _read_zip_member(buffered, member, raw)


def _check_zip_member(member: zipfile.ZipInfo, name: str) -> None:
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        what = _SPECIAL.get(kind, "something else")
        raise ValueError(
            f"expected only files and directories, but {name!r} is {what}; "
            "pack the tree that the archive was made of instead"
        )
    if member.flag_bits & _ZIP_ENCRYPTED:
        raise ValueError(f"expected members without a password, but {name!r} is encrypted")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(
            f"expected stored or deflated members, but {name!r} is compressed by method "
            f"{member.compress_type}"
        )


def _read_zip_member(file: BinaryIO, member: zipfile.ZipInfo, raw: bytes) -> bytes:
    file.seek(member.header_offset)
    header = file.read(_ZIP_LOCAL.size)
    if len(header) == _ZIP_LOCAL.size:
        magic, name_size, extra_size = _ZIP_LOCAL.unpack(header)
        if magic == b"PK\3\4" and file.read(name_size + extra_size)[:name_size] == raw:
            data = file.read(member.compress_size)
            if member.compress_type == zipfile.ZIP_DEFLATED:
                # One byte more than there should be, so that a stream that goes on is noticed.
                inflate = zlib_ng.decompressobj(-15)
                data = inflate.decompress(data, member.file_size + 1)
            if len(data) == member.file_size and zlib_ng.crc32(data) == member.CRC:
                return data
    raise zipfile.BadZipFile(f"{member.filename!r} is not what the zip's directory says")


def _read_file(root: str | os.PathLike[str], folder: int, path: str) -> bytes | OSError:
    # 10 us, where open(path, "rb").read() takes 23. pread refuses pipes and sockets by itself, and
    # what does not end as a PNG (an empty file, a device, what a disk's error cut) or fills the
    # buffer is looked at again.
    try:
        handle = os.open(path, _FLAGS, dir_fd=folder)
        try:
            data = os.pread(handle, _FIRST_READ, 0)
            whole = len(data) < _FIRST_READ and data.endswith(_PNG_END)
            return data if whole else _read_again(handle, path)
        finally:
            os.close(handle)
    except OSError as error:
        if (reason := _explain(error, folder, path)) is None:
            raise _unreadable(os.path.join(root, path), error) from error
        return reason.with_traceback(None)
    except MemoryError as error:
        raise _unreadable(os.path.join(root, path), error) from error


def _explain(error: OSError, folder: int, path: str) -> OSError | None:
    """Say what there is instead of an image's file; None if there may be one."""
    with contextlib.suppress(OSError):
        kind = stat.S_IFMT(os.stat(path, dir_fd=folder).st_mode)
        if kind != stat.S_IFREG:
            found = _SPECIAL.get(kind, "a directory")
            return OSError(errno.EINVAL, f"expected a regular file, found {found}", path)
    return error if error.errno in (errno.EFBIG, errno.ELOOP) else None


def _unreadable(where: str, error: Exception) -> SourceError:
    reason = (isinstance(error, OSError) and error.strerror) or str(error) or "want of memory"
    return SourceError(
        f"{where}: could not be read ({reason}), so nothing is packed; make it readable, run again"
    )


def _read_again(handle: int, path: str) -> bytes:
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", path)
    if status.st_size > MAX_BYTES:
        raise _too_large(path, status.st_size)
    return io.FileIO(handle, closefd=False).readall()


def _too_large(path: str, size: int) -> OSError:
    return OSError(errno.EFBIG, f"expected at most {MAX_BYTES} bytes, found {size}", path)


def _image_path(name: str) -> str | None:
    """Return the path that the name of a PNG member means, None for other members."""
    # The common case takes 0.4 us this way, and 2 us the other.
    plain = not ("/." in name or "//" in name or "\0" in name)
    if plain and name.endswith(".png") and name[0] not in "./":
        return name
    parts = name.split("/")
    if not parts[0] or ".." in parts or "\0" in name:
        raise ValueError(f"expected relative paths without '..', found member {name!r}")
    return _plain_path(name) if _is_png(parts[-1]) else None


def _plain_path(name: str) -> str:
    """Leave out of a member's name what does not change where it leads."""
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def _is_png(name: str) -> bool:
    """Say whether a file name is an image's, and not that of the ``._`` file macOS adds to it."""
    is_png = name.endswith(".png") or name[-4:].lower() == ".png"  # faster than the second alone
    return is_png and not name.startswith("._")


def _is_other_image(name: str) -> bool:
    """Say whether a file name is that of an image which ImageFolder loads and which is no PNG."""
    return name.lower().endswith(_OTHER_IMAGES) and not name.startswith("._")
