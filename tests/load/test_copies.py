"""What copies, pickles and forks of loaders do, and of what they consist of."""

import copy
import pickle
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import cinicpack
from benchmarks.gpu.images import make_noise
from cinicpack import Augment, Loader, LoaderError, PackError
from cinicpack.cinic10 import CLASSES
from tests.load.forks import held_mutex, run_in_fork
from tests.load.pieces import Late


def pass_through_pickle(thing: Any, protocol: int = pickle.DEFAULT_PROTOCOL) -> Any:
    return pickle.loads(pickle.dumps(thing, protocol))


WAYS: list[Callable[[Any], Any]] = [
    copy.copy,
    copy.deepcopy,
    pass_through_pickle,
    partial(pass_through_pickle, protocol=0),
]

OPTIONS: list[dict[str, Any]] = [
    {},
    {"split": "train+valid", "source": "imagenet", "classes": "cat"},
    {"normalize": ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)), "dtype": torch.float16, "drop_last": True},
    {"normalize": False, "dtype": "bfloat16", "channels_last": True, "shuffle": False},
    {"output": "numpy", "dtype": "uint8", "rank": 1, "world_size": 2, "num_workers": 0},
    {"augment_on": "device", "num_workers": 1, "seed": 2**64 - 1},
    {"resident": True, "device": torch.device("cpu")},
]


def load(pack, split="valid", **options) -> Loader:
    return Loader(pack, split, **{"batch_size": 8, "augment": Augment(), **options})


def assert_same(batches, expected):
    for batch, other in zip(batches, expected, strict=True):
        assert all(map(np.array_equal, map(bits, batch), map(bits, other)))


def bits(array):
    array = array.view(torch.int16) if array.dtype == torch.bfloat16 else array
    return np.asarray(array)


def rows_of(batches):
    return [index.tolist() for *_, index in batches]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("options", OPTIONS)
def test_a_copy_goes_on_from_the_same_place_without_its_original(pack, way, options):
    loader = load(pack, **options)
    fresh = way(loader)
    iterator = iter(loader)
    next(iterator)
    used, state = way(loader), loader.state_dict()
    expected = [list(iterator), list(loader)]
    loader.close()
    assert used.state_dict() == state
    assert (used.batch_size, used.augment) == (loader.batch_size, loader.augment)
    for batches in expected:
        assert_same(used, batches)
    assert_same(list(fresh)[1:], expected[0])


@given(data=st.data())
def test_a_copy_is_at_the_place_that_the_state_names(pack, data):
    """Whatever was done before, to the original or to what that is a copy of."""
    options: dict[str, Any] = {"batch_size": 40, "num_workers": 0, "return_index": True}
    loader, iterator = load(pack, **options), None
    steps = ["iter", "next", "close", "finish", "set_epoch", "load_state_dict", "copy"]
    for step in data.draw(st.lists(st.sampled_from(steps), max_size=8)):
        if step == "iter":
            iterator = iter(loader)
        elif step == "next" and iterator is not None:
            next(iterator, None)
        elif step == "close" and iterator is not None:
            iterator.close()
            iterator = None
        elif step == "finish":
            list(iterator or loader)
        elif step == "set_epoch":
            loader.set_epoch(data.draw(st.integers(0, 3)))
        elif step == "load_state_dict" and iterator is None:
            epoch, samples = data.draw(st.tuples(st.integers(0, 3), st.sampled_from([0, 40, 80])))
            loader.load_state_dict({**loader.state_dict(), "epoch": epoch, "samples": samples})
        elif step == "copy":
            loader, iterator = data.draw(st.sampled_from(WAYS))(loader), None
    other = data.draw(st.sampled_from(WAYS))(loader)
    assert other.state_dict() == loader.state_dict()
    if loader.epoch != loader.state_dict()["epoch"]:
        # Broken off: the next iter() would be the next epoch.
        loader.load_state_dict(loader.state_dict())
    rest = iterator if iterator is not None and iterator.is_running else loader
    assert rows_of(other) == rows_of(rest)
    assert rows_of(other) == rows_of(loader)


@pytest.mark.parametrize("way", WAYS)
def test_a_copy_remembers_an_epoch_that_was_set_for_later(pack, way):
    loader = load(pack, batch_size=40, return_index=True)
    epochs = [rows_of(loader) for _ in range(7)]
    loader.set_epoch(0)
    iterator = iter(loader)
    next(iterator)
    loader.set_epoch(5)
    other = way(way(loader))
    assert [rows_of(other) for _ in range(3)] == [epochs[0][1:], epochs[5], epochs[6]]
    other = way(loader)
    other.set_epoch(0)
    assert [rows_of(other) for _ in range(2)] == [epochs[0][1:], epochs[1]]


@pytest.mark.parametrize("way", WAYS)
def test_neither_a_copy_nor_its_original_minds_what_becomes_of_the_other(pack, way):
    loader = load(pack, num_workers=2)
    expected = list(loader)
    loader.set_epoch(0)
    iterator = iter(loader)
    other = way(loader)
    batches = iter(other)
    next(batches)
    other.close()
    assert_same(iterator, expected)
    other = way(loader)
    loader.close()
    list(other)
    other.close()


@pytest.mark.parametrize("way", WAYS)
def test_a_copy_of_a_closed_loader_is_closed(pack, way):
    loader = load(pack)
    next(iter(loader))
    loader.close()
    other = way(loader)
    assert other.state_dict() == loader.state_dict()
    with pytest.raises(LoaderError, match="after close"):
        iter(other)


@pytest.mark.parametrize("way", WAYS)
def test_arguments_are_copied_as_they_were_meant(pack, way, monkeypatch):
    """What was an iterator is used up, and the working directory may be another."""
    monkeypatch.chdir(pack.path.parent)
    mean_and_std = (iter(values) for values in ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)))
    loader = load(pack.path.name, classes=iter(["cat", "dog"]), normalize=mean_and_std)
    expected = list(loader)
    monkeypatch.chdir("/")
    other = way(loader)
    other.set_epoch(0)
    assert_same(other, expected)


def test_the_cores_are_those_of_where_the_copy_is(pack, monkeypatch):
    loader, fixed = load(pack), load(pack, num_workers=3)
    monkeypatch.setattr("cinicpack.load.options.usable_cores", lambda: 7)
    assert [copy.copy(loader).num_workers, copy.copy(fixed).num_workers] == [7, 3]


class Named(Loader):
    """A loader with arguments and attributes of its own."""

    note: Any

    def __init__(self, name, *args, **options):
        self.before = [name]
        super().__init__(*args, **options)
        self.name = name


@pytest.mark.parametrize("way", WAYS)
def test_a_subclass_is_copied_with_what_it_adds(pack, way):
    loader = Named("mine", pack, "valid", batch_size=8)
    loader.note = {"added": "later"}
    next(iter(loader))
    for other in (way(loader), way(way(loader))):
        assert type(other) is Named
        assert (other.name, other.before, other.note) == ("mine", ["mine"], {"added": "later"})
        assert other.state_dict() == loader.state_dict()
        assert next(iter(other))[0].shape == (8, 3, 32, 32)


@pytest.mark.parametrize("options", OPTIONS)
def test_a_pickle_holds_no_address_and_no_data(pack, options):
    loader = load(pack, **options)
    list(loader)
    for pickled in (pickle.dumps(loader), pickle.dumps(load(pack, **options))):
        assert len(pickled) < 2000
        assert not [row for row in pack["train+valid"].addresses() if row.tobytes() in pickled]


def test_a_copy_opens_the_pack_that_the_loader_has(tree, tmp_path):
    path = tmp_path / "one.pack"
    cinicpack.pack(tree, path, progress=False)
    loader = Loader(path, num_workers=1)
    pickled, expected = pickle.dumps(loader), list(copy.copy(loader))
    cinicpack.pack(tree, path, splits=["train"], overwrite=True, progress=False)
    assert_same(copy.copy(loader), expected)
    with pytest.raises(PackError, match="was replaced"):
        pickle.loads(pickled)


def receive(_number, loader, folder):
    """Run in a process of its own."""
    torch.save([list(loader), loader.state_dict()], folder / "batches.pt")


def test_a_spawned_process_gets_the_batches_that_would_have_come(pack, tmp_path):
    loader = load(pack, pack["train"].select(indices=range(60)), num_workers=1)
    iterator = iter(loader)
    next(iterator)
    spawn: Any = vars(torch.multiprocessing)["spawn"]
    spawn(receive, args=(loader, tmp_path))
    batches, state = torch.load(tmp_path / "batches.pt")
    assert_same(batches, list(iterator))
    assert state == loader.state_dict()


def queue_of(iterator: Any) -> Any:
    """Return the queue of an iterator, which on the host serves other epochs too."""
    feed = iterator._feed
    return feed._queue if hasattr(feed, "_queue") else feed._equipment[0].queue


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("options", [{"num_workers": 0}, {}, {"resident": True}])
def test_what_has_memory_or_threads_of_this_process_is_not_copied(pack, way, options):
    loader: Any = load(pack, **options)
    iterator: Any = iter(loader)
    next(iterator)
    with pytest.raises(TypeError, match=r"cannot copy or pickle Epoch.*copy or pickle the Loader"):
        way(iterator)
    things = [loader._samples, loader._maker, iterator._feed, queue_of(iterator)]
    for thing in (*things, loader._stream, loader._stream._orders):
        with pytest.raises(TypeError, match=f"cannot copy or pickle {type(thing).__name__}"):
            way(thing)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("output", ["torch", "numpy"])
def test_a_copied_batch_is_the_users_own(pack, way, output):
    loader = load(pack, num_workers=1, output=output)
    copies = [way(batch) if way is copy.deepcopy else tuple(map(way, batch)) for batch in loader]
    list(loader)
    loader.set_epoch(0)
    assert_same(copies, loader)


forks = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


@forks
@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_iterator_from_before_a_fork_goes_on_or_says_why_not(pack, num_workers):
    loader = load(pack, num_workers=num_workers, return_index=True)
    expected = rows_of(loader)
    loader.set_epoch(0)
    iterator = iter(loader)
    next(iterator)

    def go_on():
        found, reason = [], "fork"
        try:
            for batch in iterator:
                found += rows_of([batch])
        except LoaderError as error:
            reason = str(error)
        assert "fork" in reason
        assert found == expected[1 : 1 + len(found)]
        loader.set_epoch(0)
        assert rows_of(loader) == expected

    assert run_in_fork(go_on) == 0
    assert rows_of(iterator) == expected[1:]


@forks
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_fork_while_another_thread_takes_a_batch_leaves_no_lock(pack, num_workers):
    expected = rows_of(load(pack, num_workers=num_workers, return_index=True))
    loader = load(pack, num_workers=num_workers, return_index=True)
    with pytest.MonkeyPatch.context() as patched:
        late = Late(patched)
        iterator = iter(loader)
        got: list[Any] = []
        consumer = threading.Thread(target=lambda: got.extend(rows_of(iterator)))
        consumer.start()
        late.begun.wait(30)

    def go_on():
        for _ in range(2):
            with pytest.raises(LoaderError, match="fork"):
                next(iterator)
        loader.set_epoch(0)
        assert rows_of(loader) == expected
        loader.close()

    status = run_in_fork(go_on)
    late.end.set()
    consumer.join(10)
    assert (status, got) == (0, expected)


@pytest.fixture
def alone():
    """Let torch use one thread: a fork of a thread that has used others would wait for them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@forks
@pytest.mark.parametrize("options", [{}, {"augment_on": "device"}, {"num_workers": 0}])
def test_a_fork_while_the_engine_is_locked_leaves_a_loader_that_goes_on(pack, alone, options):
    """As it may be at any time, by a thread that the forked process does not have."""
    loader: Any = load(pack, **{"num_workers": 2, "return_index": True, **options})
    expected = rows_of(loader)
    loader.set_epoch(0)
    iterator = iter(loader)
    next(iterator)

    def go_on():
        with pytest.raises(LoaderError, match="fork"):
            next(iterator)
        iterator.close()
        loader.set_epoch(0)
        assert rows_of(loader) == expected
        loader.close()

    with held_mutex(queue_of(iterator)):
        status = run_in_fork(go_on)
    assert status == 0
    assert rows_of(iterator) == expected[1:]


@forks
def test_an_order_that_the_engine_was_drawing_at_a_fork_is_drawn_again(tmp_path):
    many = {"train": make_noise(1001, (1, 1))}
    path = cinicpack.pack_arrays(many, tmp_path / "many.pack", classes=CLASSES).path
    loader = Loader(path, batch_size=1000, num_workers=1, dtype="uint8", return_index=True)
    epochs = [rows_of(loader) for _ in range(3)]
    loader.set_epoch(0)
    iter(loader)

    def go_on():
        assert [rows_of(loader) for _ in range(2)] == epochs[1:]

    assert run_in_fork(go_on) == 0
    assert [rows_of(loader) for _ in range(2)] == epochs[1:]


@forks
def test_a_fork_while_another_thread_has_a_lock_leaves_a_loader_that_goes_on(pack):
    loader: Any = load(pack, num_workers=1, return_index=True)
    expected = rows_of(loader)
    has, forked = threading.Event(), threading.Event()

    def hold():
        with loader._stream._lock:
            has.set()
            forked.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    has.wait()

    def go_on():
        loader.set_epoch(0)
        assert rows_of(loader) == expected

    status = run_in_fork(go_on)
    forked.set()
    holder.join(10)
    assert status == 0
