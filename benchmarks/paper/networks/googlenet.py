"""GoogLeNet (Szegedy et al., 2014) for small images.

A 3x3 stem to 192 channels, BatchNorm everywhere, two 3x3 convolutions for one of 5x5, and no
auxiliary classifiers.
"""

import torch
from torch import Tensor, nn

from benchmarks.paper.networks.layers import classify, convolve

__all__ = ["googlenet"]

# Of every inception the channels of its branches: 1x1; 3x3 and what it is reduced to before; the
# same of the two 3x3; behind the pooling. None: the image is halved.
_INCEPTIONS = (
    (64, (96, 128), (16, 32), 32),
    (128, (128, 192), (32, 96), 64),
    None,
    (192, (96, 208), (16, 48), 64),
    (160, (112, 224), (24, 64), 64),
    (128, (128, 256), (24, 64), 64),
    (112, (144, 288), (32, 64), 64),
    (256, (160, 320), (32, 128), 128),
    None,
    (256, (160, 320), (32, 128), 128),
    (384, (192, 384), (48, 128), 128),
)


class _Inception(nn.Module):
    """Four branches side by side."""

    def __init__(
        self, inputs: int, ones: int, threes: tuple[int, int], fives: tuple[int, int], pooled: int
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [
                convolve(inputs, ones, 1, bias=True),
                nn.Sequential(
                    convolve(inputs, threes[0], 1, bias=True), convolve(*threes, bias=True)
                ),
                nn.Sequential(
                    convolve(inputs, fives[0], 1, bias=True),
                    convolve(*fives, bias=True),
                    convolve(fives[1], fives[1], bias=True),
                ),
                nn.Sequential(
                    nn.MaxPool2d(3, 1, padding=1), convolve(inputs, pooled, 1, bias=True)
                ),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


def googlenet(num_classes: int = 10) -> nn.Module:
    layers: list[nn.Module] = [convolve(3, 192, bias=True)]
    inputs = 192
    for widths in _INCEPTIONS:
        if widths is None:
            layers.append(nn.MaxPool2d(3, 2, padding=1))
            continue
        ones, threes, fives, pooled = widths
        layers.append(_Inception(inputs, ones, threes, fives, pooled))
        inputs = ones + threes[1] + fives[1] + pooled
    return nn.Sequential(*layers, classify(inputs, num_classes))
