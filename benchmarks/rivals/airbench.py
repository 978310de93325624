# /// script
# dependencies = ["torch==2.13.0", "numpy==2.4.6"]
#
# [[tool.benchmark.rows]]
# name = "airbench's scheme"
# batch_size = 512
# differs = "edges reflected, flips alternate, 1.7 GB of padded float32 in memory"
# ///
"""The scheme of airbench's CifarLoader, written anew for the CPU.

Normalised and padded once, for good; cropped and mirrored as a whole set before each epoch; batches
are rows of that. airbench does so on a GPU in half precision.
"""

# mypy: disable-error-code="no-untyped-call"

from collections.abc import Iterator

import numpy as np
import torch
from torch.nn import functional

from benchmarks.rivals.protocol import Data, serve

PADDING = 4


class WholeSetLoader:
    """An epoch is made at once, then dealt out in batches."""

    def __init__(self, data: Data, batch_size: int) -> None:
        torch.set_num_threads(data.workers)
        mean, std = torch.tensor(data.mean), torch.tensor(data.std)
        images = torch.from_numpy(np.load(data.images)).float().div_(255)
        images.sub_(mean.view(3, 1, 1)).div_(std.view(3, 1, 1))
        mirrored = torch.rand(len(images)) < 0.5
        images[mirrored] = images[mirrored].flip(-1)
        self.padded = functional.pad(images, (PADDING,) * 4, "reflect")
        self.labels = torch.from_numpy(np.load(data.labels)).long()
        self.batch_size = batch_size
        self.epoch = 0

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        images = crop_all(self.padded)
        if self.epoch % 2:
            images = images.flip(-1)
        self.epoch += 1
        for rows in torch.randperm(len(images)).split(self.batch_size):
            yield images[rows], self.labels[rows]


def crop_all(padded: torch.Tensor) -> torch.Tensor:
    """Crop all images, those with the same offset together: first rows, then columns."""
    count, channels, height, width = padded.shape
    reach = 2 * PADDING + 1
    top, left = torch.randint(reach, (2, count))
    tall = padded.new_empty(count, channels, height - reach + 1, width)
    for offset in range(reach):
        chosen = top == offset
        tall[chosen] = padded[chosen, :, offset : offset + tall.shape[2]]
    cropped = padded.new_empty(*tall.shape[:3], width - reach + 1)
    for offset in range(reach):
        chosen = left == offset
        cropped[chosen] = tall[chosen, ..., offset : offset + cropped.shape[3]]
    return cropped


if __name__ == "__main__":
    serve(WholeSetLoader)
