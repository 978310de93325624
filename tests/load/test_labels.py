"""Labels of the user's own, and choosing images without copies."""

import copy
import json
from typing import Any

import numpy as np
import pytest
import torch

import cinicpack
from cinicpack import ArgumentError, Augment, Loader, StateError

COUNT = 90
LABELS: dict[str, Any] = {
    "uint8": np.arange(COUNT, dtype=np.uint8),
    "negative": np.arange(COUNT) - 1,
    "list": list(range(COUNT)),
    "float64": np.arange(COUNT) / 7,
    "columns": np.arange(COUNT * 3).reshape(COUNT, 3),
    "shares": np.arange(COUNT * 2, dtype=np.float16)[::-1].reshape(COUNT, 2),
    "tensor": torch.arange(COUNT),
}
WAYS: list[dict[str, Any]] = [
    {"num_workers": 0},
    {"num_workers": 3, "batch_size": 11},
    {"augment_on": "device"},
    {"resident": True},
    {"rank": 1, "world_size": 2, "batch_size": 7},
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", LABELS)
def test_labels_go_by_the_row_of_the_split_whatever_is_left_of_it(pack, name, way):
    given = np.asarray(LABELS[name])
    options: dict[str, Any] = {"augment": Augment(), "return_index": True, "source": "imagenet"}
    loader = Loader(pack, labels=LABELS[name], **options, **way)
    plain = Loader(pack, **options, **way)
    kind = torch.float32 if given.dtype.kind == "f" else torch.int64
    for (images, labels, index), (same, _, rows) in zip(loader, plain, strict=True):
        assert torch.equal(images, same)
        assert torch.equal(index, rows)
        assert labels.dtype == kind
        assert labels.is_contiguous()
        assert torch.equal(labels, torch.from_numpy(given[rows.numpy()]).to(kind))


def test_labels_are_numpy_where_images_are(pack):
    given = np.arange(2 * COUNT).reshape(COUNT, 2) / 4
    for _, labels, index in Loader(pack, labels=given, output="numpy", return_index=True):
        assert type(labels) is np.ndarray
        assert labels.dtype == np.float32
        assert labels.base is None
        assert np.array_equal(labels, given[index])


def test_labels_are_read_once(pack):
    given = np.arange(COUNT) / 2
    loader = Loader(pack, labels=given, shuffle=False)
    given[:] = -1
    again = copy.copy(loader)
    for one in (loader, again):
        labels = torch.cat([batch[1] for batch in one])
        assert labels.tolist() == (np.arange(COUNT) / 2).tolist()
    assert loader.labels is not None
    with pytest.raises(ValueError, match="read-only"):
        loader.labels[:] = 3


def test_a_state_knows_labels(pack):
    noisy = cinicpack.study.label_noise(pack["train"], 0.5)
    loader = Loader(pack, labels=noisy, batch_size=8, return_index=True)
    iterator = iter(loader)
    next(iterator)
    state = json.loads(json.dumps(loader.state_dict()))
    assert len(json.dumps(state)) < 600
    resumed = Loader(pack, labels=noisy, batch_size=5, return_index=True)
    resumed.load_state_dict(state)
    expected = torch.cat([batch[1] for batch in iterator])
    assert torch.equal(torch.cat([batch[1] for batch in resumed]), expected)
    for other in (None, noisy[::-1], noisy.astype(float), noisy.reshape(-1, 1)):
        with pytest.raises(StateError, match="another loader: labels"):
            Loader(pack, labels=other).load_state_dict(state)


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        (np.zeros(COUNT - 1), r"each of the 90 rows of the split.*\(89,\)"),
        (np.zeros((COUNT, 1, 1)), r"each of the 90 rows.*\(90, 1, 1\)"),
        (3, "each of the 90 rows"),
        (np.zeros((COUNT, 0)), r"\(N, K\).*\(90, 0\)"),
        (["cat"] * COUNT, "integers or floats"),
        (np.zeros(COUNT, bool), "integers or floats.*bool"),
        (np.full(COUNT, 2**63, np.uint64), "int64 can hold, found 9223372036854775808"),
        (np.where(np.arange(COUNT) == 7, np.nan, 0), "nan in row 7.*-1"),
        (np.full((COUNT, 2), 1e39), "finite in float32"),
        ([[1], [2, 3]], "labels to become an array"),
    ],
)
def test_bad_labels_are_refused(pack, labels, text):
    with pytest.raises(ArgumentError, match=text):
        Loader(pack, labels=labels)


def test_images_without_copies(pack):
    twice = pack["train"] + pack["train"].select(indices=range(5))
    loader = Loader(pack, twice, unique=True, shuffle=False, return_index=True)
    index = torch.cat([batch[2] for batch in loader])
    assert index.tolist() == twice.where(unique=True).tolist()
    assert len(index) < len(twice)
    with pytest.raises(StateError, match="another loader: unique"):
        Loader(pack, twice, shuffle=False).load_state_dict(loader.state_dict())
