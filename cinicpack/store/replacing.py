"""Replacing: one path takes the place of another by renaming, where that is possible."""

import ctypes
import errno
import os
import sys
from pathlib import Path
from typing import Final

from cinicpack.errors import DestinationError
from cinicpack.paths import why_missing

__all__ = ["check_place", "check_replaceable", "replace"]

_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2


def check_place(destination: Path) -> None:
    """Raise `DestinationError` where nothing can appear by a rename."""
    if not destination.name:
        raise DestinationError(f"{destination}: expected the name of a new pack, found a root")
    if not destination.parent.is_dir():
        # The destination is a real path; what was given, if it began with "~", is a part of that.
        why = why_missing(os.path.relpath(destination.parent)) or "create it first"
        raise DestinationError(
            f"{destination}: the folder {destination.parent} does not exist; {why}"
        )
    if _is_mounted(destination):
        raise DestinationError(
            f"{destination}: expected what a rename can replace, found a mount point; choose a "
            "name within it"
        )


def _is_mounted(path: Path) -> bool:
    """Tell whether a path is a mount point, which may be a file, or of its folder's file system."""
    if os.path.ismount(path):
        return True
    try:
        return _mount_of(path) != _mount_of(path.parent)
    except OSError:
        # Nothing is there, or the system says nothing about it.
        return False


def _mount_of(path: Path) -> str:
    """Return the line of Linux that says by its number in which mount a path lies."""
    descriptor = os.open(path, getattr(os, "O_PATH", os.O_RDONLY) | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        lines = Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines()
    finally:
        os.close(descriptor)
    return next((line for line in lines if line.startswith("mnt_id:")), "")


def check_replaceable(destination: Path, full: Path) -> None:
    """Raise `DestinationError` if there is a directory that cannot be renamed.

    A directory cannot be renamed onto another that is ``full``, and the error of trying to tells
    whether it can be renamed at all.
    """
    if not destination.is_dir() or not os.listdir(destination):
        return
    try:
        os.rename(destination, full)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return
        reason = error.strerror
        if error.errno == errno.EXDEV:
            reason = "it is part of a container's image, of which directories cannot be renamed"
        raise DestinationError(
            error.errno,
            f"{destination}: cannot be replaced: {reason}; remove it yourself, or choose another "
            "name",
        ) from None


def replace(new: Path, destination: Path, *, overwrite: bool, aside: Path) -> None:
    """Move ``new`` to ``destination``; what was there is at ``new`` then, or moved ``aside``."""
    try:
        # A rename replaces a file or an empty directory, but no other directory.
        os.rename(new, destination)
        return
    except OSError as error:
        in_the_way = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.EISDIR)
        if not overwrite or error.errno not in in_the_way:
            raise
    if not _exchange(new, destination):
        os.rename(destination, aside)
        os.rename(new, destination)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two paths atomically; False where the system or the file system has no such call."""
    if not sys.platform.startswith("linux"):
        return False
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE):
        code = ctypes.get_errno()
        if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            return False
        raise OSError(code, os.strerror(code), str(first), None, str(second))
    return True
