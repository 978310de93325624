"""The device path: on CPU tensors through its torch twin, and on a GPU where there is one."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch

import cinicpack
from cinicpack import ArgumentError, Augment, Loader

AUGMENTS = [
    None,
    Augment(),
    Augment(padding_mode="reflect", flip="alternating", cutout=9),
    Augment(crop_padding=0, flip=None, cutout=4),
    Augment(crop_padding=40, flip=None),
]
DTYPES = ["float32", "float16", "bfloat16", "uint8"]
PATHS = [{"augment_on": "device"}, {"resident": True}, {"resident": True, "num_workers": 0}]

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")


def assert_same_batches(first: Loader, second: Loader):
    for one, other in zip(first, second, strict=True):
        for expected, found in zip(one, other, strict=True):
            assert found.dtype == expected.dtype
            assert found.stride() == expected.stride()
            assert torch.equal(found.cpu(), expected)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("augment", AUGMENTS)
@pytest.mark.parametrize(("dtype", "channels_last"), list(itertools.product(DTYPES, [False, True])))
def test_every_path_gives_the_same_bytes(pack, path, augment, dtype, channels_last):
    options: dict[str, Any] = {
        "augment": augment,
        "dtype": dtype,
        "channels_last": channels_last,
        "batch_size": 7,
        "return_index": True,
        "source": "imagenet",
        "seed": 11,
    }
    first = Loader(pack, "train+valid", **options)
    second = Loader(pack, "train+valid", **options, **path)
    for _ in range(2):
        assert_same_batches(first, second)


@pytest.mark.parametrize("path", PATHS)
def test_images_of_other_sizes(small_pack, path):
    for normalize in (True, False, ((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))):
        options: dict[str, Any] = {"augment": Augment(cutout=3), "normalize": normalize}
        assert_same_batches(Loader(small_pack, **options), Loader(small_pack, **options, **path))


def test_a_state_goes_from_one_path_to_another(pack):
    loader = Loader(pack, augment=Augment(), batch_size=8)
    iterator = iter(loader)
    next(iterator)
    other = Loader(pack, augment=Augment(), batch_size=8, resident=True)
    other.load_state_dict(loader.state_dict())
    for (expected, _), (found, _) in zip(iterator, other, strict=True):
        assert torch.equal(expected, found)


def test_held_batches_keep_their_values(pack):
    loader = Loader(pack, augment=Augment(), batch_size=8, augment_on="device")
    held = [(images, images.clone(), labels, labels.clone()) for images, labels in loader]
    for _ in loader:
        pass
    for images, copy, labels, labels_copy in held:
        assert torch.equal(images, copy)
        assert torch.equal(labels, labels_copy)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"device": "nonsense"}, "torch device"),
        ({"device": "meta"}, "'cpu' or 'cuda'"),
        ({"device": "cuda:99"}, "is not there"),
        ({"resident": True, "output": "numpy"}, "NumPy"),
        ({"augment_on": "device", "output": "numpy"}, "NumPy"),
    ],
)
def test_what_is_not_there_is_refused(pack, options, text):
    with pytest.raises(ArgumentError, match=text):
        Loader(pack, **options)


def test_memory_that_cannot_be_pinned_is_one_clear_error(monkeypatch):
    from cinicpack.load import device

    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(torch, "empty", fail)
    with pytest.raises(cinicpack.LoaderError, match=r"1,234,567 bytes.*out of memory"):
        device._allocate_pinned(1_234_567)


class FakeEvent:
    def __init__(self):
        self.done = False
        self.waited = False

    def query(self):
        return self.done

    def synchronize(self):
        self.done = self.waited = True


def test_memory_is_not_refilled_before_the_device_has_read_it(pack):
    """What holds the host's memory back is tested without a GPU, with events that we complete."""
    from cinicpack.load.device import _Transit

    loader = Loader(pack, augment_on="device", batch_size=8, num_workers=1)
    maker: Any = loader._maker
    places = []

    def send():
        memory = maker._lend()
        event = FakeEvent()
        maker._transit.append(_Transit(memory, event))
        places.append(memory.ctypes.data)
        return event

    events = [send() for _ in range(maker._ahead)]
    assert len(set(places)) == len(places)
    events[0].done = True
    send()
    assert places[-1] == places[0]
    # The device lags behind: the oldest copy is waited for rather than more memory taken.
    send()
    send()
    assert any(event.waited for event in events)
    assert len(set(places)) <= maker._ahead + 2


@needs_gpu
@pytest.mark.parametrize("path", [{}, *PATHS])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_gpu_gives_the_same_bytes(pack, path, dtype):
    options: dict[str, Any] = {"augment": Augment(cutout=8), "dtype": dtype, "batch_size": 16}
    for _ in range(3):
        assert_same_batches(Loader(pack, **options), Loader(pack, **options, device="cuda", **path))


@needs_gpu
@pytest.mark.parametrize("path", [{}, *PATHS])
def test_a_gpu_batch_is_whole_while_it_is_used(pack, path):
    expected = [images.sum(dtype=torch.float64) for images, _ in Loader(pack, batch_size=8)]
    weights = torch.randn(2048, 2048, device="cuda")
    for epoch in range(20):
        loader = Loader(pack, batch_size=8, device="cuda", **path)
        sums = []
        for images, _ in loader:
            for _ in range(3):
                weights = torch.tanh(weights @ weights)
            sums.append(images.sum(dtype=torch.float64))
            del images
        assert np.allclose([value.item() for value in sums], expected), epoch
