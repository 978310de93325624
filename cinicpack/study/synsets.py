"""The authors' list of the WordNet synsets that make up each class."""

import os
import re
from pathlib import Path
from typing import Final, NamedTuple

from cinicpack.errors import SourceError
from cinicpack.paths import naming_file

__all__ = ["Synset", "format_synset", "read_synsets"]

_LINE: Final = re.compile(r"(-+)n([0-9]{8}): *(.*)")


class Synset(NamedTuple):
    """One place in the tree of a class; a few synsets have more than one.

    Attributes:
        number: WordNet's: ``n02691156`` is 2691156.
        words: its words, as in the list: ``"airplane, aeroplane, plane"``.
        path: numbers from the class's topmost synset down to this one, which is the last.
    """

    number: int
    words: str
    path: tuple[int, ...]


def read_synsets(path: str | os.PathLike[str]) -> dict[str, list[Synset]]:
    r"""Read a list as the authors' ``synsets-to-cifar-10-classes.txt`` in BayesWatch/cinic-10.

    A line without dashes names a class. The lines after it are its synsets, each below the last
    one before it that has fewer dashes.

    Returns:
        For every class its synsets, both in the order of the list.

    Raises:
        SourceError: a line is neither, or a class is there twice or has no synsets.

    >>> from pathlib import Path
    >>> count = Path("list.txt").write_text("ship\n----n02858304: boat\n--------n02737351: ark\n")
    >>> read_synsets("list.txt")["ship"][1]
    Synset(number=2737351, words='ark', path=(2858304, 2737351))
    """
    classes: dict[str, list[Synset]] = {}
    above: list[tuple[int, int]] = []
    synsets: list[Synset] | None = None
    try:
        with naming_file(path):
            lines = Path(path).read_text("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: expected a list of synsets as text, found {error}") from None
    for row, line in enumerate(map(str.rstrip, lines), 1):
        if not line:
            continue
        match = _LINE.fullmatch(line)
        if line.startswith("-"):
            if match is None or synsets is None:
                raise SourceError(
                    f"{path}:{row}: expected the name of a class or, after one, a line "
                    f"'----n01503061: bird', found {line!r}"
                )
            indent, number = len(match[1]), int(match[2])
            while above and above[-1][0] >= indent:
                above.pop()
            above.append((indent, number))
            synsets.append(Synset(number, match[3], tuple(number for _, number in above)))
        elif line in classes:
            raise SourceError(f"{path}:{row}: expected every class once, found {line!r} again")
        else:
            synsets = classes[line] = []
            above = []
    for name, listed in classes.items():
        if not listed:
            raise SourceError(f"{path}: expected synsets of every class, found none of {name!r}")
    if not classes:
        raise SourceError(f"{path}: expected a list of synsets, found no class in it")
    return classes


def format_synset(number: int) -> str:
    """Write a synset's number as WordNet does.

    >>> format_synset(2691156)
    'n02691156'
    """
    return f"n{number:08d}"
