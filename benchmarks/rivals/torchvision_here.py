"""torchvision, also where its wheel was built for another torch than the one installed."""

# mypy: disable-error-code="import-not-found,import-untyped,unused-ignore"

import torch

from benchmarks.rivals.protocol import Data

__all__ = ["augment_pictures", "augment_tensors", "datasets", "transforms"]

try:
    import torchvision
except RuntimeError:
    # Its Python part gives shapes to two operators of its C++ part, which does not load here. None
    # of the transforms in this folder uses an operator of that part.
    for name in ("nms", "qnms"):
        schema = "(Tensor boxes, Tensor scores, float threshold) -> Tensor"
        torch.library.define(f"torchvision::{name}", schema)
    import torchvision  # noqa: F401

from torchvision import datasets, transforms
from torchvision.transforms import v2


def augment_pictures(data: Data) -> transforms.Compose:
    """Make the transform that crops, mirrors and normalises a PIL image."""
    return transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(data.mean, data.std),
        ]
    )


def augment_tensors(data: Data) -> v2.Compose:
    """Make the transform that does the same to a tensor of uint8."""
    return v2.Compose(
        [
            v2.RandomCrop(32, padding=4),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(data.mean, data.std),
        ]
    )
