"""Several threads that use one loader."""

import sys
from typing import Any

import numpy as np
import pytest

from cinicpack import Augment, Loader, LoaderError
from tests.load.pieces import Late, make_pieces_fail, run_at_once


@pytest.fixture
def hasty():
    """Let threads take turns amid nearly everything."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_consumers_of_one_iterator_get_every_batch_once(pack, hasty, num_workers):
    loader = Loader(pack, batch_size=1, num_workers=num_workers, return_index=True, output="numpy")
    for epoch in range(20):
        iterator = iter(loader)

        def consume(_number, iterator=iterator):
            return [(int(index[0]), loader.state_dict()) for _, _, index in iterator]

        batches = run_at_once(consume)
        rows = [row for mine in batches for row, _ in mine]
        assert sorted(rows) == list(range(len(pack["train"])))
        for mine in batches:
            places = [(state["epoch"], state["samples"]) for _, state in mine]
            assert places == sorted(places)
            assert all(place >= (epoch, number) for number, place in enumerate(places, 1)) or (
                places[-1] == (epoch + 1, 0)
            )
        state = loader.state_dict()
        assert (state["epoch"], state["samples"]) == (epoch + 1, 0)
        with pytest.raises(StopIteration):
            next(iterator)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_error_is_raised_once_and_ends_it_for_the_others(pack, monkeypatch, num_workers):
    make_pieces_fail(monkeypatch)
    iterator = iter(Loader(pack, batch_size=1, num_workers=num_workers, output="numpy"))
    errors = [str(error) for error in run_at_once(lambda _: list(iterator))]
    assert sum("kernel failed" in error for error in errors) == 1
    assert sum("was closed" in error for error in errors) == 3


CASES: list[dict[str, Any]] = [
    {"num_workers": 0},
    {"num_workers": 2},
    {"num_workers": 0, "augment_on": "device"},
    {"num_workers": 2, "augment_on": "device"},
]


@pytest.mark.parametrize("options", CASES)
@pytest.mark.parametrize("what", ["loader", "iterator"])
def test_closing_ends_the_wait_of_a_consumer(pack, monkeypatch, options, what):
    late = Late(monkeypatch)
    loader = Loader(pack, batch_size=8, **options)
    iterator = iter(loader)
    closing: Any = loader if what == "loader" else iterator

    def close_or_consume(number):
        if number > 1:
            return next(iterator)
        late.begun.wait(30)
        if number:
            # To close is to wait for the piece that is under way.
            late.end.set()
        else:
            closing.close()
        return None

    closed, _, *consumers = run_at_once(close_or_consume, 5)
    assert closed is None
    errors = [error for error in consumers if isinstance(error, Exception)]
    assert all(isinstance(error, LoaderError) for error in errors)
    # A batch may have been taken before the iterator was closed.
    assert loader.state_dict()["samples"] == 8 * (len(consumers) - len(errors))
    with pytest.raises(LoaderError):
        next(iterator)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_of_iterators_that_several_threads_start_the_last_goes_on(pack, hasty, num_workers):
    loader = Loader(pack, batch_size=30, num_workers=num_workers)
    for turn in range(10):
        iterators = run_at_once(lambda _: iter(loader))
        assert loader.state_dict()["epoch"] == 4 * turn + 3
        counts = []
        for iterator in iterators:
            try:
                counts.append(len(list(iterator)))
            except LoaderError:
                counts.append(0)
        assert sorted(counts) == [0, 0, 0, 3]
        loader.set_epoch(4 * turn + 4)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_nothing_runs_on_in_a_loader_that_is_closed_while_iterators_start(pack, hasty, num_workers):
    for _ in range(20):
        loader = Loader(pack, batch_size=30, num_workers=num_workers)

        def act(number, loader=loader):
            return iter(loader) if number else loader.close()

        _, *iterators = run_at_once(act)
        for iterator in iterators:
            with pytest.raises(LoaderError):
                next(iterator) if not isinstance(iterator, Exception) else iter(loader)


def interleave(loaders, epochs):
    """Take a batch of each loader in turn, and return what every one of them gave."""
    given: list[list[Any]] = [[] for _ in loaders]
    for _ in range(epochs):
        running = {number: iter(loader) for number, loader in enumerate(loaders)}
        while running:
            for number, iterator in list(running.items()):
                batch = next(iterator, None)
                if batch is None:
                    del running[number]
                else:
                    given[number].append(batch)
    return given


LOADERS: list[dict[str, Any]] = [
    {"batch_size": 7, "num_workers": 2},
    {"batch_size": 7, "num_workers": 1, "seed": 1},
    {"batch_size": 20, "num_workers": 0},
    {"batch_size": 90, "num_workers": 4, "dtype": "uint8", "normalize": False},
    {"batch_size": 13, "num_workers": 2, "augment_on": "device", "output": "torch"},
    {"batch_size": 1, "num_workers": 3},
    {"batch_size": 7, "num_workers": 2, "seed": 2},
    {"batch_size": 30, "num_workers": 2, "resident": True, "output": "torch"},
]


@pytest.mark.parametrize("count", [2, 8])
@pytest.mark.parametrize("at_once", [False, True])
def test_loaders_that_are_used_at_once_give_what_each_gives_alone(pack, hasty, count, at_once):
    def load(number):
        options = {"augment": Augment(), "output": "numpy", "return_index": True}
        return Loader(pack, **options | LOADERS[number])

    def consume(number):
        loader = load(number)
        return [batch for _ in range(3) for batch in loader]

    expected = [consume(number) for number in range(count)]
    if at_once:
        found = run_at_once(consume, count)
    else:
        found = interleave([load(number) for number in range(count)], 3)
    for batches, alone in zip(found, expected, strict=True):
        for batch, other in zip(batches, alone, strict=True):
            assert all(map(np.array_equal, batch, other))
