"""Paths that lead nowhere: why that may be."""

import os
from pathlib import Path

__all__ = ["why_missing"]


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
