"""What a source gives for an image, and files of a tree, read whole and within limits."""

import contextlib
import errno
import io
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cinicpack.errors import SourceError
from cinicpack.paths import why_missing

__all__ = [
    "MAX_BYTES",
    "SPECIAL_FILES",
    "Content",
    "Read",
    "Remarks",
    "count_bytes",
    "explain_unreadable",
    "read_files",
    "row_name",
    "too_large",
]

# No image of the sizes that are packed comes near this limit; what exceeds it is not read.
MAX_BYTES: Final = 64 << 20

# How messages call the kinds of files that hold no image.
SPECIAL_FILES: Final = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
}

_FIRST_READ: Final = 8192
# How a whole PNG file ends, and a whole JPEG.
_ENDS: Final = (b"IEND\xaeB`\x82", b"\xff\xd9")
# Without O_NONBLOCK, opening a named pipe would wait for a program that writes to it.
_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK

#: An encoded file, the reason why there is none, or pixels: uint8 (height, width, 3).
Content: TypeAlias = bytes | OSError | NDArray[np.uint8]
#: Gives the contents of the images at some paths, in their order, as they are asked for.
Read: TypeAlias = Callable[[Sequence[str]], Iterator[Content]]


class Remarks(NamedTuple):
    """What a source has passed over.

    Attributes:
        ignored: number of files that are no images.
        folders: all directories, and the links that lead nowhere, which may be to directories
            that are missing; of an archive at least the directories without images to pack.
    """

    ignored: int = 0
    folders: frozenset[str] = frozenset()


def count_bytes(content: Content) -> int:
    """Return how much memory the content of an image takes."""
    if isinstance(content, bytes):
        return len(content)
    return content.nbytes if isinstance(content, np.ndarray) else 0


def row_name(row: int) -> str:
    """Name an image that has no name by its row.

    >>> row_name(12)
    '00000012.png'
    """
    return f"{row:08d}.png"


def read_files(root: str | os.PathLike[str], paths: Iterable[str]) -> Iterator[bytes | OSError]:
    """Read files of a tree whole, as they are asked for; what is no image's file gives the reason.

    ``paths`` are relative to ``root``. An error is what is given for a file above `MAX_BYTES`,
    for what is not a regular file, and for a link in a circle.

    Raises `SourceError` where reading fails: a lack of descriptors or memory, a disk's error, and
    a file that has gone or may not be read say nothing of the image.
    """
    folder = os.open(root, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        for path in paths:
            yield _read_file(root, folder, path)
    finally:
        os.close(folder)


def explain_unreadable(where: str, error: Exception) -> SourceError:
    """Build the error for what could not be read, though nothing need be wrong with it."""
    reason = (isinstance(error, OSError) and error.strerror) or str(error) or "want of memory"
    if isinstance(error, FileNotFoundError):
        reason = why_missing(where) or reason
    return SourceError(
        f"{where}: could not be read ({reason}), so nothing is packed; make it readable, run again"
    )


def too_large(path: str, size: int, limit: int = MAX_BYTES) -> OSError:
    """Build the reason why a file of ``size`` bytes is not read."""
    return OSError(errno.EFBIG, f"expected at most {limit} bytes, found {size}", path)


def _read_file(root: str | os.PathLike[str], folder: int, path: str) -> bytes | OSError:
    # These calls take 10 us, where open(path, "rb").read() takes 23. pread by itself refuses pipes
    # and sockets. What fills the buffer, or does not end as a PNG or JPEG (an empty file, a device,
    # a file cut short by a disk's error), is looked at again.
    try:
        handle = os.open(path, _FLAGS, dir_fd=folder)
        try:
            data = os.pread(handle, _FIRST_READ, 0)
            whole = len(data) < _FIRST_READ and data.endswith(_ENDS)
            return data if whole else _read_again(handle, path)
        finally:
            os.close(handle)
    except OSError as error:
        if (reason := _explain(error, folder, path)) is None:
            raise explain_unreadable(os.path.join(root, path), error) from error
        return reason.with_traceback(None)
    except MemoryError as error:
        raise explain_unreadable(os.path.join(root, path), error) from error


def _explain(error: OSError, folder: int, path: str) -> OSError | None:
    """Say what is at a path instead of an image's file; None if an image may be there."""
    with contextlib.suppress(OSError):
        kind = stat.S_IFMT(os.stat(path, dir_fd=folder).st_mode)
        if kind != stat.S_IFREG:
            found = SPECIAL_FILES.get(kind, "a directory")
            return OSError(errno.EINVAL, f"expected a regular file, found {found}", path)
    return error if error.errno in (errno.EFBIG, errno.ELOOP) else None


def _read_again(handle: int, path: str) -> bytes:
    """Read an open file from its start to its end, whatever its size."""
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", path)
    if status.st_size > MAX_BYTES:
        raise too_large(path, status.st_size)
    return io.FileIO(handle, closefd=False).readall()
