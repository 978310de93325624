"""Kinds of files that are downloaded: how one starts, and how much of a damaged one is right."""

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from cinicpack.formats import tar
from cinicpack.formats.png import BadImageError, read_chunks

__all__ = ["PARQUET", "START_BYTES", "TAR_GZ", "Kind"]

#: How many bytes of a file tell what it is.
START_BYTES: Final = 4096

_GZIP: Final = b"\x1f\x8b\x08"
_TAR_BLOCK: Final = 512
_PARQUET: Final = b"PAR1"
# How much of a damaged archive is read at a time, so that little of what is right is lost.
_PIECE: Final = 16 << 10
_MAX_MEMBER: Final = 64 << 20


class Kind(NamedTuple):
    """What can be said of a file without its digest.

    Attributes:
        name: what messages call it.
        can_begin: tells whether a file of this kind can begin with some bytes, few or many.
        count_sound: says how many of the first bytes of a damaged file are known to be right.
    """

    name: str
    can_begin: Callable[[bytes], bool]
    count_sound: Callable[[Path], int]


def _can_begin_archive(start: bytes) -> bool:
    # A web page may come compressed, so what is compressed has to be the start of a tar.
    if start[:3] != _GZIP[: len(start)]:
        return False
    try:
        header = zlib.decompressobj(31).decompress(start, _TAR_BLOCK)
    except zlib.error:
        return False
    return len(header) < _TAR_BLOCK or tar.is_tar(header)


def _count_sound_images(path: Path) -> int:
    """Count the bytes before the first image of a tar.gz whose checksums do not hold.

    Every chunk of a PNG file has a checksum, so what comes before a damaged image is right. Of an
    archive of other files nothing is known.
    """
    sound = 0
    with open(path, "rb") as file:
        archive = _Inflated(file)
        try:
            for name, _, data in tar.read_members(archive, _MAX_MEMBER):
                if data and name.endswith(".png"):
                    read_chunks(data)
                    sound = archive.sound
        except (ValueError, EOFError, zlib.error, BadImageError):
            pass
    return sound


class _Inflated:
    """A gzip file as a stream of what is in it.

    Attributes:
        sound: how many bytes of the file are right, if all that was read before the last piece is.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._stream = zlib.decompressobj(31)
        self._rest = b""
        # Where in the file the last pieces ended.
        self._ends = [0, 0, 0]

    @property
    def sound(self) -> int:
        """See the class."""
        # The bits at the end of a piece may not have become bytes yet, so one piece more is left.
        return self._ends[0]

    def read(self, size: int, /) -> bytes:
        """Read at most so many bytes, and none at the end."""
        piece = b""
        while not piece and not self._stream.eof:
            self._rest = self._rest or self._file.read(_PIECE)
            if not self._rest:
                break
            piece = self._stream.decompress(self._rest, size)
            self._rest = self._stream.unconsumed_tail
            self._ends = [*self._ends[1:], self._file.tell() - len(self._rest)]
        return piece


TAR_GZ: Final = Kind("an archive", _can_begin_archive, _count_sound_images)
PARQUET: Final = Kind(
    "a parquet file",
    lambda start: start[:4] == _PARQUET[: len(start)],
    lambda _: 0,
)
