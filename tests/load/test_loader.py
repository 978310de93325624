import copy
import gc
import hashlib
import json
import os
import pickle
import shutil
import threading
import weakref
from typing import Any

import numpy as np
import pytest
import torch

import cinicpack
from cinicpack import ArgumentError, Augment, Loader, LoaderError, SelectionError, StateError
from cinicpack.synthetic import write_tree
from tests.load.threads import threads, wait_for_no_threads

AUGMENTS = [
    None,
    Augment(),
    Augment(padding_mode="reflect", flip="alternating"),
    Augment(crop_padding=0, flip=None, cutout=8),
]


@pytest.fixture(autouse=True)
def small_slabs(monkeypatch):
    """Make an epoch of 90 images many slabs, as it is at full size."""
    monkeypatch.setattr("cinicpack.load.loader._SLAB_BYTES", 100_000)


def digest(loader):
    """Hash what became of every sample of an epoch, whatever the order of arrival."""
    samples = []
    for images, labels, index in loader:
        for image, label, row in zip(images, labels.tolist(), index.tolist(), strict=True):
            raw = image.contiguous().view(torch.uint8).numpy().tobytes()
            samples.append((row, label, hashlib.sha256(raw).digest()))
    return hashlib.sha256(repr(sorted(samples)).encode()).hexdigest()


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
    for images, images_copy, labels, labels_copy in held:
        assert torch.equal(images, images_copy)
        assert torch.equal(labels, labels_copy)
    del held, images, images_copy
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
    for images, *rest in loader:
        places.add(images.data_ptr())
        kept.append((rest, [tensor.clone() for tensor in rest]))
        assert all(tensor.untyped_storage().nbytes() == 8 * 10 for tensor in rest)
        assert images.untyped_storage().nbytes() == images.nbytes
    # The one that is there, and the next.
    assert len(places) == 2
    assert all(all(map(torch.equal, tensors, copies)) for tensors, copies in kept)


@pytest.mark.parametrize("option", ["batch_size", "seed", "augment", "split", "num_workers"])
def test_options_cannot_be_changed(pack, option):
    loader = Loader(pack)
    before = getattr(loader, option)
    with pytest.raises(ArgumentError, match=f"{option} of a Loader cannot be changed"):
        setattr(loader, option, 7)
    assert getattr(loader, option) is before


def test_a_batch_may_be_larger_than_the_split(pack):
    loader = Loader(pack, batch_size=2**62, dtype="uint8")
    assert len(loader) == 1
    ((images, labels),) = loader
    assert len(images) == len(labels) == len(pack["train"])


def test_dropped_batches_are_recycled(pack):
    loader = Loader(pack, batch_size=10, num_workers=2, augment=Augment())
    places = set()
    for _ in range(50):
        for images, _ in loader:
            places.add(images.data_ptr())
        del images
    slabs = loader.num_workers + 1 + 2
    assert len(places) <= slabs * loader._slab_batches


def test_close_gives_the_memory_back(pack):
    loader = Loader(pack, batch_size=10, num_workers=2)
    list(loader)
    maker: Any = loader._maker
    memory = [weakref.ref(spare) for spare in [*maker._images._spares, *maker._columns._spares]]
    assert memory
    loader.close()
    assert not [spare for spare in memory if spare() is not None]


@pytest.mark.parametrize("how", ["break", "exception", "drop", "close", "forget", "loader"])
def test_no_thread_is_left(pack, how):
    loader = Loader(pack, batch_size=4, num_workers=3)
    iterator = iter(loader)
    next(iterator)
    if how == "break":
        del iterator
        for _ in loader:
            assert threads()
            break
    elif how == "exception":
        del iterator
        with pytest.raises(ZeroDivisionError):
            sum(1 / (batch[1].numel() - batch[1].numel()) for batch in loader)
    elif how == "drop":
        del iterator
    elif how == "close":
        iterator.close()
    elif how == "forget":
        list(iterator)
        del iterator, loader
    else:
        loader.close()
        with pytest.raises(LoaderError, match="after close"):
            iter(loader)
    gc.collect()
    wait_for_no_threads()


def test_the_same_threads_go_on_with_the_next_epoch(pack):
    loader = Loader(pack, batch_size=4, num_workers=3, return_index=True)
    epochs, seen = [], []
    for number in range(4):
        # Setting the epoch that is due changes nothing.
        loader.set_epoch(number)
        epochs.append([index.tolist() for _, _, index in loader])
        seen.append(threads())
    assert len(seen[0]) == 3
    assert all(set(later) == set(seen[0]) for later in seen)
    loader.set_epoch(2)
    assert [index.tolist() for _, _, index in loader] == epochs[2]
    assert len(threads()) == 3
    loader.close()
    assert not threads()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_loader_goes_on_in_a_forked_process(pack):
    loader = Loader(pack, "valid", batch_size=4, num_workers=2, return_index=True)
    list(loader)
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(write, json.dumps([index.tolist() for _, _, index in loader]).encode())
        finally:
            os._exit(0)
    os.close(write)
    with open(read, "rb") as stream:
        found = json.load(stream)
    os.waitpid(child, 0)
    assert found == [index.tolist() for _, _, index in loader]


def test_a_new_iterator_closes_the_old_one(pack):
    loader = Loader(pack, batch_size=4)
    old = iter(loader)
    next(old)
    new = iter(loader)
    with pytest.raises(LoaderError, match="newer"):
        next(old)
    assert len(list(new)) == len(loader)
    with pytest.raises(StopIteration):
        next(new)


def test_an_error_in_a_thread_surfaces_in_the_consumer(pack, monkeypatch):
    from cinicpack.load.samples import Samples

    def fail(self, *arguments):
        raise OSError("the disk is gone")

    monkeypatch.setattr(Samples, "fill", fail)
    iterator = iter(Loader(pack))
    with pytest.raises(OSError, match="the disk is gone"):
        next(iterator)
    with pytest.raises(LoaderError):
        next(iterator)
    assert not threads()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_interrupt_closes_the_iterator_and_loses_no_place(pack, monkeypatch, num_workers):
    loader = Loader(pack, batch_size=4, num_workers=num_workers, return_index=True)
    expected = [index.tolist() for epoch in range(2) for _, _, index in loader]
    loader.set_epoch(0)
    iterator = iter(loader)
    got = [next(iterator)[2].tolist() for _ in range(3 * loader._slab_batches)]

    def interrupt(pipeline):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("cinicpack.load.pipeline.Pipeline._take", interrupt)
        with pytest.raises(KeyboardInterrupt):
            next(iterator)
    with pytest.raises(LoaderError, match="interrupt"):
        next(iterator)
    assert not threads()
    loader.load_state_dict(loader.state_dict())
    got += [index.tolist() for epoch in range(2) for _, _, index in loader]
    assert got == expected


def test_an_epoch_that_cannot_start_is_not_used_up(pack, monkeypatch):
    loader = Loader(pack, batch_size=4, num_workers=2, return_index=True)
    loader._cold = False
    expected = [index.tolist() for _, _, index in loader]
    loader.load_state_dict({**loader.state_dict(), "epoch": 0, "samples": 8})

    def fail(thread):
        raise RuntimeError("can't start new thread")

    loader._close_pipeline()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError, match="can't start"):
            iter(loader)
    assert loader.state_dict()["samples"] == 8
    assert [index.tolist() for _, _, index in loader] == expected[2:]


def test_set_epoch_in_an_epoch_is_about_the_next_one(pack):
    loader = Loader(pack, batch_size=40, return_index=True)
    epochs = [[index.tolist() for _, _, index in loader] for _ in range(3)]
    loader.set_epoch(0)
    iterator = iter(loader)
    got = [next(iterator)[2].tolist()]
    loader.set_epoch(2)
    assert (loader.state_dict()["epoch"], loader.state_dict()["samples"]) == (0, 40)
    got += [index.tolist() for _, _, index in iterator]
    assert got == epochs[0]
    assert loader.state_dict()["epoch"] == 2
    assert [index.tolist() for _, _, index in loader] == epochs[2]


def test_set_epoch_keeps_the_place_in_that_epoch(pack):
    """A loop that sets every epoch, as for a DistributedSampler, goes on from a state."""
    loader = Loader(pack, batch_size=40, return_index=True)
    epochs = [[index.tolist() for _, _, index in loader] for _ in range(3)]
    loader.load_state_dict({**loader.state_dict(), "epoch": 1, "samples": 40})
    got = []
    for epoch in (1, 2):
        loader.set_epoch(epoch)
        got.append([index.tolist() for _, _, index in loader])
    assert got == [epochs[1][1:], epochs[2]]
    loader.load_state_dict({**loader.state_dict(), "epoch": 1, "samples": 40})
    loader.set_epoch(2)
    assert [index.tolist() for _, _, index in loader] == epochs[2]


def test_epochs_count_on(pack):
    loader = Loader(pack, batch_size=16)
    assert loader.state_dict()["epoch"] == 0
    for expected in range(3):
        for _ in loader:
            assert loader.state_dict()["epoch"] == expected or not loader._running()
    assert loader.state_dict()["epoch"] == 3
    loader.set_epoch(10)
    assert loader.state_dict()["epoch"] == 10
    for _ in loader:
        break
    assert loader.state_dict()["epoch"] == 10
    iter(loader)
    assert loader.state_dict()["epoch"] == 11


@pytest.mark.parametrize("epoch", [0, 1, 7, 2**32 - 1])
def test_a_loader_can_start_at_any_epoch(pack, epoch):
    loader = Loader(pack, augment=Augment(), return_index=True, epoch=epoch)
    other = Loader(pack, augment=Augment(), return_index=True)
    other.set_epoch(epoch)
    assert loader.state_dict() == other.state_dict()
    for _ in range(2 if epoch < 2**32 - 1 else 1):
        for batch, expected in zip(loader, other, strict=True):
            assert all(map(torch.equal, batch, expected))


@pytest.mark.parametrize("batch_size", [16, 1000])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_epoch_is_that_of_the_running_iterator_or_of_the_next(pack, batch_size, num_workers):
    loader = Loader(pack, batch_size=batch_size, num_workers=num_workers, epoch=3)
    assert loader.epoch == 3
    for expected in (3, 4):
        # Also with the last batch.
        assert [loader.epoch for _ in loader] == [expected] * len(loader)
        assert loader.epoch == expected + 1
    loader.set_epoch(1)
    assert loader.epoch == 1
    iterator = iter(loader)
    loader.set_epoch(9)
    assert loader.epoch == 1
    list(iterator)
    assert loader.epoch == 9
    for leave in (lambda: None, iterator.close, loader.close):
        iterator = iter(loader)
        epoch = loader.epoch
        del iterator
        leave()
        assert loader.epoch == epoch + 1
    loader = Loader(pack, batch_size=16)
    loader.load_state_dict({**loader.state_dict(), "epoch": 5, "samples": 16})
    assert loader.epoch == 5
    assert [loader.epoch for _ in loader] == [5] * (len(loader) - 1)
    with pytest.raises(ArgumentError, match="set_epoch"):
        loader.epoch = 3  # type: ignore[misc]


def test_epoch_is_the_next_where_there_are_no_batches(pack):
    loader = Loader(pack, batch_size=1000, drop_last=True)
    iterator = iter(loader)
    assert loader.epoch == 0
    assert list(iterator) == []
    assert loader.epoch == 1


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


@pytest.mark.parametrize(
    "options", [{"num_workers": 0}, {"num_workers": 2}, {"augment_on": "device"}]
)
def test_a_state_brings_its_seed_where_one_was_drawn(pack, options):
    options = {"augment": Augment(), "batch_size": 16, "return_index": True, **options}
    source = Loader(pack, seed=2**64 - 1, **options)
    list(source)
    iterator = iter(source)
    next(iterator)
    state = json.loads(json.dumps(source.state_dict()))
    expected = [*iterator, *source]
    loader = Loader(pack, seed=None, **options)
    # What has been made ahead of the same place, with the seed that was drawn, is not given.
    list(loader)
    for _ in range(2):
        loader.load_state_dict(state)
        assert loader.seed == source.seed
        assert loader.state_dict() == state
        for batch, other in zip([*loader, *loader], expected, strict=True):
            assert all(map(torch.equal, batch, other))
    start = {**state, "epoch": 1, "samples": 0, "seed": 5}
    loader.set_epoch(0)
    list(loader)
    loader.load_state_dict(start)
    assert digest(loader) == digest(Loader(pack, **options | {"seed": 5, "epoch": 1}))
    with pytest.raises(StateError, match="seed 5"):
        Loader(pack, **options).load_state_dict(start)
    for seed in (None, -1, 2**64, "1", 1.5):
        with pytest.raises(StateError, match="damaged: expected seed"):
            loader.load_state_dict({**state, "seed": seed})
    assert loader.seed == 5


def test_a_seed_is_not_drawn_by_each_rank_for_itself(pack, monkeypatch):
    from torch import distributed

    with pytest.raises(ArgumentError, match="pass seed="):
        Loader(pack, seed=None, rank=0, world_size=2)
    alone = Loader(pack, seed=None, rank=0, world_size=1)
    loader = Loader(pack, seed=None)
    copies = [copy.copy(loader), pickle.loads(pickle.dumps(loader))]
    sent = pickle.dumps(loader)
    with monkeypatch.context() as patched:
        # In another process, as all ranks that one process sends it to.
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


@pytest.mark.parametrize("batch_size", [5, 16])
@pytest.mark.parametrize("drop_last", [False, True])
def test_resume_at_every_batch(pack, batch_size, drop_last):
    options: dict[str, Any] = {
        "augment": Augment(),
        "return_index": True,
        "drop_last": drop_last,
        "seed": 7,
    }
    loader = Loader(pack, "valid", batch_size=batch_size, num_workers=2, **options)
    whole = list(loader) + list(loader)
    per_epoch = len(loader)
    loader = Loader(pack, "valid", batch_size=batch_size, **options)
    iterator = iter(loader)
    for position in range(per_epoch + 1):
        state = json.loads(json.dumps(loader.state_dict()))
        resumed = Loader(pack, "valid", batch_size=batch_size, num_workers=0, **options)
        resumed.load_state_dict(state)
        assert resumed.state_dict() == state
        first = next(iter(resumed))
        assert all(map(torch.equal, first, whole[position]))
        if position < per_epoch:
            next(iterator)


def test_a_state_fits_any_batch_size_and_world_size(pack):
    def rows(loader):
        return [row for batch in loader for row in batch[2].tolist()]

    options: dict[str, Any] = {"return_index": True, "seed": 3}
    loader = Loader(pack, batch_size=8, **options)
    iterator = iter(loader)
    for _ in range(3):
        next(iterator)
    state = loader.state_dict()
    assert state["samples"] == 24
    expected = [row for batch in iterator for row in batch[2].tolist()]
    other = Loader(pack, batch_size=11, **options)
    other.load_state_dict(state)
    assert rows(other) == expected
    gathered = []
    for rank in range(3):
        part = Loader(pack, batch_size=3, rank=rank, world_size=3, **options)
        part.load_state_dict(state)
        gathered += rows(part)
    assert sorted(gathered) == sorted(expected)


def test_states_are_small(pack):
    loader = Loader(
        pack, "train+valid+test", classes=10 * pack.classes, source="imagenet",
        augment=Augment(), seed=2**64 - 1, drop_last=True,
    )  # fmt: skip
    iter(loader)
    assert len(json.dumps(loader.state_dict())) < 600
    other = Loader(pack, classes=10 * pack.classes[:9])
    with pytest.raises(StateError, match="classes"):
        other.load_state_dict(loader.state_dict())


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"seed": 1}, "seed"),
        ({"split": "valid"}, "split"),
        ({"source": "cifar10"}, "source"),
        ({"classes": ["cat"]}, "classes"),
        ({"shuffle": False}, "shuffle"),
        ({"drop_last": True}, "drop_last"),
        ({"augment": Augment()}, "augment"),
    ],
)
def test_a_state_of_other_options_is_refused_by_name(pack, options, name):
    state = Loader(pack).state_dict()
    with pytest.raises(StateError, match=name):
        Loader(pack, **options).load_state_dict(state)


def test_a_state_of_another_selection_is_refused(pack):
    first = Loader(pack, pack["train"].select(indices=[1, 2, 3]))
    with pytest.raises(StateError, match="split"):
        Loader(pack, pack["train"].select(indices=[1, 2, 4])).load_state_dict(first.state_dict())


@pytest.mark.parametrize("state", [None, {}, {"epoch": 0}, 5])
def test_what_is_no_state_is_refused(pack, state):
    with pytest.raises(StateError, match="state_dict"):
        Loader(pack).load_state_dict(state)


@pytest.mark.parametrize(("epoch", "samples"), [(-1, 0), (0, -1), (0, 10**9), ("0", 0), (0, 1.5)])
def test_a_damaged_state_is_refused(pack, epoch, samples):
    loader = Loader(pack)
    with pytest.raises(StateError, match="damaged"):
        loader.load_state_dict({**loader.state_dict(), "epoch": epoch, "samples": samples})


def test_a_state_is_not_loaded_into_a_running_iterator(pack):
    loader = Loader(pack, batch_size=4)
    state = loader.state_dict()
    iterator = iter(loader)
    next(iterator)
    with pytest.raises(LoaderError, match="running"):
        loader.load_state_dict(state)
    iterator.close()
    loader.load_state_dict(state)


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
    ],
)
def test_bad_arguments_are_refused_by_name(pack, options, error, text):
    with pytest.raises(error, match=text):
        Loader(pack, **options)


def test_a_split_of_another_pack_is_refused(pack, small_pack):
    with pytest.raises(SelectionError, match="of another"):
        Loader(pack, small_pack["train"])


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


def test_world_size_without_a_process_group_is_an_error(pack, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    loader = Loader(pack)
    with pytest.raises(LoaderError, match="WORLD_SIZE is 2"):
        iter(loader)
    assert iter(Loader(pack, rank=0, world_size=2))


def test_every_epoch_is_divided_among_the_ranks_that_are_there_when_it_starts(pack, monkeypatch):
    from torch import distributed

    loader = Loader(pack, "valid", batch_size=4, return_index=True)
    alone = [[index.tolist() for _, _, index in loader] for _ in range(3)]
    loader.set_epoch(0)
    assert [index.tolist() for _, _, index in loader] == alone[0]
    with monkeypatch.context() as patched:
        patched.setattr(distributed, "is_initialized", lambda: True)
        patched.setattr(distributed, "get_rank", lambda: 1)
        patched.setattr(distributed, "get_world_size", lambda: 3)
        assert len(loader) == 8
        share = [row for _, _, index in loader for row in index.tolist()]
        assert share == [row for batch in alone[1] for row in batch][1::3]
    assert [index.tolist() for _, _, index in loader] == alone[2]


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


def test_ranks_on_one_machine_share_its_cores(pack, monkeypatch):
    monkeypatch.setattr("cinicpack.load.loader.usable_cores", lambda: 8)
    assert Loader(pack).num_workers == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert Loader(pack).num_workers == 2
    assert Loader(pack, num_workers=5).num_workers == 5
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    assert Loader(pack).num_workers == 1


def test_a_split_alone_is_no_pack(pack):
    with pytest.raises(ArgumentError, match=r"Loader\(split.pack, split\)"):
        Loader(pack["train"])
