"""The batch of any rows."""

from typing import Any

import numpy as np
import pytest
import torch

from cinicpack import ArgumentError, Augment, Loader, LoaderError

ROWS = [5, 80, 5, 5, 0, 33, 80, 12]
WAYS: list[dict[str, Any]] = [
    {"num_workers": 0},
    {"num_workers": 2, "batch_size": 3, "channels_last": True},
    {"augment_on": "device", "batch_size": 5},
    {"resident": True},
    {"output": "numpy", "batch_size": 2},
]


def load(pack, **options) -> Loader:
    defaults: dict[str, Any] = {"augment": Augment(cutout=3), "return_index": True}
    return Loader(pack, **defaults | options)


def equal(first, second) -> bool:
    return len(first) == len(second) and all(map(np.array_equal, first, second))


@pytest.mark.parametrize("way", WAYS)
def test_a_batch_is_what_an_epoch_of_these_rows_gives(pack, way):
    loader = load(pack, **way)
    for epoch in (0, 3):
        [expected] = load(pack, order=ROWS, epoch=epoch, **way | {"batch_size": 8})
        found = loader.batch(ROWS, epoch)
        assert equal(found, expected)
        if way.get("output") != "numpy":
            assert [member.stride() for member in found] == [one.stride() for one in expected]


@pytest.mark.parametrize("way", WAYS)
def test_what_iterates_goes_on(pack, way):
    loader, other = load(pack, **way), load(pack, **way)
    iterator, batches, held = iter(loader), [], []
    for batch in iterator:
        batches.append(batch)
        held.append(loader.batch(ROWS))
    assert all(equal(one, held[0]) for one in held)
    assert all(equal(one, expected) for one, expected in zip(batches, other, strict=True))
    assert loader.state_dict() == other.state_dict()


def test_rows_are_those_of_the_split_and_samples_the_same_whatever_the_order(pack):
    kept = pack["train"].where(source="imagenet")
    loader = load(pack, source="imagenet", rank=1, world_size=2, labels=np.arange(90) / 2)
    images, labels, index = loader.batch(kept[::-1], epoch=1)
    assert index.tolist() == kept[::-1].tolist()
    assert labels.tolist() == (kept[::-1] / 2).tolist()
    alone = load(pack, source="imagenet", epoch=1, shuffle=False)
    assert torch.equal(images.flip(0), torch.cat([batch[0] for batch in alone]))


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([90], "rows of the split that the loader has, found 90"),
        ([-1], "found -1"),
        ([], "at least one"),
        (3, "in one dimension"),
        ([0.5], "whole numbers"),
        (np.zeros(2**16 + 1, int), "found one 65537 times"),
    ],
)
def test_rows_that_are_not_there_are_refused(pack, rows, text):
    with pytest.raises(ArgumentError, match=text):
        load(pack).batch(rows)


def test_no_other_epoch_and_nothing_after_close(pack):
    loader = load(pack)
    with pytest.raises(ArgumentError, match="epoch to be a whole number"):
        loader.batch([1], -1)
    loader.close()
    with pytest.raises(LoaderError, match="open loader"):
        loader.batch([1])
