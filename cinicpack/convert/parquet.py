"""Parquet files as a source: a hub's repository, or files of splits and their shards."""

import errno
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Final

from cinicpack.convert.decode import is_image
from cinicpack.convert.files import (
    MAX_BYTES,
    Content,
    Read,
    Remarks,
    explain_unreadable,
    row_name,
    too_large,
)
from cinicpack.convert.layout import check_declared, rank_split
from cinicpack.errors import ArgumentError, SourceError
from cinicpack.formats.parquet import MAGIC, Table, find_columns, read_rows
from cinicpack.store.format import is_folder_name
from cinicpack.text import some

__all__ = ["Parquet", "join", "recognise"]

_SUFFIX: Final = ".parquet"
_SHARD: Final = re.compile(r"(.+)-([0-9]{5,})-of-([0-9]{5,})")
_SPLITS: Final = {"validation": "valid"}
# So many entries of a folder tell what it has: to list a tree of images would take long.
_SEEN: Final = 64


def recognise(path: Path, start: bytes) -> "Parquet | None":
    """Take a parquet file, or a folder with such files as a hub's repository has them."""
    if path.is_dir():
        files = _list_files(path)
        return Parquet(path, files) if files else None
    return Parquet(path, [path]) if start.startswith(MAGIC) else None


def join(sources: Sequence["Parquet"]) -> "Parquet":
    """Make one source of several."""
    files = [file for source in sources for file in source.files]
    return Parquet(Path(some([source.path for source in sources])), files)


def _list_files(root: Path) -> list[Path]:
    """List the parquet files in a folder and two levels below; none if it is a tree of images."""
    files: list[Path] = []
    folders = [root]
    for _ in range(3):
        inner: list[Path] = []
        for folder in folders:
            # A folder that cannot be read is for the tree to explain.
            with suppress(OSError), os.scandir(folder) as entries:
                seen = [entry for entry in islice(entries, _SEEN) if entry.name[0] != "."]
                if any(is_image(entry.name) for entry in seen):
                    return []
                if any(entry.name.endswith(_SUFFIX) for entry in seen):
                    files += sorted(folder.glob(f"[!.]*{_SUFFIX}"))
                inner += [folder / entry.name for entry in seen if entry.is_dir()]
        folders = inner
    return files


class Parquet:
    """Parquet files, a `Source` that is a stream of the files of images in their rows.

    A file is of the split that it is named after (``train-00000-of-00001.parquet``,
    ``test.parquet``), or its folder (``train/0000.parquet``); validation is called valid. Images
    are named by the last part of their path; without one, by their row in the split,
    ``00000000.png``. Classes are those that the metadata declare.

    Listing and streaming raise `SourceError`, which names the file and the row, where a file is
    damaged, missing or something else, and for labels of no class. Where a row has no bytes, the
    content is an ``OSError``.

    Args:
        path: what messages name.
        files: those to read.
        columns: names of the columns of images and of labels; None: as
            `formats.parquet.find_columns` finds them.
    """

    keeps_order = False
    read: Read | None = None

    def __init__(
        self, path: Path, files: Sequence[Path], columns: Sequence[str] | None = None
    ) -> None:
        self.path = path
        self.files = files
        self.fraction = 0.0
        self._columns = columns

    def choose_columns(self, columns: Sequence[str]) -> "Parquet":
        """Return the same source with other columns of images and of labels."""
        names = [columns] if isinstance(columns, str) else list(columns)
        if len(names) != 2:
            raise ArgumentError(f"expected two columns, of images and of labels, found {names}")
        return Parquet(self.path, self.files, names)

    @property
    def remarks(self) -> Remarks:
        """The splits, of which one may have no rows."""
        return Remarks(folders=frozenset(self._splits))

    @cached_property
    def classes(self) -> tuple[str, ...] | None:
        """Class names in the order of their labels."""
        first, *others = (table for tables in self._splits.values() for table in tables)
        check_declared(first.classes, first.path, "the names of the labels")
        for other in others:
            if other.classes != first.classes:
                raise SourceError(
                    f"{other.path}: expected the classes of {first.path}, "
                    f"{some(first.classes)}, found {some(other.classes)}; pack them by themselves"
                )
        return first.classes

    def is_small(self, images: int, nbytes: int) -> bool:  # noqa: ARG002  as of an archive
        """Tell whether the files have fewer than so many bytes."""
        return sum(file.stat().st_size for file in self.files) < nbytes

    def paths(self) -> Iterator[str]:
        """List the images in the order of the stream, without reading the bytes of any."""
        return (path for path, _ in self._read(contents=False))

    list_paths = paths

    def stream(self) -> Iterator[tuple[str, Content]]:
        """Give every image with the bytes of its file, split after split."""
        return self._read(contents=True)

    def _read(self, *, contents: bool) -> Iterator[tuple[str, Content]]:
        assert self.classes is not None
        total = sum(table.rows for tables in self._splits.values() for table in tables)
        given = 0
        for split, tables in self._splits.items():
            before = 0
            for table in tables:
                row = 0
                with _explaining(table.path):
                    for rows in read_rows(table, contents=contents):
                        given += len(rows)
                        self.fraction = given / total
                        for label, path, content in rows:
                            name = _name(path, before + row, table, row)
                            checked: Content = b""
                            if contents:
                                checked = _check_content(content, path, table, row)
                            yield f"{split}/{self.classes[label]}/{name}", checked
                            row += 1
                before += table.rows

    @cached_property
    def _splits(self) -> dict[str, list[Table]]:
        """The files of every split, in the order that a pack has, and of their numbers."""
        splits: dict[str, list[Table]] = {}
        for split, files in _sort_files(self.files).items():
            for file in files:
                with _explaining(file):
                    splits.setdefault(split, []).append(find_columns(file, self._columns))
        return splits


def _sort_files(files: Iterable[Path]) -> dict[str, list[Path]]:
    """Sort files into splits, and those of a split by number; raise if some are not there."""
    splits: dict[str, list[tuple[int, int, Path]]] = {}
    for file in files:
        stem, number, count = file.stem, 0, 1
        if match := _SHARD.fullmatch(stem):
            stem, number, count = match[1], int(match[2]), int(match[3])
        elif stem.isdecimal():
            # A hub's own conversion: shards of the split that the folder is named after.
            stem, number, count = file.absolute().parent.name, int(stem), 0
        splits.setdefault(_SPLITS.get(stem, stem), []).append((number, count, file))
    for split, shards in splits.items():
        shards.sort()
        numbers, counts, paths = zip(*shards, strict=True)
        if len({*counts}) > 1 or [*numbers] != [*range(counts[0] or len(shards))]:
            raise SourceError(
                f"expected one file of split {split!r}, or all of its shards, found {some(paths)}; "
                "fetch those that are missing, or name the files or the folder to pack"
            )
    return {
        split: [path for _, _, path in splits[split]] for split in sorted(splits, key=rank_split)
    }


@contextmanager
def _explaining(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, MemoryError) as error:
        raise explain_unreadable(str(path), error) from error


def _name(path: str | None, number: int, table: Table, row: int) -> str:
    """Name an image by its path, or by its number in the split."""
    name = (path or "").rpartition("/")[2] or row_name(number)
    if not is_folder_name(name):
        raise SourceError(
            f"{table.path}: expected a path that ends in the name of a file, found {path!r} in row "
            f"{row}; correct it"
        )
    return name


def _check_content(content: bytes | None, path: str | None, table: Table, row: int) -> Content:
    if content is None:
        found = f"only the path {path!r}; embed the images" if path else "none"
        reason = f"expected bytes in row {row} of {table.path.name}, found {found}"
        return OSError(errno.ENODATA, reason, path)
    if len(content) > MAX_BYTES:
        return too_large(path or "", len(content))
    return content
