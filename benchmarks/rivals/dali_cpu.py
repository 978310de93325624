# /// script
# dependencies = ["torch==2.13.0", "numpy==2.4.6", "nvidia-dali-cuda130==2.4.0"]
#
# [[tool.benchmark.rows]]
# name = "DALI on CPU, PNG files"
# batch_size = 512
# source = "files"
#
# [[tool.benchmark.rows]]
# name = "DALI on CPU, packed array"
# batch_size = 512
# source = "array"
#
# [[tool.benchmark.rows]]
# name = "DALI on CPU, packed array, uint8"
# batch_size = 512
# source = "array"
# dtype = "uint8"
# ///
"""DALI's pipeline on the CPU, reading PNG files or fed from an array."""

# mypy: disable-error-code="import-not-found,import-untyped,untyped-decorator"

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.plugin.pytorch import DALIGenericIterator, LastBatchPolicy

from benchmarks.rivals.protocol import Data, serve


class Batches:
    """DALI's iterator for PyTorch, whose batches are dictionaries, as pairs."""

    def __init__(self, data: Data, batch_size: int, source: str, dtype: str = "float32") -> None:
        self.batches = DALIGenericIterator(
            load(data, source, dtype, batch_size, batch_size=batch_size, num_threads=data.workers),
            ["images", "labels"],
            reader_name="files" if source == "files" else None,
            auto_reset=True,
            last_batch_policy=LastBatchPolicy.PARTIAL,
        )

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for (batch,) in self.batches:
            yield batch["images"], batch["labels"].squeeze(-1)


@pipeline_def(device_id=None)
def load(data: Data, source: str, dtype: str, size: int) -> Any:
    if source == "files":
        files, labels = fn.readers.file(file_root=str(data.tree), random_shuffle=True, name="files")
        images = fn.decoders.image(files)
    else:
        images, labels = fn.external_source(
            functools.partial(shuffle, data, size),
            num_outputs=2,
            batch=True,
            cycle="raise",
            layout=["CHW", ""],
            no_copy=True,
        )
    offset = fn.random.uniform(values=list(range(-4, 5)), shape=2, dtype=types.INT32)
    images = fn.slice(
        images, start=offset, shape=[32, 32], axis_names="HW", out_of_bounds_policy="pad"
    )
    images = fn.crop_mirror_normalize(
        images,
        mirror=fn.random.coin_flip(),
        output_layout="CHW",
        **{"dtype": types.UINT8} if dtype == "uint8" else normalisation(data),
    )
    return images, labels


def normalisation(data: Data) -> dict[str, Any]:
    mean, std = np.array(data.mean) * 255, np.array(data.std) * 255
    return {"dtype": types.FLOAT, "mean": mean.tolist(), "std": std.tolist()}


def shuffle(data: Data, size: int) -> Iterator[tuple[Any, Any]]:
    """Give the rows of one epoch, a batch at a time."""
    images, labels = np.load(data.images, mmap_mode="r"), np.load(data.labels)
    order = np.random.default_rng().permutation(len(labels))
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        yield images[rows], labels[rows, np.newaxis]


if __name__ == "__main__":
    serve(Batches)
