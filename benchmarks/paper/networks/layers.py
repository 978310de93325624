"""What the networks have in common: a normalised convolution, and the classifier at the end."""

from torch import nn

__all__ = ["classify", "convolve"]


def convolve(
    inputs: int,
    outputs: int,
    size: int = 3,
    *,
    stride: int = 1,
    groups: int = 1,
    bias: bool = False,
    activate: bool = True,
) -> nn.Sequential:
    """Make a convolution that keeps the image's size (but for the stride), with BatchNorm and ReLU.

    A bias before BatchNorm changes nothing, but counts as parameters where a network is defined
    with it.
    """
    convolution = nn.Conv2d(
        inputs, outputs, size, stride, padding=size // 2, groups=groups, bias=bias
    )
    layers: list[nn.Module] = [convolution, nn.BatchNorm2d(outputs)]
    return nn.Sequential(*layers, nn.ReLU(inplace=True)) if activate else nn.Sequential(*layers)


def classify(features: int, num_classes: int) -> nn.Sequential:
    """Make the end of a network: the mean over all places, and a linear layer."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, num_classes))
