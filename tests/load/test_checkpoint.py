import pytest
import torch
from torch.distributed import checkpoint
from torch.distributed.checkpoint.stateful import Stateful

from cinicpack import Augment, Loader, StateError

OPTIONS = [
    {"augment": Augment(flip="alternating", cutout=8), "seed": 2**64 - 1},
    {"source": "imagenet", "classes": ["cat", "dog", "ship"], "shuffle": False},
]


def make_loader(pack, **options):
    return Loader(pack, "train+test", batch_size=8, return_index=True, **options)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("batches", [0, 3])
def test_a_loader_is_saved_and_loaded_with_a_model(pack, tmp_path, options, batches):
    model = torch.nn.Linear(2, 2)
    loader = make_loader(pack, **options)
    list(loader)
    iterator = iter(loader)
    for _ in range(batches):
        next(iterator)
    checkpoint.save(
        {"model": model.state_dict(), "loader": loader}, checkpoint_id=tmp_path, no_dist=True
    )
    expected = list(iterator)

    weights = torch.nn.Linear(2, 2).state_dict()
    again = make_loader(pack, **options)
    assert isinstance(again, Stateful)
    checkpoint.load({"model": weights, "loader": again}, checkpoint_id=tmp_path, no_dist=True)
    assert torch.equal(weights["weight"], model.weight)
    batches = list(again)
    assert len(batches) == len(expected)
    for batch, other in zip(batches, expected, strict=True):
        assert all(map(torch.equal, batch, other))


def test_the_checkpoint_of_another_loader_is_refused(pack, tmp_path):
    checkpoint.save({"loader": make_loader(pack)}, checkpoint_id=tmp_path, no_dist=True)
    with pytest.raises(Exception, match="seed 0 .here 1.") as caught:
        checkpoint.load({"loader": make_loader(pack, seed=1)}, checkpoint_id=tmp_path, no_dist=True)
    assert isinstance(caught.value, StateError)
