# /// script
# dependencies = ["torch==2.13.0", "torchvision==0.28.0", "numpy==2.4.6", "pillow==13.0.0"]
#
# [tool.benchmark]
# rows = [{ name = "packed array + DataLoader + torchvision v2", batch_size = 512 }]
# ///
"""A memory-mapped array with a DataLoader: torchvision's v2 transforms on each image."""

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.rivals.protocol import Batches, Data, serve
from benchmarks.rivals.torchvision_here import augment_tensors


class PackedArray(Dataset[tuple[torch.Tensor, int]]):
    """Rows of a .npy file, each transformed by itself."""

    def __init__(self, data: Data) -> None:
        self.images = np.load(data.images, mmap_mode="c")
        self.labels = np.load(data.labels)
        self.transform = augment_tensors(data)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = torch.from_numpy(self.images[index])
        return self.transform(image), int(self.labels[index])


def open_loader(data: Data, batch_size: int) -> Batches:
    return DataLoader(
        PackedArray(data),
        batch_size,
        shuffle=True,
        num_workers=data.workers,
        persistent_workers=True,
    )


if __name__ == "__main__":
    serve(open_loader)
