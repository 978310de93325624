# /// script
# dependencies = [
#     "torch==2.13.0", "torchvision==0.28.0", "numpy==2.4.6", "pillow==13.0.0", "datasets==5.2.0",
# ]
#
# [[tool.benchmark.rows]]
# name = "Hugging Face datasets, PNG in Arrow"
# batch_size = 512
# ///
"""Hugging Face datasets: an image folder saved as Arrow, with torchvision's transforms."""

# mypy: disable-error-code="import-not-found,import-untyped"

from typing import Any

import datasets
from torch.utils.data import DataLoader

from benchmarks.rivals.protocol import Batches, Data, serve
from benchmarks.rivals.torchvision_here import augment_pictures


def prepare(data: Data) -> None:
    # With data_dir alone, files with "test" in their names, such as CINIC-10's, are another split.
    folder = datasets.load_dataset(
        "imagefolder",
        data_files={"train": f"{data.tree}/**"},
        split="train",
        cache_dir=str(data.own / "cache"),
    )
    folder.save_to_disk(str(data.own / "arrow"), num_proc=data.workers)


def open_loader(data: Data, batch_size: int) -> Batches:
    augment = augment_pictures(data)

    def transform(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        rows["image"] = [augment(image.convert("RGB")) for image in rows["image"]]
        return rows

    dataset = datasets.load_from_disk(str(data.own / "arrow")).with_transform(transform)
    return Pairs(
        DataLoader(
            dataset, batch_size, shuffle=True, num_workers=data.workers, persistent_workers=True
        )
    )


class Pairs:
    """Batches that are dictionaries, as pairs."""

    def __init__(self, batches: Any) -> None:
        self.batches = batches

    def __iter__(self) -> Any:
        for batch in self.batches:
            yield batch["image"], batch["label"]


if __name__ == "__main__":
    serve(open_loader, prepare)
