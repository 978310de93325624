"""Paths of images: millions of them, in little more memory than the characters of their names."""

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

__all__ = ["Paths", "file_names"]

# So many paths are texts of Python at a time, where all of them are looked at.
_BLOCK: Final = 4096

Places: TypeAlias = slice | NDArray[np.int64]


class Paths(Sequence[str]):
    """Paths FOLDER/NAME in a given order, as texts whenever they are asked for.

    A path takes the bytes of the longest name and 4 more; as a text it would take 100.

    >>> paths = Paths(["train/cat/b.png", "train/cat/a.png"])
    >>> paths[1], paths[:1]
    ('train/cat/a.png', ['train/cat/b.png'])
    """

    def __init__(self, paths: Iterable[str] = ()) -> None:
        self._numbers: dict[str, int] = {}
        # Of every path the number of its folder, and its name, each name in as many bytes. Arrays
        # of Python grow where they are, and cannot grow as long as NumPy has a view of them.
        self._folders = array("i")
        self._names = bytearray()
        self._width = 1
        self.extend(paths)

    def extend(self, paths: Iterable[str]) -> None:
        """Add paths at the end."""
        paths = iter(paths)
        while block := list(islice(paths, _BLOCK)):
            names = np.array(file_names(block))
            if names.itemsize > self._width:
                self._names = bytearray(self._encoded().astype(names.dtype).data)
                self._width = names.itemsize
            self._names += names.astype(f"S{self._width}").data
            numbers = self._numbers
            self._folders.extend(
                [numbers.setdefault(path.rpartition("/")[0], len(numbers)) for path in block]
            )

    def __len__(self) -> int:
        return len(self._folders)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            return self.take(place)
        place = range(len(self))[place]
        return self.take(slice(place, place + 1))[0]

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _BLOCK):
            yield from self[start : start + _BLOCK]

    def take(self, places: Places) -> list[str]:
        """Return the paths at some places."""
        folders = [folder and f"{folder}/" for folder in self._numbers]
        numbers = np.frombuffer(self._folders, np.int32)[places].tolist()
        names = self.names(places)
        return [folders[number] + name for number, name in zip(numbers, names, strict=True)]

    def names(self, places: Places) -> list[str]:
        """Return the names of the files at some places."""
        names = self.encoded(places).tolist()
        return os.fsdecode(b"/".join(names)).split("/") if names else []

    def encoded(self, places: Places) -> NDArray[np.bytes_]:
        """Return these names as the file system has them, (n,) bytes."""
        return self._encoded()[places]

    def measure_names(self, places: NDArray[np.int64]) -> int:
        """Return how many bytes the longest of these names has."""
        blocks = range(0, len(places), _BLOCK)
        return max(int(np.char.str_len(self.encoded(places[n : n + _BLOCK])).max()) for n in blocks)

    def in_folders(self) -> dict[str, NDArray[np.int64]]:
        """Return the places of all paths, ascending, by the folders that they are in."""
        numbers = np.frombuffer(self._folders, np.int32)
        order = np.argsort(numbers, kind="stable")
        ends = np.cumsum(np.bincount(numbers, minlength=len(self._numbers)))
        return dict(zip(self._numbers, np.split(order, ends[:-1]), strict=True))

    def in_order(self, order: NDArray[np.int64]) -> "Paths":
        """Return the paths at some places, in that order."""
        paths = Paths()
        paths._numbers = dict(self._numbers)
        paths._folders = array("i", np.frombuffer(self._folders, np.int32)[order].tobytes())
        paths._names = bytearray(self.encoded(order).data)
        paths._width = self._width
        return paths

    def _encoded(self) -> NDArray[np.bytes_]:
        return np.frombuffer(self._names, f"S{self._width}")


def file_names(paths: Sequence[str]) -> list[bytes]:
    """Return the names of files, without folders, as the file system has them."""
    # No name has a slash, so all can be encoded together, three times as fast as one by one.
    joined = os.fsencode("/".join([path.rpartition("/")[2] for path in paths]))
    return joined.split(b"/") if paths else []
