"""Stamps: size and time of change of a pack's files, which tell whether they were written to."""

import os
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from cinicpack.errors import PackError

__all__ = ["Stamp", "check_stamps", "take_stamps"]


class Stamp(NamedTuple):
    """A file as it was when its pack was opened; ``inode`` is its device and inode number."""

    file: Path
    inode: tuple[int, int]
    nbytes: int
    changed_ns: int


def take_stamps(files: Iterable[Path]) -> list[Stamp]:
    """Take a stamp of every file, each once."""
    return [_take(file.absolute()) for file in dict.fromkeys(files)]


def check_stamps(stamps: Iterable[Stamp]) -> None:
    """Raise `PackError` if a file was written to, be it cut off, since its stamp was taken.

    A file that is gone, or another file in its place, is no change of the one that was opened.
    """
    for stamp in stamps:
        try:
            found = _take(stamp.file)
        except OSError:
            continue
        if found.inode == stamp.inode and found != stamp:
            raise PackError(
                f"{stamp.file}: expected {_describe(stamp)}, found {_describe(found)}: it was "
                "written to while it was open, which nothing may do to a pack; restore it or pack "
                "again, and open it anew (open_pack(..., in_memory=True) reads all of it once)"
            )


def _take(file: Path) -> Stamp:
    status = os.stat(file)
    return Stamp(file, (status.st_dev, status.st_ino), status.st_size, status.st_mtime_ns)


def _describe(stamp: Stamp) -> str:
    changed = datetime.fromtimestamp(stamp.changed_ns / 1e9).isoformat(" ", "microseconds")
    return f"{stamp.nbytes} bytes last changed at {changed}"
