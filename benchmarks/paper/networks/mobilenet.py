"""MobileNet (Howard et al., 2017) for small images: its stem and first layers have stride 1."""

from torch import nn

from benchmarks.paper.networks.layers import classify, convolve

__all__ = ["mobilenet"]

# Channels and stride of every pair of a depthwise and a pointwise convolution.
_PAIRS = (
    (64, 1),
    *((128, 2), (128, 1)),
    *((256, 2), (256, 1)),
    *((512, 2), *[(512, 1)] * 5),
    *((1024, 2), (1024, 1)),
)


def mobilenet(num_classes: int = 10) -> nn.Module:
    layers: list[nn.Module] = [convolve(3, 32)]
    inputs = 32
    for outputs, stride in _PAIRS:
        layers += [
            convolve(inputs, inputs, stride=stride, groups=inputs),
            convolve(inputs, outputs, 1),
        ]
        inputs = outputs
    return nn.Sequential(*layers, classify(inputs, num_classes))
