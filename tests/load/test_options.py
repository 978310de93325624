import copy
import inspect
import os
import pickle
from typing import Any

import numpy as np
import pytest
import torch

from cinicpack import (
    ArgumentError,
    Augment,
    CutMix,
    Loader,
    LoaderError,
    MixUp,
    PackedDataset,
    SelectionError,
)
from cinicpack.study.unpack import unpack
from tests.load.digests import digest

OPTIONS: dict[str, Any] = {
    "batch_size": 7,
    "shuffle": False,
    "augment": Augment(cutout=3),
    "mix": [MixUp(0.5), CutMix()],
    "normalize": ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)),
    "dtype": "float16",
    "channels_last": True,
    "source": "imagenet",
    "classes": ["cat", "dog"],
    "unique": True,
    "drop_last": True,
    "seed": 5,
    "num_workers": 1,
    "device": "cpu",
    "augment_on": "device",
    "resident": True,
    "rank": 1,
    "world_size": 2,
    "return_index": True,
    "output": "torch",
}


def test_every_option_can_be_read_and_none_changed(pack):
    loader = Loader(pack, "train+valid", epoch=3, **OPTIONS)
    names = inspect.signature(Loader).parameters.keys() - {
        "pack",
        "split",
        "epoch",
        "labels",
        "order",
        "views",
    }
    assert names == OPTIONS.keys()
    assert {name: getattr(loader, name) for name in names} == OPTIONS
    assert (loader.pack, loader.split.name, loader.epoch) == (pack, "train+valid", 3)
    for name in ("pack", "split", *OPTIONS):
        before = getattr(loader, name)
        with pytest.raises(ArgumentError, match=f"{name} of a Loader cannot be changed"):
            setattr(loader, name, 7)
        assert getattr(loader, name) is before


def test_options_are_what_was_meant(pack):
    """Names of what was given as something else, and a choice of what was left out."""
    given: dict[str, Any] = {"dtype": torch.float16, "normalize": np.False_}
    loader = Loader(pack.path, pack["valid"], classes=iter(["cat", "dog"]), **given)
    assert (loader.dtype, loader.classes, loader.normalize) == ("float16", ["cat", "dog"], False)
    assert (loader.split.name, loader.pack.fingerprint) == ("valid", pack.fingerprint)
    assert Loader(pack, classes="cat").classes == ["cat"]
    assert loader.num_workers >= 1
    assert (loader.rank, loader.world_size) == (None, None)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"batch_size": 0}, ArgumentError, "batch_size"),
        ({"batch_size": 2.5}, ArgumentError, "batch_size"),
        ({"batch_size": True}, ArgumentError, "batch_size"),
        ({"seed": -1}, ArgumentError, "seed"),
        ({"seed": 2**64}, ArgumentError, "seed"),
        ({"epoch": -1}, ArgumentError, "epoch"),
        ({"epoch": 2**32}, ArgumentError, "epoch"),
        ({"epoch": 1.5}, ArgumentError, "epoch"),
        ({"num_workers": -1}, ArgumentError, "num_workers"),
        ({"dtype": "float64"}, ArgumentError, "float64"),
        ({"dtype": torch.int32}, ArgumentError, "int32"),
        ({"output": "jax"}, ArgumentError, "jax"),
        ({"output": "numpy", "dtype": "bfloat16"}, ArgumentError, "bfloat16"),
        ({"output": "numpy", "device": "cuda"}, ArgumentError, "cuda"),
        ({"normalize": 3}, ArgumentError, "normalize"),
        ({"normalize": ((0, 0), (1, 1))}, ArgumentError, "normalize"),
        ({"normalize": ((0, 0, 0), (1, 1, 0))}, ArgumentError, "std"),
        ({"normalize": ((0, 0, 0), (1, 1, float("nan")))}, ArgumentError, "std"),
        ({"normalize": ((0, 0, 0), (1e-60, 1, 1))}, ArgumentError, "float32"),
        ({"normalize": ((1e60, 0, 0), (1, 1, 1))}, ArgumentError, "float32"),
        ({"rank": 0}, ArgumentError, "world_size"),
        ({"world_size": 2}, ArgumentError, "rank"),
        ({"rank": 2, "world_size": 2}, ArgumentError, "rank"),
        ({"augment": "crop"}, ArgumentError, "augment"),
        ({"augment": Augment(crop_padding=32, padding_mode="reflect")}, ArgumentError, "32"),
        ({"split": "dev"}, SelectionError, "dev"),
        ({"split": ["train", "valid"]}, SelectionError, "train"),
        ({"source": ["cifar10"]}, SelectionError, "cifar10"),
        ({"classes": [["cat"]]}, SelectionError, "cat"),
        ({"source": "places"}, SelectionError, "places"),
        ({"classes": ["cat", "cow"]}, SelectionError, "cow"),
        ({"classes": []}, SelectionError, "no images"),
        ({"augment_on": "gpu"}, ArgumentError, "augment_on"),
        ({"output": "numpy", "augment_on": "device"}, ArgumentError, "made on the CPU"),
        ({"output": "numpy", "resident": True}, ArgumentError, "made on the CPU"),
    ],
)
def test_bad_arguments_are_refused_by_name(pack, options, error, text):
    with pytest.raises(error, match=text):
        Loader(pack, **options)


def test_a_split_of_another_pack_is_refused(pack, small_pack):
    with pytest.raises(SelectionError, match="of another"):
        Loader(pack, small_pack["train"])


def test_a_split_alone_is_no_pack(pack):
    with pytest.raises(ArgumentError, match=r"Loader\(split.pack, split\)"):
        Loader(pack["train"])


def test_without_a_seed_one_is_drawn(pack):
    loaders = [Loader(pack, seed=None, return_index=True) for _ in range(8)]
    assert len({loader.seed for loader in loaders}) == 8
    for loader in loaders:
        assert 0 <= loader.seed < 2**64
        same = Loader(pack, seed=loader.seed, return_index=True)
        assert loader.state_dict() == same.state_dict()
        assert digest(loader) == digest(same)
    with pytest.raises(ArgumentError, match="seed of a Loader cannot be changed"):
        loaders[0].seed = 1


def test_a_seed_is_not_drawn_by_each_rank_for_itself(pack, monkeypatch):
    from torch import distributed

    with pytest.raises(ArgumentError, match="pass seed="):
        Loader(pack, seed=None, rank=0, world_size=2)
    alone = Loader(pack, seed=None, rank=0, world_size=1)
    loader = Loader(pack, seed=None)
    copies = [copy.copy(loader), pickle.loads(pickle.dumps(loader))]
    sent = pickle.dumps(loader)
    with monkeypatch.context() as patched:
        # As in another process, one of all the ranks that this process sends the loader to.
        patched.setattr(os, "getpid", lambda: -1)
        received = pickle.loads(sent)
    state = Loader(pack, seed=3).state_dict()
    with monkeypatch.context() as patched:
        patched.setenv("WORLD_SIZE", "2")
        with pytest.raises(LoaderError, match="pass seed="):
            Loader(pack, seed=None)
    # The other ranks come later.
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 3)
    for own in (loader, *copies):
        for ask in (iter, len):
            with pytest.raises(LoaderError, match="pass seed="):
                ask(own)
        own.load_state_dict(state)
        assert iter(own)
    assert iter(alone)
    assert iter(received)


def test_world_size_without_a_process_group_is_an_error(pack, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    loader = Loader(pack)
    with pytest.raises(LoaderError, match="WORLD_SIZE is 2"):
        iter(loader)
    assert iter(Loader(pack, rank=0, world_size=2))


def test_ranks_on_one_machine_share_its_cores(pack, monkeypatch):
    monkeypatch.setattr("cinicpack.load.options.usable_cores", lambda: 8)
    assert Loader(pack).num_workers == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert Loader(pack).num_workers == 2
    assert Loader(pack, num_workers=5).num_workers == 5
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    assert Loader(pack).num_workers == 1


@pytest.mark.parametrize("options", [{}, {"source": "imagenet", "classes": ("dog", "cat")}])
def test_the_dataset_is_what_an_epoch_has(pack, options):
    loader = Loader(pack, "train+valid", shuffle=False, dtype="uint8", return_index=True, **options)
    dataset = loader.dataset
    assert isinstance(dataset, PackedDataset)
    assert loader.dataset is dataset
    images, labels, rows = (torch.cat(parts) for parts in zip(*loader, strict=True))
    assert len(dataset) == len(labels)
    assert dataset.targets == labels.tolist()
    np.testing.assert_array_equal(dataset.data, images.permute(0, 2, 3, 1))
    np.testing.assert_array_equal(dataset.split.rows if options else np.arange(len(rows)), rows)
    half = Loader(pack, "train+valid", rank=1, world_size=2, drop_last=True, **options)
    assert len(half.dataset) == len(dataset)
    again = pickle.loads(pickle.dumps(loader))
    assert again.dataset is not dataset
    assert again.dataset.targets == dataset.targets
    with pytest.raises(AttributeError):
        loader.dataset = None  # type: ignore[assignment, misc]


def test_what_leaves_no_image_is_what_was_given(pack):
    cats = pack["train"].select(classes="cat")
    with pytest.raises(SelectionError) as raised:
        Loader(pack, cats, classes="dog")
    assert str(raised.value).endswith("has no images with classes=['dog']")


@pytest.mark.parametrize("classes", [3, [3], "lion", ["cat", None], b"cat"])
def test_classes_are_names(pack, tmp_path, classes):
    for use in (
        lambda: Loader(pack, classes=classes),
        lambda: pack["train"].select(classes=classes),
        lambda: unpack(pack, tmp_path / "a", classes=classes),
    ):
        with pytest.raises(
            SelectionError, match=r"expected classes out of airplane, .* a label's n"
        ):
            use()


def test_a_cutout_of_everything_is_refused_when_the_loader_is_made(pack, small_pack):
    for one in (pack, small_pack):
        size = max(one.image_shape)
        assert Loader(one, augment=Augment(cutout=2 * size - 1))
        with pytest.raises(
            ArgumentError, match=f"expected a cutout below {2 * size} for images of"
        ):
            Loader(one, augment=Augment(cutout=2 * size))


def test_what_can_be_refused_is_refused_before_images_are_hashed(pack, monkeypatch):
    def fail(*_: object) -> None:
        pytest.fail("the images are hashed")

    monkeypatch.setattr("cinicpack.store.split.digest_images", fail)
    part = pack["train"][:5]
    for options in ({"augment": Augment(cutout=99)}, {"device": "nope"}, {"normalize": (1, 2)}):
        with pytest.raises(ArgumentError):
            Loader(pack, part, **options)
