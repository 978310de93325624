import gc
import shutil
import weakref
from typing import Any

import numpy as np
import pytest
import torch

import cinicpack
from cinicpack import ArgumentError, Augment, Loader, StateError
from cinicpack.load.equipment import _find_idle, _find_shelf
from cinicpack.synthetic import write_tree
from tests.load.digests import digest

AUGMENTS = [
    None,
    Augment(),
    Augment(padding_mode="reflect", flip="alternating"),
    Augment(crop_padding=0, flip=None, cutout=8),
]


def test_a_batch_is_images_and_labels(pack):
    loader = Loader(pack, "train", batch_size=8)
    images, labels = next(iter(loader))
    assert images.shape == (8, 3, 32, 32)
    assert images.dtype == torch.float32
    assert images.is_contiguous()
    assert labels.shape == (8,)
    assert labels.dtype == torch.int64


def test_a_pack_is_a_path_or_a_pack(pack):
    first = next(iter(Loader(str(pack.path), "train", batch_size=8)))
    second = next(iter(Loader(pack, pack["train"], batch_size=8)))
    assert torch.equal(first[0], second[0])


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("batch_size", [1, 7, 32, 1000])
def test_an_epoch_is_every_sample_once(pack, shuffle, batch_size):
    loader = Loader(pack, "valid", batch_size=batch_size, shuffle=shuffle, return_index=True)
    for _ in range(2):
        batches = list(loader)
        assert len(batches) == len(loader)
        index = torch.cat([batch[2] for batch in batches])
        labels = torch.cat([batch[1] for batch in batches])
        assert sorted(index.tolist()) == list(range(len(pack["valid"])))
        assert (index.tolist() == list(range(len(index)))) is not shuffle
        assert np.array_equal(pack["valid"].labels[index.numpy()], labels.numpy())


def test_orders_differ_by_epoch_and_seed_and_repeat(pack):
    def order(seed, epoch):
        loader = Loader(pack, batch_size=1000, seed=seed, return_index=True)
        loader.set_epoch(epoch)
        return next(iter(loader))[2].tolist()

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1, 2**63) for epoch in range(3)}) == 9


def test_without_augmentation_images_are_those_of_the_pack(pack):
    loader = Loader(pack, "test", shuffle=False, batch_size=16)
    images = torch.cat([images for images, _ in loader]).double().numpy()
    pixels = np.asarray(pack["test"].images).transpose(0, 3, 1, 2) / 255
    mean, std = (np.reshape(values, (3, 1, 1)) for values in (pack.mean, pack.std))
    assert np.abs(images - (pixels - mean) / std).max() < 2e-6


def test_normalize(pack):
    def images(normalize):
        loader = Loader(pack, "test", shuffle=False, batch_size=64, normalize=normalize)
        return next(iter(loader))[0]

    raw = images(False)
    assert raw.min() >= 0
    assert raw.max() <= 1
    mean, std = (0.1, 0.2, 0.3), (0.5, 1.0, 2.0)
    expected = (raw - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert (images((mean, std)) - expected).abs().max() < 2e-6
    assert torch.equal(images(True), images((pack.mean, pack.std)))


@pytest.mark.parametrize("augment", AUGMENTS)
def test_samples_do_not_depend_on_how_they_are_loaded(pack, sharded_pack, hdf5_pack, augment):
    def load(source, **options):
        return digest(Loader(source, "train", augment=augment, return_index=True, **options))

    expected = load(pack, batch_size=16, num_workers=1)
    for workers in (0, 2, 4):
        assert load(pack, batch_size=16, num_workers=workers) == expected
    for batch_size in (1, 5, 64, 1000):
        assert load(pack, batch_size=batch_size, num_workers=2) == expected
    assert load(pack, batch_size=16, shuffle=False) == expected
    assert load(sharded_pack, batch_size=16) == expected
    assert load(hdf5_pack, batch_size=16) == expected
    assert load(pack, batch_size=16, channels_last=True) == expected
    if augment is not None and augment.flip == "random":
        assert load(pack, batch_size=16, seed=1) != expected


def test_epochs_are_augmented_differently(pack):
    loader = Loader(pack, augment=Augment(), return_index=True)
    assert digest(loader) != digest(loader)
    loader.set_epoch(0)
    first = digest(loader)
    loader.set_epoch(0)
    assert digest(loader) == first


def test_a_selection_gives_the_samples_that_the_whole_gives(pack):
    options: dict[str, Any] = {
        "augment": Augment(),
        "return_index": True,
        "batch_size": 16,
        "shuffle": False,
    }
    whole = {
        row: image
        for images, _, index in Loader(pack, "train+valid", **options)
        for row, image in zip(index.tolist(), images, strict=True)
    }
    classes = ["cat", "truck"]
    count = 0
    loader = Loader(pack, "train+valid", source="imagenet", classes=classes, **options)
    for images, labels, index in loader:
        for image, label, row in zip(images, labels.tolist(), index.tolist(), strict=True):
            assert torch.equal(image, whole[row])
            assert pack.classes[label] in classes
            count += 1
    assert count == len(pack["train+valid"].select(source="imagenet", classes=classes))


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("float16", torch.float16), ("bfloat16", torch.bfloat16), (torch.float16, torch.float16)],
)
@pytest.mark.parametrize("channels_last", [False, True])
def test_half_precision_is_float32_rounded(pack, dtype, expected, channels_last):
    options: dict[str, Any] = {
        "augment": Augment(),
        "batch_size": 32,
        "channels_last": channels_last,
    }
    half = next(iter(Loader(pack, dtype=dtype, **options)))[0]
    full = next(iter(Loader(pack, **options)))[0]
    assert half.dtype == expected
    assert half.shape == full.shape
    assert half.stride() == full.stride()
    assert torch.equal(half, full.to(expected))


def test_uint8_is_pixels(pack):
    images, _ = next(iter(Loader(pack, "test", dtype="uint8", shuffle=False, batch_size=20)))
    assert images.dtype == torch.uint8
    pixels = np.asarray(pack["test"].images[:20]).transpose(0, 3, 1, 2)
    assert np.array_equal(images.numpy(), pixels)
    with pytest.raises(ArgumentError, match="uint8 batches are raw pixels"):
        Loader(pack, dtype="uint8", normalize=((0, 0, 0), (1, 1, 1)))


def test_channels_last(pack):
    images, _ = next(iter(Loader(pack, batch_size=8, channels_last=True)))
    assert images.shape == (8, 3, 32, 32)
    assert images.is_contiguous(memory_format=torch.channels_last)
    numpy, _ = next(iter(Loader(pack, batch_size=8, channels_last=True, output="numpy")))
    assert numpy.shape == (8, 32, 32, 3)
    assert np.array_equal(numpy, images.permute(0, 2, 3, 1).numpy())


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_numpy_output(pack, dtype):
    numpy = list(Loader(pack, batch_size=8, dtype=dtype, output="numpy", return_index=True))
    tensors = list(Loader(pack, batch_size=8, dtype=dtype, return_index=True))
    for arrays, expected in zip(numpy, tensors, strict=True):
        for array, tensor in zip(arrays, expected, strict=True):
            assert type(array) is np.ndarray
            assert np.array_equal(array, tensor.numpy())


def test_drop_last(pack):
    count = len(pack["train"])
    loader = Loader(pack, batch_size=count - 1, drop_last=True)
    assert [len(labels) for _, labels in loader] == [count - 1]
    assert len(loader) == 1
    assert len(Loader(pack, batch_size=count + 1, drop_last=True)) == 0
    empty = Loader(pack, batch_size=count + 1, drop_last=True)
    assert list(empty) == []
    assert empty.state_dict()["epoch"] == 1


@pytest.mark.parametrize("num_workers", [0, 1, 2])
@pytest.mark.parametrize("batch_size", [4, 50])
def test_held_batches_keep_their_values(pack, num_workers, batch_size):
    loader = Loader(pack, augment=Augment(), batch_size=batch_size, num_workers=num_workers)
    held = [(images, images.clone(), labels, labels.clone()) for images, labels in loader]
    views = [(images[1, :, 3:5], images[1, :, 3:5].clone()) for images, *_ in held[:-1]]
    arrays = [(images.numpy(), images.numpy().copy()) for images, _ in loader]
    for images, copy, labels, labels_copy in held:
        assert torch.equal(images, copy)
        assert torch.equal(labels, labels_copy)
    del held, images, copy
    gc.collect()
    for _ in range(3):
        list(loader)
    del loader
    gc.collect()
    assert all(torch.equal(view, copy) for view, copy in views)
    assert all(np.array_equal(array, copy) for array, copy in arrays)


def test_labels_and_index_keep_no_images(pack):
    loader = Loader(pack, batch_size=10, num_workers=0, return_index=True)
    places, kept = set(), []
    clear_shelves()
    for images, *rest in loader:
        places.add(images.data_ptr())
        kept.append((rest, [tensor.clone() for tensor in rest]))
        assert all(tensor.untyped_storage().nbytes() == 8 * 10 for tensor in rest)
        assert images.untyped_storage().nbytes() == images.nbytes
    # The one that is there, and the next.
    assert len(places) == 2
    assert all(all(map(torch.equal, tensors, copies)) for tensors, copies in kept)


def test_a_batch_may_be_larger_than_the_split(pack):
    loader = Loader(pack, batch_size=2**62, dtype="uint8")
    assert len(loader) == 1
    ((images, labels),) = loader
    assert len(images) == len(labels) == len(pack["train"])


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("output", ["torch", "numpy"])
@pytest.mark.parametrize("options", [{}, {"return_index": True}, {"dtype": "uint8"}])
def test_dropped_batches_are_recycled(pack, num_workers, output, options):
    """Those that are made ahead, 8 at most, the one that is there, and the next."""
    clear_shelves()
    options = {"batch_size": 10, "num_workers": num_workers, "output": output, **options}
    places = set()
    # All loaders of a kind share their memory.
    for seed in range(10):
        loader = Loader(pack, seed=seed, augment=Augment(), **options)
        for _ in range(5):
            for images, *_ in loader:
                places.add(place_of(images))
            del images
    assert len(places) <= (10 if num_workers else 2)


def place_of(images):
    return images.data_ptr() if isinstance(images, torch.Tensor) else images.ctypes.data


def clear_shelves():
    _find_idle.cache_clear()
    _find_shelf.cache_clear()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_close_gives_the_memory_of_large_batches_back(pack, num_workers):
    clear_shelves()
    loader = Loader(pack, batch_size=90, num_workers=num_workers, output="numpy")
    memory = []
    for _ in range(3):
        for images, _ in loader:
            memory.append(weakref.ref(images.base))
    held = images[:2]
    expected = held.copy()
    del images
    loader.close()
    kept = [array for one in memory if (array := one()) is not None]
    assert all(array is held.base for array in kept)
    assert np.array_equal(held, expected)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("drop_last", [False, True])
def test_ranks_share_the_epoch(pack, world_size, drop_last):
    def load(rank):
        loader = Loader(
            pack, "valid", batch_size=7, rank=rank, world_size=world_size, drop_last=drop_last,
            return_index=True,
        )  # fmt: skip
        return [batch[2].tolist() for batch in loader]

    alone = Loader(pack, "valid", batch_size=7 * world_size, drop_last=drop_last, return_index=True)
    expected = [batch[2].tolist() for batch in alone]
    ranks = [load(rank) for rank in range(world_size)]
    assert {len(batches) for batches in ranks} == {len(expected)}
    for number, globally in enumerate(expected):
        shares = [batches[number] for batches in ranks]
        assert all(share == globally[rank::world_size] for rank, share in enumerate(shares))


@pytest.mark.parametrize("name", ["one.pack", "one.h5"])
@pytest.mark.parametrize("replaced", [False, True])
def test_an_open_loader_survives_its_pack(tree, tmp_path, name, replaced):
    path = tmp_path / name
    form = "npy" if name == "one.pack" else "hdf5"
    cinicpack.pack(tree, path, format=form, progress=False)
    loader = Loader(path, augment=Augment(), return_index=True)
    expected, state = digest(loader), loader.state_dict()
    if replaced:
        write_tree(tmp_path / "other", 2, size=12, seed=1)
        with pytest.warns(UserWarning, match="like CINIC-10"):
            cinicpack.pack(tmp_path / "other", path, format=form, overwrite=True, progress=False)
        other = Loader(path, augment=Augment(), return_index=True)
        assert digest(other) != expected
        with pytest.raises(StateError, match="fingerprint"):
            other.load_state_dict(state)
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    loader.set_epoch(0)
    assert digest(loader) == expected
