"""ResNeXt-29, 2x64d (Xie et al., 2016) for small images: a 1x1 stem, and blocks that widen by 2."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.paper.networks.layers import classify, convolve

__all__ = ["resnext29_2x64d"]

_GROUPS, _WIDTH, _EXPANSION = 2, 64, 2


class _Block(nn.Module):
    """A convolution in groups between two of 1x1, and a shortcut around them."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = _EXPANSION * width
        self.body = nn.Sequential(
            convolve(inputs, width, 1),
            convolve(width, width, stride=stride, groups=_GROUPS),
            convolve(width, outputs, 1, activate=False),
        )
        self.shortcut = nn.Sequential()
        if stride > 1 or inputs != outputs:
            self.shortcut = convolve(inputs, outputs, 1, stride=stride, activate=False)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(torch.add(self.body(x), self.shortcut(x)))


def resnext29_2x64d(num_classes: int = 10) -> nn.Module:
    layers: list[nn.Module] = [convolve(3, 64, 1)]
    inputs = 64
    for stage in range(3):
        width = _GROUPS * _WIDTH * 2**stage
        for number in range(3):
            layers.append(_Block(inputs, width, 2 if stage and not number else 1))
            inputs = _EXPANSION * width
    return nn.Sequential(*layers, classify(inputs, num_classes))
