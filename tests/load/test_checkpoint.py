from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.stateful import Stateful

from cinicpack import Augment, Loader, StateError

# What torch says in one process without a group.
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")

OPTIONS: list[dict[str, Any]] = [
    {"augment": Augment(flip="alternating", cutout=8), "seed": 2**64 - 1},
    {"source": "imagenet", "classes": ["cat", "dog", "ship"], "shuffle": False},
]


def make_loader(pack, **options):
    return Loader(pack, "train+test", batch_size=8, return_index=True, **options)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("consumed", [0, 3])
def test_a_loader_is_saved_and_loaded_with_a_model(pack, tmp_path, options, consumed):
    model = torch.nn.Linear(2, 2)
    loader = make_loader(pack, **options)
    list(loader)
    iterator = iter(loader)
    for _ in range(consumed):
        next(iterator)
    assert isinstance(loader, Stateful)
    save({"model": model.state_dict(), "loader": loader}, checkpoint_id=tmp_path)

    weights = torch.nn.Linear(2, 2).state_dict()
    again = make_loader(pack, **options)
    load({"model": weights, "loader": again}, checkpoint_id=tmp_path)
    assert torch.equal(weights["weight"], model.weight)
    assert again.state_dict() == loader.state_dict()
    for batch, expected in zip(again, iterator, strict=True):
        assert all(map(torch.equal, batch, expected))


def test_the_checkpoint_of_another_loader_is_refused(pack, tmp_path):
    save({"loader": make_loader(pack)}, checkpoint_id=tmp_path)
    with pytest.raises(StateError, match="seed 0"):
        load({"loader": make_loader(pack, seed=1)}, checkpoint_id=tmp_path)


@pytest.mark.parametrize(
    ("saved", "loaded"),
    [
        # An option that one of them does not have is not in the other's state, so that torch either
        # does not find it, or leaves it out.
        ({"augment": Augment()}, {}),
        ({"augment": Augment(cutout=3)}, {"augment": Augment()}),
        ({"source": "imagenet"}, {}),
        ({"drop_last": True, "classes": ["cat"]}, {"classes": ["cat"]}),
        ({}, {"augment": Augment()}),
        ({}, {"augment": Augment(cutout=3)}),
        ({}, {"shuffle": False}),
        ({"classes": ["cat"]}, {"classes": ["dog"]}),
    ],
)
def test_the_checkpoint_of_a_loader_with_other_options_is_refused(pack, tmp_path, saved, loaded):
    save({"loader": make_loader(pack, **saved)}, checkpoint_id=tmp_path)
    loader = make_loader(pack, **loaded)
    with pytest.raises((StateError, CheckpointException)) as caught:
        load({"loader": loader}, checkpoint_id=tmp_path)
    assert isinstance(caught.value, StateError) or "loader." in str(caught.value)
    assert loader.state_dict()["samples"] == 0
