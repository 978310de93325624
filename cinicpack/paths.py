"""Paths that lead nowhere, why that may be, and paths of files that cannot be read."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["naming_file", "why_missing"]


def why_missing(path: str | os.PathLike[str]) -> str:
    """Say why nothing may be at a path, or "" where there is no more to say.

    >>> why_missing("~/cinic10.pack")
    "'~' does not stand for the home folder here: write that out, as os.path.expanduser does"
    """
    for part in (Path(path), *Path(path).parents):
        if part.is_symlink() and not part.exists():
            return f"{part} is a symbolic link to {os.readlink(part)!r}, where nothing is"
    if os.fspath(path).startswith("~"):
        return (
            "'~' does not stand for the home folder here: write that out, as os.path.expanduser "
            "does"
        )
    return ""


@contextmanager
def naming_file(path: str | os.PathLike[str]) -> Iterator[None]:
    """Name a file in errors of reading it, which name none: the calls are given a descriptor.

    >>> with naming_file("list.txt"):
    ...     raise OSError(5, "Input/output error")
    Traceback (most recent call last):
    OSError: [Errno 5] Input/output error: 'list.txt'
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error
