"""The loader on a GPU: the same bytes as on the CPU, whenever either stream gets to its work.

`tools/gpu` runs these.
"""

import os
import subprocess
import sys
import time
from itertools import cycle, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cinicpack
from benchmarks.gpu.images import make_noise
from cinicpack import Augment, CutMix, Loader, MixUp
from cinicpack.cinic10 import CLASSES
from cinicpack.load.draws import COUNT
from cinicpack.load.on_torch import (
    augment_with_torch,
    choose_augment,
    choose_draw,
    place_constants,
)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")

PATHS: list[dict[str, Any]] = [{}, {"augment_on": "device"}, {"resident": True}]
DTYPES = ["float32", "float16", "bfloat16", "uint8"]
# A few milliseconds of a stream, in which the other one and Python do a lot.
CYCLES = 8_000_000


@pytest.fixture(scope="module", params=[(32, 32)], ids="{0[0]}x{0[1]}".format)
def pack(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("noise") / "noise.pack"
    return cinicpack.pack_arrays({"train": make_noise(9, request.param)}, path, classes=CLASSES)


@pytest.fixture
def small_slabs(monkeypatch):
    """Make every batch a slab and a launch of its own, so that memory is used again at once."""
    monkeypatch.setattr("cinicpack.load.slabs._SLAB_BYTES", 1)
    monkeypatch.setattr("cinicpack.load.slabs._LAUNCH_BYTES", 1)


def expect(pack, epochs=1, **options):
    loader = Loader(pack, **options)
    return [(images.clone(), labels) for _ in range(epochs) for images, labels in loader]


def assert_same_batches(found, expected):
    for (images, labels), (expected_images, expected_labels) in zip(found, expected, strict=True):
        assert images.dtype == expected_images.dtype
        assert images.stride() == expected_images.stride()
        assert torch.equal(images.cpu(), expected_images)
        assert torch.equal(labels.cpu(), expected_labels)


def fresh(**options: Any) -> dict[str, Any]:
    """Give options with a seed of their own, so that memory used again holds no expected batch."""
    seed = int.from_bytes(os.urandom(4), "little")
    return {"augment": Augment(), "batch_size": 8, "seed": seed, **options}


@pytest.mark.parametrize("pack", [(32, 32), (64, 64), (7, 5), (33, 31)], indirect=True)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("dtype", "channels_last"), list(product(DTYPES, [False, True])))
def test_every_path_gives_the_bytes_of_the_cpu(pack, path, dtype, channels_last):
    # With these a pixel of 64 or 128 lies in the middle between two bfloat16.
    ties = (0.0, 0.0, 0.0), (65536 / 65535,) * 3
    for augment, normalize in (
        (None, True if dtype == "uint8" else ties),
        (Augment(), True),
        (Augment(crop_padding=3, padding_mode="reflect", flip="alternating", cutout=5), True),
        (Augment(crop_padding=40, flip=None, cutout=4, vertical_flip=True), True),
    ):
        options: dict[str, Any] = {"augment": augment, "normalize": normalize, "batch_size": 16}
        options |= {"dtype": dtype, "channels_last": channels_last}
        loader = Loader(pack, device="cuda", **options, **path)
        assert_same_batches(loader, expect(pack, **options))


@pytest.mark.parametrize("pack", [(32, 32), (7, 5)], indirect=True)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_path_mixes_as_the_cpu(pack, path, dtype):
    mix, labels = [MixUp(), CutMix(0.5)], np.arange(180).reshape(90, 2) / 7
    for options in ({"channels_last": True}, {"labels": labels}):
        every: dict[str, Any] = {"mix": mix, "dtype": dtype, "batch_size": 16, **options}
        loader = Loader(pack, device="cuda", augment=Augment(), **every, **path)
        assert_same_batches(loader, expect(pack, augment=Augment(), **every))


@pytest.mark.parametrize("pack", [(32, 32), (7, 5)], indirect=True)
def test_triton_gives_the_bytes_of_its_twin(pack):
    """Both are given positions of resident pixels, and none."""
    device = torch.device("cuda", 0)
    pixels = torch.from_numpy(np.asarray(pack["train"].images).transpose(0, 3, 1, 2).copy())
    positions = torch.randperm(len(pixels)).repeat(2)
    for augment, dtype in product([Augment(), Augment(padding_mode="reflect", cutout=3)], DTYPES):
        samples: Any = Loader(pack, augment=augment, dtype=dtype)._samples
        for rows in (None, positions):
            count = len(pixels) if rows is None else len(rows)
            draws = np.empty((count, COUNT), np.int32)
            samples.draw(np.arange(count), 1, draws)
            drawn = torch.from_numpy(draws)
            rest: Any = (samples.transform, getattr(torch, dtype), False)
            constants = place_constants(samples.transform, pixels.device)
            twin = augment_with_torch(pixels, rows, drawn, constants, *rest)
            positions_there = None if rows is None else rows.to(device)
            found = choose_augment(device)(
                pixels.to(device), positions_there, drawn.to(device), constants.to(device), *rest
            )
            assert torch.equal(found.cpu(), twin)


def test_triton_draws_as_the_host(pack):
    samples: Any = Loader(pack, augment=Augment(flip="alternating", cutout=3), seed=2**63)._samples
    plan = samples.transform.draws
    for count, epoch in product((1, 5000), (0, 1, 7)):
        rows, occurrences = np.arange(count) * 7, np.arange(count) % 2**16
        expected = np.empty((count, COUNT), np.int32)
        samples.draw(rows, epoch, expected, occurrences)
        numbers = np.array([2**63, epoch], np.uint64).view(np.int64)
        there = [torch.from_numpy(one).cuda() for one in (rows, occurrences, numbers, plan)]
        draw: Any = choose_draw(torch.device("cuda", 0))
        assert np.array_equal(draw(*there, 0).cpu().numpy(), expected)


def read_late(loader, epochs):
    """Let the consumer's stream read every batch long after Python has dropped it."""
    found = []
    with torch.cuda.stream(torch.cuda.Stream()):
        for _ in range(epochs):
            for images, labels in loader:
                torch.cuda._sleep(CYCLES)
                found.append((images.clone(), labels.clone()))
                del images, labels
    torch.cuda.synchronize()
    return found


def read_early(loader, epochs):
    """Let the loader's stream make every batch long after the consumer was given it."""
    found = []
    for _ in range(epochs):
        with torch.cuda.stream(loader._maker._slabs.transfers.stream):
            torch.cuda._sleep(20 * CYCLES)
        for images, labels in loader:
            found.append((images.clone(), labels.clone()))
            del images, labels
    torch.cuda.synchronize()
    return found


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("read", [read_late, read_early])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_batch_is_whole_whichever_stream_is_behind(pack, small_slabs, path, read, num_workers):
    options = fresh(num_workers=num_workers)
    loader = Loader(pack, device="cuda", **options, **path)
    assert_same_batches(read(loader, 3), expect(pack, 3, **options))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("read", "owner", "name"),
    [(read_late, torch.Tensor, "record_stream"), (read_early, torch.cuda.Stream, "wait_event")],
)
def test_these_tests_would_notice(pack, small_slabs, monkeypatch, path, read, owner, name):
    options = fresh(num_workers=2)
    loader = Loader(pack, device="cuda", **options, **path)
    monkeypatch.setattr(owner, name, lambda *_: None)
    with pytest.raises(AssertionError):
        assert_same_batches(read(loader, 3), expect(pack, 3, **options))


@pytest.mark.parametrize("path", PATHS)
def test_the_consumer_may_change_its_stream_amid_a_slab(pack, path):
    options = fresh(num_workers=2)
    loader = Loader(pack, device="cuda", **options, **path)
    streams = cycle([torch.cuda.current_stream(), torch.cuda.Stream(), torch.cuda.Stream()])
    found = []
    for _ in range(3):
        iterator = iter(loader)
        for stream in streams:
            with torch.cuda.stream(stream):
                batch = next(iterator, None)
                if batch is None:
                    break
                torch.cuda._sleep(CYCLES // 4)
                found.append(tuple(tensor.clone() for tensor in batch))
                del batch
    torch.cuda.synchronize()
    assert_same_batches(found, expect(pack, 3, **options))


@pytest.mark.parametrize("path", PATHS)
def test_memory_does_not_grow_while_the_consumer_is_behind(pack, small_slabs, path):
    options = fresh(num_workers=2, batch_size=30)
    loader = Loader(pack, device="cuda", **options, **path)
    read_late(loader, 1)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_stats()["active_bytes.all.current"]
    with torch.cuda.stream(torch.cuda.Stream()):
        for _ in range(30):
            for images, _ in loader:
                torch.cuda._sleep(CYCLES)
                nbytes = images.nbytes
                del images
    most = torch.cuda.memory_stats()["active_bytes.all.peak"] - before
    # Of 90 slabs: those that are made ahead, that many again which were received, and a few.
    assert most < 20 * nbytes


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("mode", ["global", "thread_local", "relaxed"])
def test_a_graph_is_captured_while_batches_are_made(pack, small_slabs, path, mode):
    options = fresh(num_workers=2)
    loader = Loader(pack, device="cuda", **options, **path)
    held, found = torch.zeros(8, 3, 32, 32, device="cuda"), []
    for _ in range(3):
        for images, labels in loader:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, capture_error_mode=mode):
                doubled = held[: len(images)]
                for _ in range(20):
                    doubled = doubled * 2
            held[: len(images)].copy_(images)
            graph.replay()
            found.append((doubled / 2**20, labels.clone()))
    assert_same_batches(found, expect(pack, 3, **options))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16])
def test_more_than_two_to_the_31_bytes_and_elements(pack, dtype):
    count, device = 2**31 // 3072 + 1000, torch.device("cuda", 0)
    if torch.cuda.mem_get_info()[0] < 12e9:
        pytest.skip("it takes 12 GB of the GPU's memory")
    name = str(dtype).removeprefix("torch.")
    samples: Any = Loader(pack, augment=Augment(cutout=5), dtype=name)._samples
    pixels = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, device=device)
    positions = torch.arange(count - 1, -1, -1, device=device)
    draws = np.empty((count, COUNT), np.int32)
    samples.draw(np.arange(count), 0, draws)
    there = torch.from_numpy(draws).to(device)
    rest = (place_constants(samples.transform, device), samples.transform, dtype, False)
    augment = choose_augment(device)
    batch = augment(pixels, positions, there, *rest)
    assert batch.numel() > 2**31
    in_order = augment(pixels, None, there, *rest)
    for part in (slice(0, 100), slice(count - 100, count)):
        some = positions[part]
        assert torch.equal(batch[part], augment_with_torch(pixels, some, there[part], *rest))
        twin = augment_with_torch(pixels[part].contiguous(), None, there[part], *rest)
        assert torch.equal(in_order[part], twin)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="it takes two GPUs")
@pytest.mark.parametrize("path", PATHS)
def test_another_gpu(pack, path):
    options = fresh()
    loader = Loader(pack, device="cuda:1", **options, **path)
    for images, labels in loader:
        assert images.device == labels.device == torch.device("cuda", 1)
    assert_same_batches(loader, expect(pack, 2, **options)[len(loader) :])
    assert torch.cuda.memory_allocated(0) == 0


@pytest.mark.parametrize("path", PATHS)
def test_a_batch_outlives_its_loader(pack, path):
    """The loader's memory on the device is given to other tensors, which overwrite it at once."""
    options = fresh(batch_size=32)
    [(expected, _), *_] = expect(pack, **options)
    for _ in range(20):
        with torch.cuda.stream(torch.cuda.Stream()):
            images, _ = next(iter(Loader(pack, device="cuda", **options, **path)))
            for size in (pack["train"].images.nbytes, images.nbytes):
                torch.full((size,), 255, dtype=torch.uint8, device="cuda")
            found = images.cpu()
        assert torch.equal(found, expected)


PENDING = """
import sys
import torch
import cinicpack

options = eval(sys.argv[2])
loader = cinicpack.Loader(sys.argv[1], device="cuda", batch_size=8, **options)
with torch.cuda.stream(loader._maker._slabs.transfers.stream):
    torch.cuda._sleep(500_000_000)
images, labels = next(iter(loader))
images.sum()
"""


def run(program: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    root = str(Path(__file__).parents[2])
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": f"{root}:{os.environ.get('PYTHONPATH', '')}"}
        | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("path", PATHS)
def test_a_program_ends_with_work_pending(pack, path):
    start = time.perf_counter()
    done = run(PENDING, pack.path, path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert time.perf_counter() - start < 60


WITHOUT_COMPILER = """
import sys
import warnings
import torch
import cinicpack

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    loaders = [
        cinicpack.Loader(sys.argv[1], device="cuda", batch_size=8, resident=resident, **options)
        for options in ({"augment": cinicpack.Augment()},)
        for resident in (True, True, False)
    ]
print([str(warning.message) for warning in caught if warning.category is UserWarning])
batches = [next(iter(loader)) for loader in loaders]
print(all(torch.equal(images, batches[-1][0]) for images, _ in batches))
"""


def test_without_a_c_compiler_torch_operations_take_the_kernels_place(pack, tmp_path):
    """One warning says so; and a loader that augments on the host does not ask for a compiler."""
    done = run(WITHOUT_COMPILER, pack.path, PATH="", CC="", TRITON_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    said, same = done.stdout.splitlines()
    assert said.count("Triton cannot compile a C module") == 1
    assert "torch operations" in said
    assert same == "True"
