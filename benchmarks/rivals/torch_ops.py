# /// script
# dependencies = ["torch==2.13.0", "numpy==2.4.6"]
#
# [[tool.benchmark.rows]]
# name = "torch by hand, one crop a batch"
# batch_size = 512
# crop = "batch"
# differs = "one crop offset for all images of a batch"
#
# [[tool.benchmark.rows]]
# name = "torch by hand, a crop an image"
# batch_size = 512
# crop = "image"
# ///
"""The whole set as one uint8 tensor, and a batch made of it by a few torch operations."""

# mypy: disable-error-code="no-untyped-call"

from collections.abc import Iterator

import numpy as np
import torch
from torch.nn import functional

from benchmarks.rivals.protocol import Data, serve

PADDING = 4


class TensorLoader:
    """Batches by indexing, pad, crop, flip and normalise, with torch's own threads."""

    def __init__(self, data: Data, batch_size: int, crop: str) -> None:
        self.images = torch.from_numpy(np.load(data.images))
        self.labels = torch.from_numpy(np.load(data.labels)).long()
        mean, std = torch.tensor(data.mean), torch.tensor(data.std)
        self.scale = (1 / (255 * std)).view(3, 1, 1)
        self.shift = (-mean / std).view(3, 1, 1)
        self.batch_size = batch_size
        self.crop = crop_batch if crop == "batch" else crop_images
        torch.set_num_threads(data.workers)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for rows in torch.randperm(len(self.labels)).split(self.batch_size):
            images = self.crop(functional.pad(self.images[rows], (PADDING,) * 4))
            flip = torch.rand(len(rows), 1, 1, 1) < 0.5
            images = torch.where(flip, images.flip(-1), images)
            yield images.float().mul_(self.scale).add_(self.shift), self.labels[rows]


def crop_batch(padded: torch.Tensor) -> torch.Tensor:
    """Cut the same window out of all images."""
    size = padded.shape[-1] - 2 * PADDING
    top, left = torch.randint(2 * PADDING + 1, (2,)).tolist()
    return padded[..., top : top + size, left : left + size]


def crop_images(padded: torch.Tensor) -> torch.Tensor:
    """Cut a window of its own out of each image."""
    size = padded.shape[-1] - 2 * PADDING
    top, left = torch.randint(2 * PADDING + 1, (2, len(padded), 1, 1, 1))
    span = torch.arange(size)
    image = torch.arange(len(padded)).view(-1, 1, 1, 1)
    channel = torch.arange(3).view(-1, 1, 1)
    return padded[image, channel, top + span.view(-1, 1), left + span]


if __name__ == "__main__":
    serve(TensorLoader)
