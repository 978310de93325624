"""VGG-16 (Simonyan and Zisserman, 2014), with BatchNorm and one linear layer."""

from torch import nn

from benchmarks.paper.networks.layers import classify, convolve

__all__ = ["vgg16"]

# Channels of the convolutions; the image is halved after each row.
_ROWS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def vgg16(num_classes: int = 10) -> nn.Module:
    layers: list[nn.Module] = []
    inputs = 3
    for row in _ROWS:
        for outputs in row:
            layers.append(convolve(inputs, outputs, bias=True))
            inputs = outputs
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, classify(inputs, num_classes))
