# /// script
# dependencies = ["numpy==2.4.6", "grain==0.2.18"]
#
# [[tool.benchmark.rows]]
# name = "Grain, packed array, 2 processes"
# batch_size = 512
# differs = "NumPy arrays"
# ///
"""Grain: a packed array as source, a random transform on each image, two processes."""

# mypy: disable-error-code="import-not-found,import-untyped,misc"

import math
from collections.abc import Iterator
from itertools import islice
from typing import Any

import grain
import numpy as np

from benchmarks.rivals.protocol import Data, serve

PADDING = 4


class PackedArray:
    """Grain's random access source: a length and items."""

    def __init__(self, data: Data) -> None:
        self.images = np.load(data.images, mmap_mode="r")
        self.labels = np.load(data.labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.images[index], int(self.labels[index])


class Augment(grain.transforms.RandomMap):
    """Crop, flip and normalise one image."""

    def __init__(self, data: Data) -> None:
        mean, std = np.array(data.mean, np.float32), np.array(data.std, np.float32)
        self.scale = (1 / (255 * std)).reshape(3, 1, 1)
        self.shift = (-mean / std).reshape(3, 1, 1)

    def random_map(self, element: tuple[Any, int], rng: np.random.Generator) -> tuple[Any, int]:
        image, label = element
        size = image.shape[-1]
        padded = np.pad(image, ((0, 0), (PADDING, PADDING), (PADDING, PADDING)))
        top, left = rng.integers(2 * PADDING + 1, size=2)
        image = padded[:, top : top + size, left : left + size]
        if rng.random() < 0.5:
            image = image[..., ::-1]
        return image * self.scale + self.shift, label


class EndlessLoader:
    """Epochs cut out of one endless iterator, so that its processes start only once."""

    def __init__(self, data: Data, batch_size: int) -> None:
        source = PackedArray(data)
        self.length = math.ceil(len(source) / batch_size)
        self.batches = iter(
            grain.MapDataset.source(source)
            .seed(0)
            .shuffle()
            .repeat()
            .random_map(Augment(data))
            .to_iter_dataset()
            .batch(batch_size)
            .mp_prefetch(grain.MultiprocessingOptions(num_workers=data.workers))
        )

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return islice(self.batches, self.length)


if __name__ == "__main__":
    serve(EndlessLoader)
