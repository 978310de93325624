import inspect
import pickle
import re
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import cinicpack
from cinicpack import CIFAR10, CIFAR100, CINIC10, PackedDataset
from cinicpack.errors import ArgumentError, SelectionError, SourceError
from cinicpack.fetch import ready
from cinicpack.fetch.mirrors import Mirror
from cinicpack.formats.cifar10 import write_batches
from cinicpack.synthetic import write_tree
from tests.convert.test_cifar import CIFAR10 as SMALL_CIFAR10
from tests.fetch.server import CONTENT, serving
from tests.torchvision_here import import_torchvision


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A folder with a small CINIC-10 and a small CIFAR-10 in it, packed by the first of all."""
    folder: Path = tmp_path_factory.mktemp("root")
    write_tree(folder / "CINIC-10", 2)
    with pytest.warns(UserWarning, match="like CINIC-10, but"):
        CINIC10(folder)
    batches = folder / "cifar-10-batches-py"
    batches.mkdir()
    write_batches(SMALL_CIFAR10, batches, "py")
    return folder


def test_it_is_a_packed_dataset(root):
    dataset = CINIC10(root, split="train+valid", target_transform=str)
    assert isinstance(dataset, PackedDataset)
    assert len(dataset) == 40
    image, target = dataset[0]
    assert image.size == (32, 32)
    assert target == "0"
    assert dataset.data.shape == (40, 32, 32, 3)
    assert repr(dataset).startswith("Dataset CINIC10\n    Number of datapoints: 40\n    Root loc")
    # Workers of a DataLoader get it pickled, and open the pack themselves.
    again = pickle.loads(pickle.dumps(dataset))
    assert isinstance(again, CINIC10)
    assert again[39][1] == "9"
    [batch] = DataLoader(CINIC10(root), 20, collate_fn=list)
    assert len(batch) == 20


def test_a_loader_of_it(root):
    dataset = CINIC10(root, "test")
    loader = dataset.loader(batch_size=8, shuffle=False, normalize=False, dtype="uint8")
    assert isinstance(loader, cinicpack.Loader)
    images = torch.cat([images for images, _ in loader])
    np.testing.assert_array_equal(images.permute(0, 2, 3, 1).numpy(), dataset.data)


def test_a_loader_does_not_pass_over_what_the_dataset_would_do(root):
    for changed in (CINIC10(root, transform=len), CINIC10(root, target_transform=str)):
        with pytest.raises(
            ArgumentError, match=r"expected a dataset without (target_)?transform, "
        ):
            changed.loader()
    relabelled = CINIC10(root)
    relabelled.targets[0] = 3
    with pytest.raises(ArgumentError, match="expected the targets of the pack"):
        relabelled.loader()


@pytest.mark.parametrize("split", ["", "validation", "train+nope"])
def test_other_splits_are_refused_before_anything_is_made(tmp_path, split):
    with pytest.raises(
        SelectionError, match="out of train, valid, test, found " + re.escape(repr(split))
    ):
        CINIC10(tmp_path, split, download=True)
    assert not list(tmp_path.iterdir())


def test_cifar10_is_made_from_what_torchvision_leaves(root):
    train, test = CIFAR10(root), CIFAR10(root, train=False)
    assert train.targets == SMALL_CIFAR10.train.records[:, 0].tolist()
    assert test.targets == SMALL_CIFAR10.test.records[:, 0].tolist()
    assert (root / "cifar10.pack").is_dir()
    assert train.loader(batch_size=5, output="numpy").batch_size == 5


def test_cifar10_is_made_from_an_archive(root, tmp_path):
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as archive:
        archive.add(root / "cifar-10-batches-py", "cifar-10-batches-py")
    made = CIFAR10(tmp_path)
    assert made.split.pack.fingerprint == CIFAR10(root).split.pack.fingerprint


def test_arguments_are_those_of_torchvision(root):
    datasets = import_torchvision().datasets
    for ours, theirs in ((CIFAR10, datasets.CIFAR10), (CIFAR100, datasets.CIFAR100)):
        expected = inspect.signature(theirs).parameters
        found = inspect.signature(ours).parameters
        assert [*found] == [*expected]
        assert all(found[name].default == expected[name].default for name in found)
    # As of the data sets that have a split instead, like SVHN.
    assert [*inspect.signature(CINIC10).parameters] == [
        *inspect.signature(datasets.SVHN).parameters
    ]


def test_without_anything_each_says_what_to_put_where(tmp_path):
    for kind, name in ((CINIC10, "CINIC-10"), (CIFAR10, "cifar-10-batches-py")):
        with pytest.raises(
            SourceError, match=rf"^{tmp_path}: expected .*{name}.* in it, found none"
        ):
            kind(tmp_path)
    with pytest.raises(SourceError, match="cifar-100-python"):
        CIFAR100(tmp_path)


def test_it_is_downloaded_if_that_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with serving() as server:
        mirror = Mirror("official", "first.org", (server.remote(),), len(CONTENT))
        data = ready.CINIC10._replace(mirrors=(mirror,))
        monkeypatch.setattr("cinicpack.fetch.ready.CINIC10", data)
        for _ in range(2):
            assert len(CINIC10(tmp_path, download=True)) == 120
        assert server.requests == [None]


def test_a_second_start_takes_milliseconds(root):
    def start() -> float:
        begun = time.perf_counter()
        CINIC10(root)
        return time.perf_counter() - begun

    # The fastest of several: other programs may take the processor for a while.
    assert min(start() for _ in range(20)) < 0.02
