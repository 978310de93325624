# /// script
# dependencies = [
#     "torch==2.13.0", "torchvision==0.28.0", "numpy==2.4.6", "pillow==13.0.0", "webdataset==1.0.2",
# ]
#
# [[tool.benchmark.rows]]
# name = "WebDataset, PNG in tar shards"
# batch_size = 512
# differs = "shuffled within 5,000 images and over shards"
# ///
"""WebDataset: PNG files in tar shards, decoded and augmented by a WebLoader's workers."""

# mypy: disable-error-code="import-not-found,import-untyped,no-any-return"

import math

import torch
import webdataset as wds

from benchmarks.rivals.protocol import Batches, Data, serve
from benchmarks.rivals.torchvision_here import augment_pictures, datasets

SHARDS = 10


def prepare(data: Data) -> None:
    folder = datasets.ImageFolder(data.tree)
    order = torch.randperm(len(folder)).tolist()
    shard_size = math.ceil(len(order) / SHARDS)
    with wds.ShardWriter(str(data.own / "train-%03d.tar"), maxcount=shard_size) as shards:
        for number, index in enumerate(order):
            path, label = folder.samples[index]
            with open(path, "rb") as file:
                shards.write({"__key__": f"{number:06d}", "png": file.read(), "cls": label})


def open_loader(data: Data, batch_size: int) -> Batches:
    augment = augment_pictures(data)
    shards = sorted(map(str, data.own.glob("train-*.tar")))
    dataset = (
        wds.WebDataset(shards, shardshuffle=len(shards))
        .shuffle(5_000)
        .decode("pil")
        .to_tuple("png", "cls")
        .map_tuple(augment, int)
        .batched(batch_size)
    )
    return wds.WebLoader(
        dataset, batch_size=None, num_workers=data.workers, persistent_workers=True
    )


if __name__ == "__main__":
    serve(open_loader, prepare)
