"""How images come from the disk where they do not fit in memory: same batches, and few reads."""

import gc
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import cinicpack
from benchmarks.gpu.images import make_noise
from cinicpack import Augment, Loader, Weighted
from cinicpack.cinic10 import CLASSES
from cinicpack.load.recipes import Blocks
from cinicpack.load.supply import sort_windows
from tests.cgroups import making_group


@pytest.fixture
def scarce(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let no images fit; returns a function that says how much memory is left."""
    left = [1000]
    monkeypatch.setattr("cinicpack.load.supply._SMALL", 0)
    monkeypatch.setattr("cinicpack.load.supply._SECONDS", 0)
    monkeypatch.setattr("cinicpack.load.supply.find_available", lambda: left[0])
    monkeypatch.setattr(Blocks, "block", 4)
    monkeypatch.setattr(Blocks, "window", 16)
    return lambda count: left.__setitem__(0, count)


@given(
    st.integers(0, 300), st.integers(1, 50), st.integers(0, 400), st.integers(1, 5), st.randoms()
)
def test_windows_are_sorted_where_they_begin(count, window, first, step, random):
    places = first + step * np.arange(count)
    # A number for each sample that says which window it is of.
    positions = 1000 * (places // window) + np.array(
        random.sample(range(1000), count), np.int64
    ).reshape(-1)
    found = sort_windows(positions, window, first, step)
    np.testing.assert_array_equal(found, np.sort(positions))


ORDERS: dict[str, dict[str, Any]] = {
    "shuffled": {},
    "blocks": {"shuffle": "blocks"},
    "in order": {"shuffle": False},
    "weighted": {"order": Weighted(np.arange(90) % 7, num_samples=130)},
    "rows": {"order": [5, 80, 5, 5, 0, 33]},
    "of a source": {"source": "imagenet"},
    "two views": {"views": [None, Augment()]},
    "one thread": {"num_workers": 0},
    "blocks, one thread": {"num_workers": 0, "shuffle": "blocks"},
    "rank 1 of 2": {"rank": 1, "world_size": 2, "shuffle": "blocks"},
    "augmented by torch": {"augment_on": "device"},
}


@pytest.mark.parametrize("left", [0, 300_000], ids=["no memory", "two windows"])
@pytest.mark.parametrize("name", ORDERS)
def test_batches_are_the_same_where_images_do_not_fit(sharded_pack, scarce, name, left):
    def load() -> Loader:
        options: dict[str, Any] = {"batch_size": 16, "augment": Augment(), "return_index": True}
        if "views" in ORDERS[name]:
            del options["augment"]
        return Loader(sharded_pack, **options | ORDERS[name])

    scarce(10**12)
    loader = load()
    expected = [list(loader), list(loader)]
    scarce(left)
    scarce_loader = load()
    for epoch in expected:
        compare(list(scarce_loader), epoch)
    # From the middle, where a window has begun.
    iterator = iter(scarce_loader)
    next(iterator)
    state = scarce_loader.state_dict()
    iterator.close()
    resumed = load()
    resumed.load_state_dict(state)
    compare(list(resumed), list(iter_from(loader, state)))


def iter_from(loader: Loader, state: dict[str, Any]) -> Any:
    loader.load_state_dict(state)
    return iter(loader)


def compare(found: list[Any], expected: list[Any]) -> None:
    assert len(found) == len(expected)
    for batch, other in zip(found, expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(batch, other, strict=True))


def test_the_loader_says_once_that_images_do_not_fit(pack, scarce, caplog):
    loader = Loader(pack, batch_size=16)
    with caplog.at_level(logging.INFO, "cinicpack"):
        scarce(10**12)
        list(loader)
        assert not caplog.messages
        scarce(10**5)
        list(loader)
        list(loader)
    assert len(caplog.messages) == 1
    assert "0 MB of images do not fit into the 0 MB of memory" in caplog.text
    assert "shuffle='blocks'" in caplog.text


def test_pages_are_chosen_anew_at_every_start(pack, scarce):
    [mapping] = Loader(pack)._samples.find_mappings()
    loader = Loader(pack, batch_size=16)
    for left, scattered in ((10**12, False), (0, True), (10**12, False)):
        scarce(left)
        list(loader)
        assert mapping.is_scattered == scattered
    # What comes in the order of the files is read ahead by the kernel, in large pieces.
    scarce(0)
    list(Loader(pack, shuffle=False))
    assert not mapping.is_scattered


def test_a_pack_in_memory_has_nothing_to_fetch(pack, scarce, caplog):
    scarce(0)
    list(Loader(cinicpack.open_pack(pack.path, in_memory=True)))
    assert not caplog.messages


# In a cgroup: an epoch of a pack that is four times as large as what the group leaves for files.
PROGRAM = """
import json, os, sys
from pathlib import Path
entry, limit, path, shuffle, images = sys.argv[1:]
Path(entry).write_text(str(os.getpid()))
import numpy as np
from cinicpack import Augment, Loader, open_pack
from cinicpack.load import order, supply
from cinicpack.load.recipes import Blocks
Blocks.window = 2048
def read():
    return int(Path("/proc/self/io").read_text().split("read_bytes:")[1].split()[0])
def load(split, **options):
    return Loader(pack, split, batch_size=256, augment=Augment(), output="numpy", **options)
pack = open_pack(path)
# The compiler would need more memory than is left later. So a thread draws the next order already
# here, a consumer waits for a batch, as with num_workers=0, and images are asked for.
order._WORTHWHILE = 0
find_available, supply.find_available, supply._SMALL = supply.find_available, lambda: 0, 0
for batch in [*load("small"), *load("small", num_workers=0, shuffle="blocks")]:
    pass
del batch
supply.find_available, supply._SMALL = find_available, 64 << 20
used = int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) * 1024
Path(limit).write_text(str(used + pack["train"].images.nbytes // 4))
before, count, sums = read(), 0, []
for pixels, labels in load("train", shuffle=json.loads(shuffle)):
    count += len(labels)
    sums.append(float(pixels.sum(dtype=np.float64)))
    if count >= int(images):
        break
print(json.dumps([count, read() - before, sums]))
"""


@pytest.fixture(scope="module")
def large_pack(tmp_path_factory: pytest.TempPathFactory) -> cinicpack.Pack:
    """Images of 99 MB in split train, whose file is in no cache."""
    path = tmp_path_factory.mktemp("large") / "large.pack"
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (32_000, 3, 32, 32), np.uint8)
    labels = np.arange(len(images)) % 10
    arrays = {"train": (images, labels), "small": make_noise(1, (32, 32))}
    cinicpack.pack_arrays(arrays, path, classes=CLASSES)
    gc.collect()
    return cinicpack.open_pack(path)


@pytest.mark.parametrize("shuffle", [True, "blocks"])
def test_under_a_limit_little_more_is_read_than_is_needed(large_pack, monkeypatch, shuffle):
    file = large_pack.path / "train" / "images-00000.npy"
    descriptor = os.open(file, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)
    images = 4_000 if shuffle is True else 32_000
    with making_group() as group:
        arguments = [group.entry, group.limit, large_pack.path, json.dumps(shuffle), images]
        process = subprocess.run(
            [sys.executable, "-c", PROGRAM, *map(str, arguments)],
            cwd=Path(cinicpack.__file__).parents[1],
            capture_output=True,
            text=True,
            check=False,
        )
    assert process.returncode == 0, process.stderr
    assert "98 MB of images do not fit into the" in process.stderr
    count, nbytes, sums = json.loads(process.stdout)
    assert count >= images
    # An image lies on two pages, seldom on one, and a few more are asked for than were made.
    needed = count * 2 * 4096 + (3 << 20) if shuffle is True else 1.2 * 3072 * count
    assert nbytes <= needed
    monkeypatch.setattr(Blocks, "window", 2048)
    loader = Loader(large_pack, batch_size=256, augment=Augment(), output="numpy", shuffle=shuffle)
    for (pixels, _), found in zip(loader, sums, strict=False):
        assert float(pixels.sum(dtype=np.float64)) == found
