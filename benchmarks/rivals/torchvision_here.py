"""torchvision, also where its wheel was built for another torch than the one installed."""

# mypy: disable-error-code="import-not-found,import-untyped,unused-ignore"

import torch

__all__ = ["datasets", "transforms", "v2"]

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
