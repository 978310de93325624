"""ResNet-18 with activations before its convolutions (He et al., 2016), for small images.

Nothing is normalised or activated after the last block, as in the network that the authors used.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.paper.networks.layers import classify

__all__ = ["preact_resnet18"]


class _Block(nn.Module):
    """Two convolutions behind BatchNorm and ReLU; a shortcut with weights starts behind the first.

    A shortcut without weights starts before it.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut: nn.Module | None = None
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = functional.relu(self.norm1(x))
        short = x if self.shortcut is None else self.shortcut(active)
        return torch.add(self.conv2(functional.relu(self.norm2(self.conv1(active)))), short)


def preact_resnet18(num_classes: int = 10) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, padding=1, bias=False)]
    inputs = 64
    for outputs, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [_Block(inputs, outputs, stride), _Block(outputs, outputs, 1)]
        inputs = outputs
    return nn.Sequential(*layers, classify(inputs, num_classes))
