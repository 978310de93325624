"""Compressed files: what reads each compression, which is told by how the file starts."""

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pkgutil import resolve_name
from typing import Final, NamedTuple, Protocol, TypeAlias

__all__ = ["Decompress", "Readable", "find_decompression"]


class Readable(Protocol):
    """What a stream of bytes is read from."""

    def read(self, size: int, /) -> bytes:
        """Read at most so many bytes; at the end none."""


#: Opens what a file has compressed. Reading raises EOFError or OSError where that is damaged.
Decompress: TypeAlias = Callable[[io.FileIO], AbstractContextManager[Readable]]


class _Compression(NamedTuple):
    """One compression.

    Attributes:
        starts: how its files start.
        opens: the name of the function that opens one to read it.
        error: that of what is raised for damage, besides EOFError and OSError.
        remedy: what to do where these are not there.
    """

    starts: tuple[bytes, ...]
    opens: str
    error: str
    remedy: str


_BUILT_WITHOUT: Final = "this Python was built without it; decompress the file first"
_ZSTD: Final = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
_COMPRESSIONS: Final = (
    # zlib-ng inflates a stream in 0.6 of zlib's time.
    _Compression(
        (b"\x1f\x8b",), "zlib_ng.gzip_ng:open", "zlib_ng.zlib_ng:error", "pip install zlib-ng"
    ),
    _Compression((b"BZh",), "bz2:open", "builtins:EOFError", _BUILT_WITHOUT),
    _Compression((b"\xfd7zXZ\0",), "lzma:open", "lzma:LZMAError", _BUILT_WITHOUT),
    _Compression(
        # Parallel compressors begin with a frame to be skipped, of one of sixteen kinds.
        (b"\x28\xb5\x2f\xfd", *(bytes((kind, 0x2A, 0x4D, 0x18)) for kind in range(0x50, 0x60))),
        f"{_ZSTD}:open",
        f"{_ZSTD}:ZstdError",
        "pip install 'cinicpack[zstd]', or decompress the file first",
    ),
)


def find_decompression(start: bytes) -> Decompress | None:
    """Find what decompresses a file that starts so; None if it is not compressed.

    Raises ``ImportError``, which says what to do, if the module for that is not there.
    """
    for starts, opens, error, remedy in _COMPRESSIONS:
        if start.startswith(starts):
            try:
                return partial(_open, resolve_name(opens), resolve_name(error))
            except ImportError as missing:
                raise ImportError(
                    f"expected {opens.partition(':')[0]}, which reads this compression, found "
                    f"{missing}; {remedy}"
                ) from missing
    return None


@contextmanager
def _open(
    opens: Callable[[io.FileIO], AbstractContextManager[Readable]],
    damage: type[Exception],
    file: io.FileIO,
) -> Iterator[Readable]:
    try:
        with opens(file) as stream:
            yield stream
    except damage as error:
        raise EOFError(str(error)) from error
