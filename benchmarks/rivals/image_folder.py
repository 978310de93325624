# /// script
# dependencies = ["torch==2.13.0", "torchvision==0.28.0", "numpy==2.4.6", "pillow==13.0.0"]
#
# [tool.benchmark]
# rows = [{ name = "ImageFolder + DataLoader", batch_size = 512 }]
# ///
"""torchvision's ImageFolder with a DataLoader: what most people use."""

from torch.utils.data import DataLoader

from benchmarks.rivals.protocol import Batches, Data, serve
from benchmarks.rivals.torchvision_here import augment_pictures, datasets


def open_loader(data: Data, batch_size: int) -> Batches:
    dataset = datasets.ImageFolder(data.tree, augment_pictures(data))
    return DataLoader(
        dataset, batch_size, shuffle=True, num_workers=data.workers, persistent_workers=True
    )


if __name__ == "__main__":
    serve(open_loader)
