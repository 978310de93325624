"""Several threads that use one loader."""

import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from cinicpack import Loader, LoaderError
from cinicpack.load.device import DeviceMaker
from cinicpack.load.host import HostMaker
from cinicpack.load.pipeline import Pipeline
from tests.load.threads import threads


@pytest.fixture
def hasty():
    """Let threads take turns amid nearly everything."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def small_slabs(monkeypatch):
    monkeypatch.setattr("cinicpack.load.makers._SLAB_BYTES", 50_000)


def run_at_once(function: Callable[[int], Any], count: int = 4) -> list[Any]:
    """Call it with 0 to count - 1, each on a thread; return what it returned or raised."""
    start = threading.Barrier(count)
    results: list[Any] = [None] * count

    def run(number):
        start.wait()
        try:
            results[number] = function(number)
        except Exception as error:
            results[number] = error

    consumers = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for consumer in consumers:
        consumer.start()
    for consumer in consumers:
        consumer.join(30)
        assert not consumer.is_alive()
    return results


@pytest.mark.parametrize("num_workers", [0, 2])
def test_consumers_of_one_iterator_get_every_batch_once(pack, hasty, small_slabs, num_workers):
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


def test_an_error_is_raised_once_and_ends_it_for_the_others(pack, small_slabs, monkeypatch):
    make = HostMaker.make

    def fail_in_the_middle(self, positions, *work):
        if rows[40] in positions:
            raise OSError("the disk is gone")
        return make(self, positions, *work)

    options: dict[str, Any] = {"batch_size": 1, "num_workers": 2, "output": "numpy"}
    rows = [int(index[0]) for *_, index in Loader(pack, return_index=True, **options)]
    monkeypatch.setattr(HostMaker, "make", fail_in_the_middle)
    iterator = iter(Loader(pack, **options))
    errors = run_at_once(lambda _: list(iterator))
    assert [str(error) for error in errors if isinstance(error, OSError)] == ["the disk is gone"]
    assert sum(isinstance(error, LoaderError) for error in errors) == 3
    assert not threads()


class Late:
    """A maker's ``make`` that waits, so that its caller is amid it for as long as a test wants."""

    def __init__(self, monkeypatch, maker):
        self.begun, self.end = threading.Event(), threading.Event()
        self.act: Callable[[], object] = self.end.wait
        make = maker.make

        def make_late(maker, *work):
            self.begun.set()
            self.act()
            return make(maker, *work)

        monkeypatch.setattr(maker, "make", make_late)


CASES: list[dict[str, Any]] = [
    {"num_workers": 0},
    {"num_workers": 2},
    {"num_workers": 0, "resident": True},
    {"num_workers": 2, "resident": True},
]


@pytest.mark.parametrize("options", CASES)
@pytest.mark.parametrize("what", ["loader", "iterator"])
def test_closing_ends_the_wait_of_a_consumer(pack, monkeypatch, options, what):
    late = Late(monkeypatch, DeviceMaker if "resident" in options else HostMaker)
    loader = Loader(pack, batch_size=8, **options)
    iterator = iter(loader)
    closing: Any = loader if what == "loader" else iterator
    stop = Pipeline.stop

    def stop_and_go_on(pipeline):
        stop(pipeline)
        if options["num_workers"]:
            # To close is to wait for the threads.
            late.end.set()

    monkeypatch.setattr(Pipeline, "stop", stop_and_go_on)

    def close_or_consume(number):
        if number:
            return next(iterator)
        late.begun.wait()
        closing.close()
        late.end.set()
        return None

    closed, *consumers = run_at_once(close_or_consume)
    assert closed is None
    assert all(isinstance(error, LoaderError) for error in consumers)
    assert loader.state_dict()["samples"] == 0
    assert not threads()
    with pytest.raises(LoaderError):
        next(iterator)


@pytest.mark.parametrize("what", ["loader", "iterator"])
def test_closing_on_one_of_the_threads_waits_for_no_consumer(pack, monkeypatch, what):
    """As the garbage collector may there, while the consumer waits for that very thread."""
    late = Late(monkeypatch, HostMaker)
    loader = Loader(pack, batch_size=8, num_workers=1)
    late.act = lambda: late.end.wait() and closing.close()
    iterator = iter(loader)
    closing: Any = loader if what == "loader" else iterator

    def consume(number):
        if number == 0:
            late.begun.wait()
            late.end.set()
        return next(iterator)

    assert all(isinstance(error, LoaderError) for error in run_at_once(consume))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_of_iterators_that_several_threads_start_the_last_goes_on(pack, hasty, num_workers):
    loader = Loader(pack, batch_size=30, num_workers=num_workers)
    for turn in range(10):
        iterators = run_at_once(lambda _: iter(loader))
        assert len(threads()) == num_workers
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
        assert not threads()
        for iterator in iterators:
            with pytest.raises(LoaderError):
                next(iterator) if not isinstance(iterator, Exception) else iter(loader)
