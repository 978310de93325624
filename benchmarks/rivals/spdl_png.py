# /// script
# dependencies = [
#     "torch==2.13.0", "numpy==2.4.6", "spdl==0.8.0", "spdl-core==0.8.0", "spdl-io==0.8.0",
# ]
#
# [tool.benchmark]
# needs = "FFmpeg's shared libraries: Debian packages libavdevice59 and libavfilter8"
#
# [[tool.benchmark.rows]]
# name = "SPDL, PNG files, 2 threads"
# batch_size = 512
# ///
"""SPDL: threads that decode PNG files with FFmpeg, which also crops and mirrors them."""

# mypy: disable-error-code="import-not-found,import-untyped"

import random
from collections.abc import Iterator
from typing import Any

import spdl.io
import torch
from spdl.pipeline import PipelineBuilder

from benchmarks.rivals.protocol import Data, serve

PADDING = 4


class PipelineLoader:
    """A pipeline of threads for each epoch."""

    def __init__(self, data: Data, batch_size: int) -> None:
        classes = sorted(path.name for path in data.tree.iterdir())
        self.files = [
            (str(path), label)
            for label, name in enumerate(classes)
            for path in sorted((data.tree / name).iterdir())
        ]
        self.batch_size, self.workers = batch_size, data.workers
        self.mean = 255 * torch.tensor(data.mean).view(3, 1, 1)
        self.std = 255 * torch.tensor(data.std).view(3, 1, 1)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        pipeline = (
            PipelineBuilder()
            .add_source(random.sample(self.files, len(self.files)))
            .aggregate(self.batch_size)
            .pipe(self.load, concurrency=self.workers)
            .add_sink(self.workers)
            .build(num_threads=self.workers)
        )
        with pipeline.auto_stop():
            yield from pipeline

    def load(self, files: list[tuple[str, int]]) -> tuple[Any, Any]:
        paths, labels = zip(*files, strict=True)
        frames = [
            spdl.io.decode_packets(spdl.io.demux_image(path), filter_desc=augment())
            for path in paths
        ]
        pixels = spdl.io.to_torch(spdl.io.convert_frames(frames))
        images = pixels.permute(0, 3, 1, 2).float().sub_(self.mean).div_(self.std)
        return images, torch.tensor(labels)


def augment() -> str:
    """Describe a random crop and flip as FFmpeg filters."""
    top, left = random.choices(range(2 * PADDING + 1), k=2)
    padded = 32 + 2 * PADDING
    flip = random.choice(["hflip,", ""])
    return (
        f"format=rgb24,pad={padded}:{padded}:{PADDING}:{PADDING}:black,"
        f"crop=32:32:{left}:{top},{flip}format=rgb24"
    )


if __name__ == "__main__":
    serve(PipelineLoader)
