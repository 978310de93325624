"""ResNet-18 (He et al., 2015) for small images: a 3x3 stem of stride 1, and no pooling after it."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.paper.networks.layers import classify, convolve

__all__ = ["resnet18"]


class _Block(nn.Module):
    """Two convolutions, and a shortcut around them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            convolve(inputs, outputs, stride=stride), convolve(outputs, outputs, activate=False)
        )
        self.shortcut = nn.Sequential()
        if stride > 1 or inputs != outputs:
            self.shortcut = convolve(inputs, outputs, 1, stride=stride, activate=False)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(torch.add(self.body(x), self.shortcut(x)))


def resnet18(num_classes: int = 10) -> nn.Module:
    layers: list[nn.Module] = [convolve(3, 64)]
    inputs = 64
    for outputs, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [_Block(inputs, outputs, stride), _Block(outputs, outputs, 1)]
        inputs = outputs
    return nn.Sequential(*layers, classify(inputs, num_classes))
