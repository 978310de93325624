"""The train split as a hub's parquet file, and what `datasets` takes to decode it.

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

__all__ = ["make_parquet", "prepare_decoding"]

# As hubs have them for images.
_GROUP_ROWS = 100


def make_parquet(places: Places) -> Path:
    """Make the train split's file, if there is none yet."""
    path = places.work / "train.parquet"
    if path.exists():
        return path
    labels = {name: label for label, name in enumerate(cinic10.CLASSES)}
    features = {"image": {"_type": "Image"}, "label": {"names": [*labels], "_type": "ClassLabel"}}
    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    schema = pyarrow.schema(
        {"image": image, "label": pyarrow.int64()},
        {"huggingface": json.dumps({"info": {"features": features}})},
    )
    files = sorted((places.tree / "train").glob("*/*.png"))
    with making(path) as unfinished, ParquetWriter(unfinished, schema) as writer:
        for start in range(0, len(files), _GROUP_ROWS):
            group = files[start : start + _GROUP_ROWS]
            columns = {
                "image": [{"bytes": file.read_bytes(), "path": file.name} for file in group],
                "label": [labels[file.parent.name] for file in group],
            }
            writer.write_table(pyarrow.table(columns, schema))
    return path


def prepare_decoding(path: Path) -> Callable[[], None]:
    """Let `datasets` make what it reads of a parquet file; return what decodes all of it once."""
    datasets.disable_progress_bars()
    rows = datasets.Dataset.from_parquet(str(path), cache_dir=str(path.with_suffix(".datasets")))

    def decode() -> None:
        for _ in rows:
            pass

    return decode
