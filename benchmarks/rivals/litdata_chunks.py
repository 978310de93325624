# /// script
# dependencies = [
#     "torch==2.13.0", "torchvision==0.28.0", "numpy==2.4.6", "pillow==13.0.0", "litdata==0.2.76",
# ]
#
# [[tool.benchmark.rows]]
# name = "LitData, arrays in chunks"
# batch_size = 512
# differs = "shuffled within chunks, and their order"
# ///
"""LitData: arrays in optimised chunks, torchvision's v2 transforms on each."""

# mypy: disable-error-code="import-not-found,import-untyped"

import functools
from collections.abc import Iterator
from typing import Any

import litdata
import numpy as np
import torch

from benchmarks.rivals.protocol import Data, serve
from benchmarks.rivals.torchvision_here import augment_tensors


def read_row(data: Data, row: int) -> dict[str, Any]:
    image = np.load(data.images, mmap_mode="r")[row]
    return {"image": np.array(image), "label": int(np.load(data.labels, mmap_mode="r")[row])}


def prepare(data: Data) -> None:
    # Write the images in random order, because those of a chunk come together.
    order = np.random.default_rng(0).permutation(len(np.load(data.labels)))
    litdata.optimize(
        functools.partial(read_row, data),
        order.tolist(),
        str(data.own / "chunks"),
        chunk_bytes="16MB",
        num_workers=data.workers,
    )


class Pairs:
    """A StreamingDataLoader, whose batches are dictionaries."""

    def __init__(self, data: Data, batch_size: int) -> None:
        augment = augment_tensors(data)

        def transform(row: dict[str, Any]) -> dict[str, Any]:
            return {"image": augment(torch.tensor(row["image"])), "label": row["label"]}

        dataset = litdata.StreamingDataset(
            str(data.own / "chunks"), shuffle=True, drop_last=False, transform=transform
        )
        self.loader = litdata.StreamingDataLoader(
            dataset, batch_size=batch_size, num_workers=data.workers, persistent_workers=True
        )

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for batch in self.loader:
            yield batch["image"], batch["label"]


if __name__ == "__main__":
    serve(Pairs, prepare)
