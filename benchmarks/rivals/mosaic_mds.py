# /// script
# dependencies = [
#     "torch==2.13.0", "torchvision==0.28.0", "numpy==2.1.3", "pillow==13.0.0",
#     "mosaicml-streaming==0.13.0",
# ]
#
# [[tool.benchmark.rows]]
# name = "MosaicML Streaming, arrays in MDS shards"
# batch_size = 512
# ///
"""MosaicML Streaming: arrays in MDS shards, torchvision's v2 transforms on each."""

# mypy: disable-error-code="import-not-found,import-untyped,misc,no-any-return"

from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from benchmarks.rivals.protocol import Batches, Data, serve
from benchmarks.rivals.torchvision_here import augment_tensors

# Import streaming after torchvision_here, because streaming imports torchvision.
from streaming import MDSWriter, StreamingDataset  # isort: skip


def prepare(data: Data) -> None:
    images, labels = np.load(data.images, mmap_mode="r"), np.load(data.labels)
    columns = {"image": "ndarray:uint8:3,32,32", "label": "int"}
    with MDSWriter(out=str(data.own / "shards"), columns=columns) as shards:
        for image, label in zip(images, labels.tolist(), strict=True):
            shards.write({"image": image, "label": label})


class Images(StreamingDataset):
    """A streaming dataset, local, with a transform."""

    def __init__(self, data: Data, batch_size: int) -> None:
        super().__init__(local=str(data.own / "shards"), shuffle=True, batch_size=batch_size)
        self.transform = augment_tensors(data)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        row = super().__getitem__(index)
        return self.transform(torch.tensor(row["image"])), row["label"]


def open_loader(data: Data, batch_size: int) -> Batches:
    return DataLoader(
        Images(data, batch_size), batch_size, num_workers=data.workers, persistent_workers=True
    )


if __name__ == "__main__":
    serve(open_loader, prepare)
