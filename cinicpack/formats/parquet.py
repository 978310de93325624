"""Parquet files with columns of images and of labels, as the library `datasets` writes them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

from cinicpack.errors import CinicPackError, SourceError
from cinicpack.interrupts import holding_interrupts
from cinicpack.shortage import is_shortage
from cinicpack.text import one_line, some

__all__ = ["MAGIC", "Row", "Table", "find_columns", "read_rows"]

#: How every parquet file starts.
MAGIC: Final = b"PAR1"

#: A label, which is a number of a class, and path and bytes of an image, each if there is one.
Row: TypeAlias = tuple[int, str | None, bytes | None]

# What the columns are usually called, in the files of CIFAR-10 and CIFAR-100 too.
_IMAGES: Final = ("image", "img")
_LABELS: Final = ("label", "fine_label")
_BYTES: Final = ("binary", "large_binary", "binary_view")
_TEXT: Final = ("string", "large_string", "string_view", "null")
_HOW_TO_NAME: Final = "name the two with --columns IMAGE,LABEL (columns=...)"
# So many rows are decoded at a time, or so few that they have about so many bytes.
_BATCH_ROWS: Final = 256
_BATCH_BYTES: Final = 4 << 20
# So many rows at a time where the bytes of their images are left out.
_LISTED_ROWS: Final = 1 << 13
# A column is read in pieces of so many bytes, since a whole file may be a single row group.
_BUFFER_BYTES: Final = 1 << 20


class Table(NamedTuple):
    """What the footer of a file says.

    Attributes:
        path: of the file.
        image: name of the column of images, each a struct of bytes and path.
        label: name of the column of labels.
        classes: names in the order of their labels.
        rows: number of rows.
    """

    path: Path
    image: str
    label: str
    classes: tuple[str, ...]
    rows: int


def find_columns(path: Path, columns: Sequence[str] | None = None) -> Table:
    """Find the columns of a file, and the names of its classes.

    Args:
        path: of the file.
        columns: names of the columns of images and of labels; None: "image" or "img", and "label"
            or "fine_label", or else the only one of its kind.

    Raises:
        SourceError: the file is damaged, or has no such columns.
        OSError, MemoryError: the file could not be read.
        CinicPackError: pyarrow is not installed.
    """
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
        # What is called a label and is no integer has no meaning to the names.
        integers = [f.name for f in schema if str(f.type).startswith(("int", "uint"))]
        label = _choose([name for name in integers if name in names], _LABELS, label)
        if label is None:
            raise SourceError(
                f"{path}: expected a column of labels whose names are in the file's metadata "
                f"(ClassLabel of datasets), found names for {some([*names]) or 'none'} of {found}; "
                f"{_HOW_TO_NAME}, or write the file with such labels"
            )
        classes = names[label]
        if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
            raise SourceError(
                f"{path}: expected a list of names for column {label!r}, found {classes!r}; write "
                "the file with names of the labels"
            )
        return Table(path, image, label, tuple(classes), file.metadata.num_rows)


def read_rows(table: Table, *, contents: bool = True) -> Iterator[list[Row]]:
    """Give the rows of a file in their order, some at a time, so that memory does not grow.

    Without ``contents``, the bytes of images are neither read nor given.

    Raises what `find_columns` does, and `SourceError` for a label of no class.
    """
    with _opening(table.path) as file:
        # One thread is faster for so few columns, and leaves the other cores to the decoders.
        rows = _count_rows(file.metadata) if contents else _LISTED_ROWS
        image = table.image if contents else f"{table.image}.path"
        batches = file.iter_batches(rows, columns=[image, table.label], use_threads=False)
        first = 0
        for batch in batches:
            labels = batch.column(table.label).to_pylist()
            fields = _list_fields(batch, table.image)
            none = [None] * len(labels)
            paths, files = fields.get("path", none), fields.get("bytes", none)
            for row, label in enumerate(labels, first):
                if label is None or not 0 <= label < len(table.classes):
                    raise SourceError(
                        f"{table.path}: expected labels from 0 to {len(table.classes) - 1}, since "
                        f"there are {len(table.classes)} classes, found {label} in row {row}; "
                        "correct it"
                    )
            first += len(labels)
            yield list(zip(labels, paths, files, strict=True))


def _list_fields(batch: Any, column: str) -> dict[str, list[Any]]:
    """Return the values of the fields of a struct's column, of those fields that were read."""
    if column not in batch.schema.names:
        return {}
    values = batch.column(column)
    names = [field.name for field in values.type]
    return {name: field.to_pylist() for name, field in zip(names, values.flatten(), strict=True)}


@contextmanager
def _opening(path: Path) -> Iterator[Any]:
    """Open a file, and say of errors of reading it what they mean."""
    try:
        with holding_interrupts():
            from pyarrow.lib import ArrowException
            from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise CinicPackError(
            f"{path}: expected pyarrow, which reads parquet, found {one_line(error)}; install it "
            "with pip install 'cinicpack[parquet]'"
        ) from None
    if path.exists() and not path.is_file():
        # To open a pipe would wait for ever.
        raise SourceError(
            f"{path}: expected a parquet file, found a folder, a pipe, a socket or a device; "
            "remove it"
        )
    try:
        with ParquetFile(
            path, buffer_size=_BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True
        ) as file:
            yield file
    except SourceError:
        raise
    except (ArrowException, OSError, ValueError, KeyError, RecursionError) as error:
        if is_shortage(error):
            raise
        raise SourceError(
            f"{path}: expected a whole parquet file, found it damaged or cut off "
            f"({one_line(error)}); fetch or make it again"
        ) from error


def _choose(found: Sequence[str], usual: Sequence[str], wanted: str | None) -> str | None:
    """Choose a column: the wanted one, else one that is called as usual, else the only one."""
    if wanted is not None:
        return wanted if wanted in found else None
    called = [name for name in usual if name in found]
    if called:
        return called[0]
    return found[0] if len(found) == 1 else None


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


def _count_rows(metadata: Any) -> int:
    """Say how many rows to decode at a time."""
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    largest = max((group.total_byte_size // max(1, group.num_rows) for group in groups), default=1)
    return min(_BATCH_ROWS, max(1, _BATCH_BYTES // max(1, largest)))
