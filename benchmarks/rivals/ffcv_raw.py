# /// script
# dependencies = [
#     "torch==2.13.0", "torchvision==0.28.0", "numpy==2.4.6", "pillow==13.0.0",
#     "setuptools==84.2.1", "numba==0.68.1", "ffcv==1.0.2",
# ]
#
# [tool.benchmark]
# needs = "Debian packages libopencv-dev and libturbojpeg0-dev, and a C++ compiler"
#
# [[tool.benchmark.rows]]
# name = "FFCV, float32"
# batch_size = 512
# dtype = "float32"
# differs = "channels last in memory"
#
# [[tool.benchmark.rows]]
# name = "FFCV, float32, batch 128"
# batch_size = 128
# dtype = "float32"
# differs = "channels last in memory"
#
# [[tool.benchmark.rows]]
# name = "FFCV, uint8"
# batch_size = 512
# dtype = "uint8"
# differs = "channels last in memory"
# ///
"""FFCV with raw images, in its fastest setting: compiled pipelines, channels last in memory."""

# mypy: disable-error-code="import-not-found,import-untyped,no-any-return"

import numpy as np
from ffcv.fields import IntField, RGBImageField
from ffcv.fields.decoders import IntDecoder, SimpleRGBImageDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.transforms import (
    NormalizeImage,
    RandomHorizontalFlip,
    RandomTranslate,
    Squeeze,
    ToTensor,
    ToTorchImage,
)
from ffcv.writer import DatasetWriter

from benchmarks.rivals.protocol import Batches, Data, serve


class Rows:
    """Images (H, W, 3) and labels, as the writer wants them."""

    def __init__(self, data: Data) -> None:
        self.images = np.load(data.images, mmap_mode="r")
        self.labels = np.load(data.labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        image = np.ascontiguousarray(self.images[index].transpose(1, 2, 0))
        return image, int(self.labels[index])


def prepare(data: Data) -> None:
    fields = {"image": RGBImageField(write_mode="raw"), "label": IntField()}
    writer = DatasetWriter(str(data.own / "train.beton"), fields, num_workers=data.workers)
    writer.from_indexed_dataset(Rows(data))


def open_loader(data: Data, batch_size: int, dtype: str) -> Batches:
    image = [SimpleRGBImageDecoder(), RandomTranslate(padding=4), RandomHorizontalFlip()]
    if dtype == "float32":
        mean, std = np.array(data.mean) * 255, np.array(data.std) * 255
        image.append(NormalizeImage(mean, std, np.float32))
    return Loader(
        str(data.own / "train.beton"),
        batch_size=batch_size,
        num_workers=data.workers,
        order=OrderOption.RANDOM,
        os_cache=True,
        drop_last=False,
        pipelines={
            "image": [*image, ToTensor(), ToTorchImage()],
            "label": [IntDecoder(), ToTensor(), Squeeze()],
        },
    )


if __name__ == "__main__":
    serve(open_loader, prepare)
