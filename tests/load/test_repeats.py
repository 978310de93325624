import gc
import os
import signal
import threading
import warnings
import weakref

import pytest

from cinicpack import Augment, Loader
from cinicpack.load.repeats import Repeats, repeats

TEXT = "is the third loader with these options"


@pytest.fixture(autouse=True)
def new_process():
    """Forget the loaders of other tests, and let none be told of but those that are expected."""
    repeats.forget()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", f".*{TEXT}", UserWarning)
        yield


def make(pack, **options):
    return Loader(pack, **{"batch_size": 30, "num_workers": 0, **options})


@pytest.mark.parametrize(
    "options", [{}, {"augment": Augment(), "shuffle": False}, {"normalize": ((0, 0, 0), (1, 1, 1))}]
)
def test_the_third_loader_that_gives_epoch_0_is_told_of_once(pack, options):
    for _ in range(2):
        list(make(pack, **options))
    with pytest.warns(UserWarning, match=TEXT) as caught:
        loader = make(pack, **options)
    assert caught[0].filename == __file__
    list(loader)
    # Neither these nor others.
    for other in (options, {"seed": 1}):
        for _ in range(3):
            list(make(pack, **options | other))


def test_an_epoch_that_was_left_counts_from_its_second_batch_on(pack):
    def leave(batches):
        iterator = iter(make(pack))
        for _ in range(batches):
            next(iterator)

    # Looking at a first batch is no training.
    for batches in (1, 1, 1, 2, 2):
        leave(batches)
    with pytest.warns(UserWarning, match=TEXT):
        leave(2)


@pytest.mark.parametrize(
    "options",
    [{"shuffle": False}, {"seed": None}, {"epoch": 0}, {"epoch": 3}],
)
def test_what_repeats_nothing_or_is_meant_to_is_not_told_of(pack, options):
    for _ in range(4):
        list(make(pack, **options))


def several_epochs(loader):
    list(loader)
    list(loader)


def set_epoch(loader):
    loader.set_epoch(0)
    list(loader)


def load_state(loader):
    loader.load_state_dict(loader.state_dict())
    list(loader)


def leave_epochs(loader):
    for _ in range(2):
        next(iter(loader))


def iterate_not_at_all(loader):
    assert len(loader) == 3


@pytest.mark.parametrize(
    "use", [several_epochs, set_epoch, load_state, leave_epochs, iterate_not_at_all]
)
def test_loaders_that_are_used_in_another_way_are_not_told_of(pack, use):
    for _ in range(4):
        use(make(pack))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"seed": 1}, {"seed": 2}),
        ({"split": "train"}, {"split": "valid"}),
        ({"classes": "cat"}, {"classes": "dog"}),
        ({"augment": None}, {"augment": Augment()}),
        ({"batch_size": 30}, {"batch_size": 40}),
        ({"dtype": "float32"}, {"dtype": "uint8"}),
        ({"rank": 0, "world_size": 2}, {"rank": 1, "world_size": 2}),
        ({"drop_last": False}, {"drop_last": True}),
        ({"normalize": True}, {"normalize": False}),
        ({"return_index": False}, {"return_index": True}),
    ],
)
def test_loaders_with_other_options_are_others(pack, first, second):
    for _ in range(2):
        list(make(pack, **first))
    list(make(pack, **second))
    with pytest.warns(UserWarning, match=TEXT):
        make(pack, **first)


def test_what_is_remembered_refers_to_no_loader(pack):
    loader = make(pack)
    list(loader)
    reference = weakref.ref(loader)
    del loader
    gc.collect()
    assert reference() is None


def test_what_is_remembered_is_bounded():
    few = Repeats(limit=3)
    for key in (b"a", b"a", b"b", b"c", b"d", b"d"):
        few.count(key)
    assert not few.is_next_due(b"a")
    few.count(b"a")
    assert not few.is_next_due(b"a")
    assert few.is_next_due(b"d")


def test_loaders_on_several_threads_are_told_of_once(pack):
    for _ in range(2):
        list(make(pack))
    barrier, told = threading.Barrier(8), []

    def work():
        barrier.wait()
        try:
            make(pack)
        except UserWarning as warning:
            told.append(str(warning))

    workers = [threading.Thread(target=work) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(told) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_forked_process_starts_anew_whatever_lock_was_held():
    repeats.count(b"a")
    with repeats._lock:
        child = os.fork()
        if not child:
            signal.alarm(20)
            repeats.count(b"a")
            # Once in this process.
            os._exit(repeats.is_next_due(b"a"))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
