"""Parquet files that tests write, with pyarrow alone."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["CLASSES", "IMAGE", "describe", "write"]

CLASSES = ("ant", "bee")
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_DEFAULT: Any = object()


def describe(labels: Mapping[str, Any]) -> bytes:
    """Make the metadata that `datasets` writes, from the names of the classes by column."""
    features = {name: {"names": names, "_type": "ClassLabel"} for name, names in labels.items()}
    return json.dumps({"info": {"features": {"image": {"_type": "Image"}, **features}}}).encode()


def write(
    path: Path,
    columns: Mapping[str, Sequence[Any]],
    types: Mapping[str, pa.DataType] | None = None,
    classes: Sequence[str] = CLASSES,
    metadata: bytes | None = _DEFAULT,
    row_group_size: int | None = None,
) -> Path:
    """Write columns, of which those with "label" in their names have the classes."""
    kinds = {}
    for name, values in columns.items():
        structs = any(isinstance(value, dict) for value in values)
        kinds[name] = IMAGE if structs else pa.array(values).type
    schema = pa.schema({**kinds, **(types or {})})
    if metadata is _DEFAULT:
        metadata = describe({name: [*classes] for name in columns if "label" in name})
    if metadata is not None:
        schema = schema.with_metadata({"huggingface": metadata})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(dict(columns), schema=schema), path, row_group_size=row_group_size)
    return path
