"""A ResNet that two cores can train: seven layers, and not one of the authors' networks."""

import torch
from torch import Tensor, nn

from benchmarks.paper.networks.layers import classify, convolve

__all__ = ["resnet7"]


class _Residual(nn.Module):
    """A convolution whose result is added to what goes in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = convolve(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(self.body(x), x)


def resnet7(num_classes: int = 10) -> nn.Module:
    layers: list[nn.Module] = [convolve(3, 24)]
    inputs = 24
    for outputs in (64, 128, 256):
        # Pooling comes first, so that what follows has a quarter of the places.
        layers += [
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.MaxPool2d(2),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            _Residual(outputs),
        ]
        inputs = outputs
    return nn.Sequential(*layers, classify(inputs, num_classes))
