"""Damage: files that are cut off, changed or replaced by what is no file."""

import os
import random
import shutil
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

__all__ = ["NOWHERE", "REPLACEMENTS", "flip", "list_cuts", "list_files", "pick_places"]

#: Where a link leads that leads to nothing.
NOWHERE: Final = "nowhere"
#: More than any file of a pack has, and no disk gives it room.
_HUGE: Final = 1 << 40

_Change = Callable[[Path], None]


def flip(file: Path, place: int) -> None:
    """Change one bit of a byte, which bit depends on the place."""
    with open(file, "r+b") as stream:
        stream.seek(place)
        [byte] = stream.read(1)
        stream.seek(place)
        stream.write(bytes([byte ^ 1 << random.Random(place).randrange(8)]))


def pick_places(size: int, count: int) -> list[int]:
    """Pick that many places of a file, all of them if it is short, both ends among them."""
    if size <= count:
        return [*range(size)]
    ends = count // 8
    middle = random.Random(size).sample(range(ends, size - ends), count - 2 * ends)
    return [*range(ends), *sorted(middle), *range(size - ends, size)]


def list_cuts(size: int, count: int) -> list[int]:
    """List lengths that a file of this size may be cut to, or extended to."""
    return sorted({0, 1, size // 2, size - 1, size + 1, *pick_places(size, count)} - {size, -1})


def _replace(file: Path, make: _Change) -> None:
    if file.is_dir() and not file.is_symlink():
        shutil.rmtree(file)
    else:
        file.unlink()
    make(file)


def _make_socket(file: Path) -> None:
    # The path of a socket may have 107 bytes only.
    here = os.getcwd()
    os.chdir(file.parent)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(file.name)
    finally:
        os.chdir(here)


def _make_hole(file: Path) -> None:
    file.touch()
    os.truncate(file, _HUGE)


#: What takes the place of a file or a folder, by what tables call it.
REPLACEMENTS: Final[dict[str, _Change]] = {
    "removed": partial(_replace, make=lambda _: None),
    "an empty file": partial(_replace, make=Path.touch),
    "an empty folder": partial(_replace, make=Path.mkdir),
    "a pipe": partial(_replace, make=os.mkfifo),
    "a socket": partial(_replace, make=_make_socket),
    "a link to itself": partial(_replace, make=lambda file: file.symlink_to(file.name)),
    "a link to nothing": partial(_replace, make=lambda file: file.symlink_to(NOWHERE)),
    "a link to /dev/zero": partial(_replace, make=lambda file: file.symlink_to("/dev/zero")),
    "a link to /dev/null": partial(_replace, make=lambda file: file.symlink_to("/dev/null")),
    "a hole of a terabyte": partial(_replace, make=_make_hole),
}


def list_files(path: Path) -> Iterator[Path]:
    """Iterate over the files of a pack or source, and its folders below the first."""
    yield from sorted(path.rglob("*")) if path.is_dir() else [path]
