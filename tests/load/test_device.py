"""The device path: on CPU tensors through its torch twin, and on a GPU where there is one."""

import itertools
import os
import subprocess
import sys
import time
import weakref
from contextlib import nullcontext
from ctypes import memmove
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any

import pytest
import torch

import cinicpack
from cinicpack import ArgumentError, Augment, Loader
from cinicpack.load import on_torch
from cinicpack.load.device import DeviceMaker
from cinicpack.load.engine.threads import ClosedQueueError, Queue
from cinicpack.load.slabs import AHEAD

AUGMENTS = [
    None,
    Augment(),
    Augment(padding_mode="reflect", flip="alternating", cutout=9),
    Augment(crop_padding=0, flip=None, cutout=4),
    Augment(crop_padding=40, flip=None),
    Augment(padding_mode="reflect", cutout=5, vertical_flip=True),
]
DTYPES = ["float32", "float16", "bfloat16", "uint8"]
PATHS = [{"augment_on": "device"}, {"resident": True}, {"resident": True, "num_workers": 0}]


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
@pytest.mark.parametrize("size", ["small_pack", "odd_pack"])
def test_images_of_other_sizes(request, size, path):
    small_pack = request.getfixturevalue(size)
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
        ({"device": "cuda:99"}, r"'cuda:99' is not there: torch .* sees \d+ GPUs; use"),
        ({"resident": True, "output": "numpy"}, "NumPy"),
        ({"augment_on": "device", "output": "numpy"}, "NumPy"),
    ],
)
def test_what_is_not_there_is_refused(pack, options, text):
    with pytest.raises(ArgumentError, match=text):
        Loader(pack, **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_where_there_is_none_is_refused(pack):
    with pytest.raises(ArgumentError, match=r"'cuda' is not there: .* sees 0 GPUs"):
        Loader(pack, device="cuda")


def test_memory_that_cannot_be_pinned_is_one_clear_error(monkeypatch):
    from cinicpack.load import transfers

    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(torch, "empty", fail)
    with pytest.raises(cinicpack.LoaderError, match=r"1,234,567 bytes.*out of memory"):
        transfers._allocate_pinned(1_234_567)


class LateCopies:
    """Stands for a GPU: what is to be copied is copied later, in order, by a thread.

    As a GPU it knows addresses, and keeps nothing alive.
    """

    def __init__(self):
        self.sources = set()
        self.queue: SimpleQueue[Any] = SimpleQueue()
        self.goes_on = Event()
        self.goes_on.set()
        self.thread = Thread(target=self.work, daemon=True)
        self.thread.start()

    def work(self):
        while item := self.queue.get():
            if isinstance(item, Event):
                item.set()
            else:
                self.goes_on.wait(30)
                time.sleep(0.002)
                target, address = item
                memmove(target.data_ptr(), address, target.numel())

    def copy(self, source, device, *, non_blocking=False):
        if not non_blocking:
            return source
        self.sources.add(source.data_ptr())
        target = torch.full_like(source, 77)
        self.queue.put((target, source.data_ptr()))
        return target

    def record(self):
        event: Any = Event()
        event.query, event.synchronize = event.is_set, lambda: event.wait(10)
        self.queue.put(event)
        return event


@pytest.fixture
def late_copies(monkeypatch):
    monkeypatch.setattr("cinicpack.load.slabs._SLAB_BYTES", 1)
    engine = LateCopies()
    yield engine
    engine.queue.put(None)
    engine.thread.join(10)


def send_late(loader: Loader, engine: LateCopies, monkeypatch: pytest.MonkeyPatch) -> Any:
    maker: Any = loader._maker
    assert isinstance(maker, DeviceMaker)
    transfers: Any = maker._slabs.transfers
    describe = maker._slabs.describe

    def describe_now(work: Any) -> Any:
        """Copy a listing at once: torch, which looks up by it, does not wait for late copies."""
        transfers.stream = None
        listing = describe(work)
        transfers.stream = engine
        return listing

    monkeypatch.setattr(maker._slabs, "describe", describe_now)
    monkeypatch.setattr(transfers, "stream", engine)
    monkeypatch.setattr(transfers, "on_stream", nullcontext)
    monkeypatch.setattr(transfers, "record", engine.record)
    monkeypatch.setattr(transfers, "receive", lambda event, batch: None)
    monkeypatch.setattr("cinicpack.load.transfers._ignoring_captures", nullcontext)
    monkeypatch.setattr(
        "cinicpack.load.transfers._allocate_pinned",
        lambda n: torch.empty(n, dtype=torch.uint8).numpy(),
    )
    monkeypatch.setattr(torch.Tensor, "to", lambda *args, **options: engine.copy(*args, **options))
    return maker._slabs


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_memory_is_not_refilled_before_it_was_copied(pack, late_copies, monkeypatch, num_workers):
    options: dict[str, Any] = {"augment": Augment(), "batch_size": 3, "num_workers": num_workers}
    expected = [images.clone() for images, _ in Loader(pack, **options)]
    # Not "cpu" itself, which needs no copies.
    loader = Loader(pack, device="cpu:0", **options)
    slabs = send_late(loader, late_copies, monkeypatch)
    received = [images for images, _ in loader]
    # Nor is more and more memory taken, where copies are what holds things up: what is copied, and
    # what is being written.
    assert len(late_copies.sources) <= 2 * AHEAD + 1
    loader.close()
    assert not slabs.transfers._transit
    assert all(map(torch.equal, received, expected))


def test_memory_is_not_refilled_under_a_copy_where_a_launch_fails(pack, late_copies, monkeypatch):
    loader = Loader(pack, augment_on="device", batch_size=3, num_workers=0)
    slabs = send_late(loader, late_copies, monkeypatch)

    def fail(*arguments: object) -> None:
        raise RuntimeError("no kernel")

    monkeypatch.setattr(slabs, "_augment_pixels", fail)
    late_copies.goes_on.clear()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no kernel"):
            next(iter(loader))
    assert len(late_copies.sources) == 2
    late_copies.goes_on.set()
    loader.close()
    assert not slabs.transfers._transit


@pytest.mark.parametrize("path", PATHS)
def test_a_rank_without_a_share_has_an_empty_batch(pack, path):
    split = pack["train"].select(indices=[3])
    for rank in range(3):
        loader = Loader(pack, split, rank=rank, world_size=3, return_index=True, **path)
        ((images, labels, index),) = loader
        assert images.shape == (int(rank == 0), 3, 32, 32)
        assert labels.tolist() == ([0] if rank == 0 else [])
        assert index.tolist() == ([0] if rank == 0 else [])


@pytest.mark.parametrize("path", PATHS)
def test_a_default_device_changes_nothing(pack, path):
    expected = Loader(pack, augment=Augment(cutout=5))
    with torch.device("meta"):
        assert_same_batches(expected, Loader(pack, augment=Augment(cutout=5), **path))


@pytest.mark.parametrize("path", PATHS)
def test_autograd_takes_each_batch_for_itself(pack, path):
    """Though batches lie in one storage: what is saved of one outlasts a change of the next."""
    batches = iter(Loader(pack, batch_size=10, **path))
    (images, _), (others, _) = next(batches), next(batches)
    weight, patch = torch.ones(1, requires_grad=True), torch.ones(1, requires_grad=True)
    loss = (images * weight).sum()
    others[:, :, :8, :8] = patch
    (loss + others.sum()).backward()
    assert weight.grad is not None
    assert patch.grad is not None
    assert torch.allclose(weight.grad, images.sum())
    assert patch.grad == 10 * 3 * 8 * 8


@pytest.mark.parametrize("path", PATHS)
def test_labels_and_index_keep_no_images(pack, path):
    loader = Loader(pack, batch_size=10, return_index=True, **path)
    images, *rest = next(iter(loader))
    for tensor in rest:
        assert tensor.untyped_storage().nbytes() < images.nbytes


def test_a_closed_loader_gives_its_pixels_back(pack):
    loader = Loader(pack, resident=True)
    maker: Any = loader._maker
    pixels = weakref.ref(maker._slabs._resident)
    batch = next(iter(loader))
    loader.close()
    assert pixels() is None
    assert batch[0].isfinite().all()


def test_an_interrupt_while_pixels_are_copied_leaves_nobody_who_writes(pack, monkeypatch):
    """Into memory that is freed then."""
    queues = []

    def interrupt(queue, _place):
        queues.append(queue)
        raise KeyboardInterrupt

    monkeypatch.setattr(Queue, "wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        Loader(pack, resident=True)
    [queue] = queues
    with pytest.raises(ClosedQueueError):
        queue.check_open()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_without_triton_is_told_that_it_is_slower():
    """Here Triton is not installed, or finds no GPU to compile for."""
    on_torch._can_use_triton.cache_clear()
    with pytest.warns(UserWarning, match=r"Triton .*: images are augmented .* by torch operations"):
        augment = on_torch.choose_augment(torch.device("cuda", 0))
    assert augment is on_torch.augment_with_torch
    assert on_torch.choose_augment(torch.device("cuda", 0)) is augment
    on_torch._can_use_triton.cache_clear()


# In a process of its own, since Triton is told at its import to interpret. It prints the number of
# comparisons.
INTERPRETED = """
import sys
from itertools import product
import numpy as np
import torch
import cinicpack
from cinicpack import Augment
from cinicpack.load.batches import BatchFormat
from cinicpack.load.slabs import _DTYPES
from cinicpack.load.on_torch import augment_with_torch, place_constants
from cinicpack.load.draws import COUNT
from cinicpack.load.samples import Samples
from cinicpack.load.transform import make_transform
from cinicpack.load.on_triton import augment_with_triton

# With these a pixel of 64 or 128 lies in the middle between two bfloat16.
ties = 3 * (65536 / 65535,)
count = 0
for path in sys.argv[1:]:
    pack = cinicpack.open_pack(path)
    split = pack["train"].select(indices=range(4))
    rows = np.arange(len(split))
    pixels = torch.from_numpy(np.asarray(split.images).transpose(0, 3, 1, 2).copy())
    height, width, _ = pack.image_shape
    augments = (
        None,
        Augment(),
        Augment(padding_mode="reflect", flip="alternating", cutout=7),
        Augment(crop_padding=40, flip=None, cutout=4, vertical_flip=True),
    )
    for augment, dtype, last in product(augments, _DTYPES, (False, True)):
        form = BatchFormat(dtype, height, width, last, "torch", True)
        mean, std = (pack.mean, pack.std) if augment else ((0, 0, 0), ties)
        transform = make_transform(
            augment, pack.image_shape, mean, std, normalized=dtype != "uint8", dtype=dtype
        )
        samples = Samples(split, rows, transform, 3, form)
        drawn = np.zeros((len(split), COUNT), np.int32)
        samples.draw(rows, 2, drawn)
        constants = place_constants(samples.transform, pixels.device)
        for positions in (None, torch.arange(len(split)).flip(0)):
            arguments = (
                pixels, positions, torch.from_numpy(drawn), constants, samples.transform,
                _DTYPES[dtype], last,
            )
            expected, found = augment_with_torch(*arguments), augment_with_triton(*arguments)
            assert found.dtype == expected.dtype and found.stride() == expected.stride()
            assert torch.equal(found, expected), (augment, dtype, last, positions)
            count += 1
print(count)
"""


DRAWN = """
from itertools import product
import numpy as np
import torch
from cinicpack import Augment
from cinicpack.load.draws import COUNT, plan_draws
from cinicpack.load.kernels.random import draw
from cinicpack.load.on_triton import draw_with_triton

augments = (
    Augment(),
    Augment(crop_padding=0, flip="alternating"),
    Augment(flip=None, cutout=7, vertical_flip=True),
    Augment(crop_padding=65_000, flip="alternating", cutout=1, vertical_flip=True),
)
random = np.random.default_rng(0)
count = 0
places = (0, 0, 0), (3, 1, 2), (2**64 - 1, 2**32 - 1, 1)
for augment, (seed, epoch, view) in product(augments, places):
    plan = plan_draws(augment, 31, 65_535)
    for samples, repeats in ((0, False), (1, False), (1500, False), (1501, True)):
        rows = random.integers(0, 2**32, samples)
        occurrences = random.integers(0, 2**16, samples)
        expected = np.zeros((samples, COUNT), np.int32)
        uses = view + (occurrences << 16) * repeats
        draw(rows, uses, np.uint64(seed), np.uint64(epoch), plan, expected)
        found = draw_with_triton(
            torch.from_numpy(rows),
            torch.from_numpy(occurrences) if repeats else None,
            torch.from_numpy(np.array([seed, epoch, 99], np.uint64).view(np.int64)),
            torch.from_numpy(plan),
            view,
        )
        assert found.dtype == torch.int32
        assert np.array_equal(found.numpy(), expected), (augment, seed, epoch, view, samples)
        count += 1
print(count)
"""


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
def test_triton_gives_the_same_bytes(pack, small_pack, odd_pack):
    assert interpret(INTERPRETED, *(one.path for one in (pack, small_pack, odd_pack))) > 100


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
def test_triton_draws_the_same():
    assert interpret(DRAWN) == 48


def interpret(program: str, *arguments: Path) -> int:
    """Run a program in Triton's interpreter, which needs no GPU, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return int(done.stdout)
