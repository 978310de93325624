"""The seven networks of the authors' tables, and a small one, each with what was published of it.

They are defined as kuangliu/pytorch-cifar defines those that the authors used, which the exact
numbers of parameters tell apart from others of the same names, and begin with torch's own weights.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

from torch import nn

from benchmarks.paper.networks.densenet import densenet121
from benchmarks.paper.networks.googlenet import googlenet
from benchmarks.paper.networks.mobilenet import mobilenet
from benchmarks.paper.networks.preact import preact_resnet18
from benchmarks.paper.networks.resnet import resnet18
from benchmarks.paper.networks.resnext import resnext29_2x64d
from benchmarks.paper.networks.small import resnet7
from benchmarks.paper.networks.vgg import vgg16

__all__ = ["NETWORKS", "Network", "count_parameters"]


class Network(NamedTuple):
    """A network, and what the authors published of it (arXiv:1810.03505; BayesWatch/cinic-10).

    Attributes:
        title: what their tables call it.
        make: makes it for a number of classes.
        train: its test error in percent, trained on train, once; None: not published.
        enlarged: the same of train+valid, the mean of five seeds.
        spread: the standard deviation of these.
    """

    title: str
    make: Callable[[int], nn.Module]
    train: float | None = None
    enlarged: float | None = None
    spread: float | None = None


NETWORKS: Final = {
    "vgg16": Network("VGG-16", vgg16, 15.25, 12.23, 0.16),
    "resnet18": Network("ResNet-18", resnet18, 12.42, 9.73, 0.05),
    "preact_resnet18": Network("ResNet-18 (preact)", preact_resnet18, 12.84, 10.10, 0.08),
    "googlenet": Network("GoogLeNet", googlenet, 11.54, 8.83, 0.12),
    "resnext29_2x64d": Network("ResNeXt29_2x64d", resnext29_2x64d, 11.66, 8.55, 0.15),
    "densenet121": Network("DenseNet-121", densenet121, None, 8.74, 0.16),
    "mobilenet": Network("MobileNet", mobilenet, 19.55, 18.00, 0.16),
    "resnet7": Network("ResNet-7 (small)", resnet7),
}


def count_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
