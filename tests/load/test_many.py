"""Many loaders in one process, as clients of federated learning have them, and idle ones."""

import gc
import re
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cinicpack import Augment, Loader
from cinicpack.cores import usable_cores
from tests.load.threads import count_switches, threads, time_on_cores, wait_until


def read_anonymous_memory():
    """Return how many bytes of memory this process has that are of no file."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) << 10


def count_all_threads():
    return len(list(Path("/proc/self/task").iterdir()))


@pytest.fixture(scope="module")
def clients(pack):
    """Options of 1,000 loaders, each with 250 rows of its own."""
    dice, split = np.random.default_rng(0), pack["train+valid+test"]
    return [
        {"split": split.select(indices=dice.permutation(len(split))[:250]), "seed": seed}
        for seed in range(1000)
    ]


def test_a_thousand_loaders_share_threads_and_memory(pack, clients):
    def train(options):
        loader = Loader(pack, batch_size=20, augment=Augment(), output="numpy", **options)
        count = 0
        for _ in range(2):
            for images, labels in loader:
                count += len(images)
                assert len(images) == len(labels)
        assert count == 500
        return loader

    loaders = [train(clients[0])]
    gc.collect()
    others, before = count_all_threads() - len(threads()), read_anonymous_memory()
    loaders += [train(options) for options in clients[1:]]
    assert len(threads()) <= usable_cores() + 3
    assert count_all_threads() - len(threads()) <= others
    assert read_anonymous_memory() - before < 200 << 20


def test_what_a_loader_leaves_to_the_next_one_keeps_nothing_of_it(pack):
    loader = Loader(pack, batch_size=20)
    list(loader)
    samples = weakref.ref(loader._samples)
    del loader
    gc.collect()
    assert samples() is None


def test_a_thousand_running_epochs_are_exact(pack, clients):
    """A batch of each in turn."""
    options: dict[str, Any] = {
        "batch_size": 90,
        "dtype": "uint8",
        "return_index": True,
        "output": "numpy",
    }
    before = read_anonymous_memory()
    loaders = [Loader(pack, **options, **client) for client in clients]
    iterators = [iter(loader) for loader in loaders]
    given: list[list[Any]] = [[] for _ in loaders]
    for _ in range(3):
        for batches, iterator in zip(given, iterators, strict=True):
            batches.append(next(iterator)[2])
    assert [next(iterator, None) for iterator in iterators] == [None] * len(loaders)
    for batches in given:
        assert np.array_equal(np.sort(np.concatenate(batches)), np.arange(250))
    # Each has had three batches of 270 kB under way at the same time.
    assert read_anonymous_memory() - before < 1 << 30
    assert len(threads()) <= usable_cores() + 3


@pytest.mark.parametrize("options", [{}, {"augment_on": "device"}, {"batch_size": 45}])
def test_nothing_runs_while_a_consumer_does_something_else(pack, options):
    loader = Loader(pack, **{"batch_size": 4, "num_workers": 2, **options})
    iterator = iter(loader)
    next(iterator)

    def is_still():
        switches = count_switches()
        time.sleep(0.02)
        return count_switches() == switches

    wait_until(is_still)
    switches, spent = count_switches(), time_on_cores()
    time.sleep(0.2)
    assert count_switches() - switches <= 2
    assert time_on_cores() - spent < 0.002
    assert len(list(iterator)) == len(loader) - 1


def test_a_loader_takes_little_memory(pack):
    """At a batch size of 512, as float32, 3 MB are one batch."""
    gc.collect()
    before = read_anonymous_memory()
    loader = Loader(pack, "train+valid+test", batch_size=135, num_workers=2, output="numpy")
    for _ in range(5):
        for images, _ in loader:
            assert images.shape[1:] == (3, 32, 32)
    assert read_anonymous_memory() - before < 60 << 20
