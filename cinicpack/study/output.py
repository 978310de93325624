"""A file that a command writes: whole, or not at all."""

import os
from pathlib import Path

from cinicpack.errors import ArgumentError, DestinationError
from cinicpack.store.publish import publishing
from cinicpack.store.replacing import check_place

__all__ = ["check_file", "require_suffix", "write_file", "write_text"]


def require_suffix(path: str | os.PathLike[str], *suffixes: str) -> str:
    """Return the suffix of ``path``, lower case, if it is one of ``suffixes``.

    Raises `ArgumentError` for any other: a mistaken ``-o cinic10.pack`` must not replace a pack.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in suffixes:
        raise ArgumentError(f"{path}: expected a file name that ends in {' or '.join(suffixes)}")
    return suffix


def check_file(path: str | os.PathLike[str], *suffixes: str) -> None:
    """Find out before the work whether a file can be written: its suffix, its folder, its place.

    Raises `ArgumentError` for another suffix, and `DestinationError` for what `write_file` refuses.
    """
    require_suffix(path, *suffixes)
    _check_place(Path(path))


def write_file(path: str | os.PathLike[str], content: bytes) -> None:
    """Write ``path``, replacing the file that is there when everything is written.

    Raises `DestinationError` for a directory, a device or a pipe, and where nothing can be written.
    """
    path = Path(path)
    _check_place(path)
    with publishing(path, overwrite=True) as new:
        new.write_bytes(content)


def _check_place(path: Path) -> None:
    if path.exists() and not path.is_file():
        kind = "a directory" if path.is_dir() else "a device, a pipe or a socket"
        raise DestinationError(f"{path}: expected a file to write, found {kind}")
    real = Path(os.path.realpath(path))
    check_place(real)
    if not os.access(real.parent, os.W_OK):
        raise DestinationError(
            f"{path}: expected a folder to write in, found one without the right"
        )


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text as `write_file` does, in UTF-8.

    Names of files in the text that are not UTF-8 become the bytes that they were.
    """
    write_file(path, text.encode("utf-8", "surrogateescape"))
