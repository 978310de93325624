"""DenseNet-121 (Huang et al., 2016) for small images: growth 32, and a 3x3 stem of 64 channels."""

import torch
from torch import Tensor, nn

from benchmarks.paper.networks.layers import classify

__all__ = ["densenet121"]

_GROWTH = 32
_BLOCKS = (6, 12, 24, 16)


class _Dense(nn.Module):
    """A layer that adds its 32 channels to all that came before."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_activate(inputs),
            nn.Conv2d(inputs, 4 * _GROWTH, 1, bias=False),
            *_activate(4 * _GROWTH),
            nn.Conv2d(4 * _GROWTH, _GROWTH, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.body(x), x], 1)


def densenet121(num_classes: int = 10) -> nn.Module:
    width = 2 * _GROWTH
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1, bias=False)]
    for block, count in enumerate(_BLOCKS):
        if block:
            # A transition halves the channels and the image.
            halved = nn.Conv2d(width, width // 2, 1, bias=False)
            layers += [*_activate(width), halved, nn.AvgPool2d(2)]
            width //= 2
        for _ in range(count):
            layers.append(_Dense(width))
            width += _GROWTH
    return nn.Sequential(*layers, *_activate(width), classify(width, num_classes))


def _activate(width: int) -> tuple[nn.Module, nn.Module]:
    return nn.BatchNorm2d(width), nn.ReLU(inplace=True)
