"""The networks: exactly those of the authors, and able to learn."""

import json

import pytest
import torch
from torch.nn import functional

from benchmarks.paper.__main__ import main
from benchmarks.paper.networks import NETWORKS

# Of kuangliu/pytorch-cifar's networks, which the authors used.
PARAMETERS = {
    "vgg16": 14_728_266,
    "resnet18": 11_173_962,
    "preact_resnet18": 11_171_146,
    "googlenet": 6_166_250,
    "resnext29_2x64d": 9_128_778,
    "densenet121": 6_956_298,
    "mobilenet": 3_217_226,
    "resnet7": 1_161_666,
}


def test_the_numbers_of_parameters_are_exact(capsys):
    main(["models", "--json"])
    assert json.loads(capsys.readouterr().out) == PARAMETERS
    main(["models"])
    assert "ResNet-18 (preact)  11,171,146" in capsys.readouterr().out


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_has_a_score_for_each_class_and_learns(name):
    torch.manual_seed(0)
    network = NETWORKS[name].make(7)
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([1, 3, 5, 6])
    optimizer = torch.optim.SGD(network.parameters(), 0.01)
    losses = []
    for _ in range(3):
        scores = network(images)
        loss = functional.cross_entropy(scores, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert scores.shape == (4, 7)
    assert losses[2] < losses[0]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_of_a_network_is_used(name):
    network = NETWORKS[name].make(10)
    network(torch.randn(2, 3, 32, 32)).sum().backward()
    assert not [key for key, value in network.named_parameters() if value.grad is None]
