"""Parquet files as a source: columns of images and labels, as hubs and `datasets` write them."""

import errno
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

from cinicpack.convert.decode import is_image
from cinicpack.convert.files import (
    MAX_BYTES,
    Content,
    Read,
    Remarks,
    explain_unreadable,
    too_large,
)
from cinicpack.errors import ArgumentError, CinicPackError, SourceError
from cinicpack.shortage import is_shortage
from cinicpack.store.format import is_folder_name
from cinicpack.text import some

__all__ = ["Parquet", "join", "recognise"]

_MAGIC: Final = b"PAR1"
_SUFFIX: Final = ".parquet"
# So many entries of a folder tell what it has: to list a tree of images would take long.
_SEEN: Final = 64
_SHARD: Final = re.compile(r"(.+)-([0-9]{5,})-of-([0-9]{5,})")
_SPLITS: Final = {"validation": "valid"}
# What the columns are usually called, in CIFAR-10's and CIFAR-100's files too.
_IMAGES: Final = ("image", "img")
_LABELS: Final = ("label", "fine_label")
_BYTES: Final = ("binary", "large_binary", "binary_view")
_TEXT: Final = ("string", "large_string", "string_view", "null")
_HOW_TO_NAME: Final = "name the two with --columns IMAGE,LABEL (columns=...)"
# So many rows are decoded at a time, or so few that they have about so many bytes.
_BATCH_ROWS: Final = 256
_BATCH_BYTES: Final = 4 << 20
# A column is read in pieces of so many bytes, since a file may be a single row group.
_BUFFER_BYTES: Final = 1 << 20


def recognise(path: Path, start: bytes) -> "Parquet | None":
    """Take a parquet file, or a folder with such files as a hub's repository has them."""
    if path.is_dir():
        files = _list_files(path)
        return Parquet(path, files) if files else None
    return Parquet(path, [path]) if start.startswith(_MAGIC) else None


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

    A file is of the split that its name begins with (``train-00000-of-00001.parquet``,
    ``test.parquet``), or that its folder is named after (``train/0000.parquet``); validation is
    called valid. Images are structs of bytes and path, and are named by the last part of the path;
    without one, by their row in the split, ``00000000.png``. Classes are those that the metadata of
    `datasets` declare (ClassLabel).

    Listing and streaming raise `SourceError`, which names the file and the row, where a file is
    damaged or not there, or has no such columns, and for labels of no class. Where a row has no
    bytes, the content is an ``OSError``.

    Args:
        path: what messages name.
        files: those to read.
        columns: names of the columns of images and of labels; None: "image" or "img", and "label"
            or "fine_label", or what else is the only one of its kind.
    """

    keeps_order = False
    read: Read | None = None
    remarks = Remarks()

    def __init__(
        self, path: Path, files: Sequence[Path], columns: Sequence[str] | None = None
    ) -> None:
        self.path = path
        self.fraction = 0.0
        self.files = files
        self._columns = columns

    def choose_columns(self, columns: Sequence[str]) -> "Parquet":
        """Return the same source with other columns of images and of labels."""
        names = [columns] if isinstance(columns, str) else list(columns)
        if len(names) != 2:
            raise ArgumentError(f"expected two columns, of images and of labels, found {names}")
        return Parquet(self.path, self.files, names)

    @cached_property
    def classes(self) -> tuple[str, ...] | None:
        """Class names in the order of their labels."""
        first, *others = (part for parts in self._parts.values() for part in parts)
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

    def paths(self) -> list[str]:
        """List the images in the order of the files, which reads all of them."""
        return [path for path, _ in self.stream()]

    def stream(self) -> Iterator[tuple[str, Content]]:
        """Give every image with the bytes of its file, split after split."""
        assert self.classes is not None
        total = sum(part.rows for parts in self._parts.values() for part in parts)
        given = 0
        for split, parts in self._parts.items():
            first = 0
            for part in parts:
                for images in _read_rows(part, first):
                    given += len(images)
                    self.fraction = given / total
                    for label, name, content in images:
                        yield f"{split}/{self.classes[label]}/{name}", content
                first += part.rows

    @cached_property
    def _parts(self) -> dict[str, list["_Part"]]:
        splits = _sort_files(self.files)
        return {
            split: [_open_part(file, self._columns) for file in files]
            for split, files in splits.items()
        }


class _Part(NamedTuple):
    """A file, and what its footer says.

    Attributes:
        path: of the file.
        image: name of the column of images.
        label: name of the column of labels.
        classes: names in the order of their labels.
        rows: number of rows.
    """

    path: Path
    image: str
    label: str
    classes: tuple[str, ...]
    rows: int


def _sort_files(files: Iterable[Path]) -> dict[str, list[Path]]:
    """Sort files into splits, and those of a split by number; raise if some are not there."""
    splits: dict[str, dict[Path, tuple[int, int]]] = {}
    for file in files:
        stem, number, count = file.stem, 0, 1
        if match := _SHARD.fullmatch(stem):
            stem, number, count = match[1], int(match[2]), int(match[3])
        elif stem.isdecimal():
            # A hub's own conversion: shards of the split that the folder is named after.
            stem, number, count = file.absolute().parent.name, int(stem), 0
        splits.setdefault(_SPLITS.get(stem, stem), {})[file] = (number, count)
    for split, shards in splits.items():
        numbers, counts = zip(*sorted(shards.values()), strict=True)
        if len(set(counts)) > 1 or [*numbers] != [*range(counts[0] or len(shards))]:
            raise SourceError(
                f"expected one file of split {split!r}, or all of its shards, found "
                f"{some(sorted(shards))}; fetch those that are missing, or name the files or the "
                "folder to pack"
            )
    return {split: sorted(shards, key=shards.__getitem__) for split, shards in splits.items()}


@contextmanager
def _opening(path: Path) -> Iterator[Any]:
    """Open a parquet file, and say of errors of reading it what they mean."""
    try:
        from pyarrow.lib import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise CinicPackError(
            f"{path}: expected pyarrow, which reads parquet, found {error}; install it with "
            "pip install 'cinicpack[parquet]'"
        ) from None
    try:
        with ParquetFile(
            path,
            buffer_size=_BUFFER_BYTES,
            pre_buffer=False,
            page_checksum_verification=True,
        ) as file:
            yield file
    except SourceError:
        raise
    except (ArrowException, OSError, MemoryError, ValueError, KeyError, RecursionError) as error:
        if is_shortage(error):
            raise explain_unreadable(str(path), error) from error
        raise SourceError(
            f"{path}: expected a whole parquet file, found it damaged or cut off ({error}); fetch "
            "or make it again"
        ) from error


def _open_part(path: Path, columns: Sequence[str] | None) -> _Part:
    """Find the columns of a file, and the names of its classes."""
    with _opening(path) as file:
        schema = file.schema_arrow
        names = _read_classes(schema.metadata or {})
        found = some([f"{field.name} ({field.type})" for field in schema], 20)
        image, label = columns or (None, None)
        image = _choose([f.name for f in schema if _holds_images(f.type)], _IMAGES, image)
        if image is None:
            raise SourceError(
                f"{path}: expected a column of images, each a struct of bytes and path, found "
                f"{found}; {_HOW_TO_NAME}"
            )
        label = _choose([f.name for f in schema if f.name in names], _LABELS, label)
        if label is None:
            raise SourceError(
                f"{path}: expected a column of labels whose names the metadata of `datasets` have "
                f"(ClassLabel), found names for {some([*names]) or 'none'} of {found}; "
                f"{_HOW_TO_NAME}, or write the file with such labels"
            )
        return _Part(path, image, label, _check_classes(path, names[label]), file.metadata.num_rows)


def _choose(found: Sequence[str], usual: Sequence[str], wanted: str | None) -> str | None:
    """Choose a column: the wanted one, else one that is called as usual, else the only one."""
    if wanted is not None:
        return wanted if wanted in found else None
    called = [name for name in usual if name in found]
    return called[0] if called else found[0] if len(found) == 1 else None


def _holds_images(kind: Any) -> bool:
    types = {field.name: str(field.type) for field in kind} if kind.num_fields else {}
    return types.get("bytes") in _BYTES and types.get("path", "null") in _TEXT


def _read_classes(metadata: Mapping[bytes, bytes]) -> dict[str, Any]:
    """Read the names of classes, by the column that has their labels."""
    said = json.loads(metadata.get(b"huggingface", b"{}"))
    for key in ("info", "features"):
        said = said.get(key) if isinstance(said, dict) else None
    features = said if isinstance(said, dict) else {}
    return {
        name: feature.get("names")
        for name, feature in features.items()
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
    }


def _check_classes(path: Path, names: Any) -> tuple[str, ...]:
    listed = names if isinstance(names, list) else [names]
    for number, name in enumerate(listed):
        if not isinstance(name, str) or not is_folder_name(name) or name in listed[:number]:
            raise SourceError(
                f"{path}: expected a name for every class, each another one and as a folder can "
                f"have it, found {name!r}; correct the names of the labels"
            )
    return tuple(listed)


def _read_rows(part: _Part, first: int) -> Iterator[list[tuple[int, str, Content]]]:
    """Give labels, names and contents of some rows after the other.

    ``first`` is the number, in the split, of the first row.
    """
    with _opening(part.path) as file:
        # One thread is faster for so few columns, and leaves the other cores to the decoders.
        batches = file.iter_batches(
            _count_rows(file.metadata), columns=[part.image, part.label], use_threads=False
        )
        row = 0
        for batch in batches:
            images = batch.column(part.image)
            fields = dict(zip([field.name for field in images.type], images.flatten(), strict=True))
            contents = fields["bytes"].to_pylist()
            paths = fields["path"].to_pylist() if "path" in fields else [None] * len(contents)
            rows = []
            for label, path, content in zip(
                batch.column(part.label).to_pylist(), paths, contents, strict=True
            ):
                if label is None or not 0 <= label < len(part.classes):
                    raise SourceError(
                        f"{part.path}: expected labels from 0 to {len(part.classes) - 1}, since "
                        f"there are {len(part.classes)} classes, found {label} in row {row}; "
                        "correct it"
                    )
                name = (path or "").rpartition("/")[2] or f"{first + row:08d}.png"
                if not is_folder_name(name):
                    raise SourceError(
                        f"{part.path}: expected a path that ends in the name of a file, found "
                        f"{path!r} in row {row}; correct it"
                    )
                rows.append((label, name, _check_content(content, part.path, row, path)))
                row += 1
            yield rows


def _check_content(content: bytes | None, file: Path, row: int, path: str | None) -> Content:
    if content is None:
        found = f"only the path {path!r}; embed the images" if path else "none"
        reason = f"expected bytes in row {row} of {file.name}, found {found}"
        return OSError(errno.ENODATA, reason, path)
    if len(content) > MAX_BYTES:
        return too_large(path or "", len(content))
    return content


def _count_rows(metadata: Any) -> int:
    """Say how many rows to decode at a time."""
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    largest = max((group.total_byte_size // max(1, group.num_rows) for group in groups), default=1)
    return min(_BATCH_ROWS, max(1, _BATCH_BYTES // max(1, largest)))
