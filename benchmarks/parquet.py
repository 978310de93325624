"""Splits as a hub's parquet files, and what `datasets` takes to decode it.

Imported where `datasets` is installed, which nothing else here needs.
"""

import json
from collections.abc import Callable
from pathlib import Path

import datasets
import pyarrow
from pyarrow.parquet import ParquetWriter

from benchmarks.data import Places, making
from cinicpack import cinic10

__all__ = ["make_parquet", "prepare_decoding", "write_parquet"]

# As hubs have them for images.
_GROUP_ROWS = 100


def make_parquet(places: Places) -> Path:
    """Make the train split's file, if there is none yet."""
    path = places.work / "train.parquet"
    if not path.exists():
        with making(path) as unfinished:
            write_parquet(places.tree / "train", unfinished)
    return path


def write_parquet(split: Path, path: Path) -> None:
    """Write the images at CLASS/NAME in a split's folder as one file."""
    labels = {name: label for label, name in enumerate(cinic10.CLASSES)}
    features = {"image": {"_type": "Image"}, "label": {"names": [*labels], "_type": "ClassLabel"}}
    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    schema = pyarrow.schema(
        {"image": image, "label": pyarrow.int64()},
        {"huggingface": json.dumps({"info": {"features": features}})},
    )
    files = sorted(split.glob("*/*.png"))
    with ParquetWriter(path, schema) as writer:
        for start in range(0, len(files), _GROUP_ROWS):
            group = files[start : start + _GROUP_ROWS]
            columns = {
                "image": [{"bytes": file.read_bytes(), "path": file.name} for file in group],
                "label": [labels[file.parent.name] for file in group],
            }
            writer.write_table(pyarrow.table(columns, schema))


def prepare_decoding(*paths: Path) -> Callable[[], None]:
    """Let `datasets` make what it reads of parquet files; return what decodes all of it once."""
    datasets.disable_progress_bars()
    cache = str(paths[0].with_suffix(".datasets"))
    rows = datasets.Dataset.from_parquet([str(path) for path in paths], cache_dir=cache)

    def decode() -> None:
        for _ in rows:
            pass

    return decode
