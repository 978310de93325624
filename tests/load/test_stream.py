import gc
import json
import os
import signal
import threading
import weakref

import pytest
import torch

from cinicpack import ArgumentError, Augment, Loader, LoaderError, PackError
from cinicpack.load.engine.memory import Shelf
from tests.load.pieces import Late, count_pieces, engine_for, make_pieces_fail
from tests.load.threads import threads
from tests.packs import copy_pack


def test_a_loader_is_closed_at_the_end_of_its_block(pack):
    with Loader(pack, batch_size=4, num_workers=3) as loader:
        iterator = iter(loader)
        next(iterator)
    for go_on in (lambda: next(iterator), lambda: iter(loader)):
        with pytest.raises(LoaderError, match="close"):
            go_on()
    with pytest.raises(ZeroDivisionError), loader:
        raise ZeroDivisionError


@pytest.mark.parametrize("how", ["break", "exception", "drop", "close", "forget", "loader"])
@pytest.mark.parametrize("options", [{}, {"augment_on": "device"}])
def test_nothing_is_made_any_more(pack, monkeypatch, how, options):
    """Nor does any thread or other object keep the pixels, the loader or its iterator."""
    made = count_pieces(monkeypatch)
    loader = Loader(pack, batch_size=4, num_workers=3, **options)
    iterator = iter(loader)
    next(iterator)
    kept = [weakref.ref(thing) for thing in (iterator, iterator._feed)]
    if how == "break":
        del iterator
        for _ in loader:
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
    count = len(made)
    # The engine was woken for these too, had there been any.
    others = count_pieces(monkeypatch)
    list(Loader(pack, num_workers=2))
    assert others
    assert len(made) - count == len(others)
    if how not in ("close", "loader"):
        assert not [thing for thing in kept if thing() is not None]


def test_the_same_threads_make_all_epochs_of_all_loaders(pack):
    loader = Loader(pack, batch_size=4, num_workers=3, return_index=True)
    epochs, seen = [], []
    for number in range(4):
        # Setting the epoch that is due changes nothing.
        loader.set_epoch(number)
        epochs.append([index.tolist() for _, _, index in loader])
        seen.append(threads())
    assert seen[0]
    assert all(set(later) == set(seen[0]) for later in seen)
    loader.set_epoch(2)
    assert [index.tolist() for _, _, index in loader] == epochs[2]
    loader.close()
    list(Loader(pack, num_workers=2))
    assert set(threads()) == set(seen[0])


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


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_error_of_a_kernel_surfaces_in_the_consumer(pack, monkeypatch, num_workers):
    make_pieces_fail(monkeypatch)
    iterator = iter(Loader(pack, num_workers=num_workers))
    with pytest.raises(LoaderError, match="kernel failed"):
        next(iterator)
    with pytest.raises(LoaderError, match="closed"):
        next(iterator)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_error_in_taking_a_batch_keeps_its_traceback(pack, monkeypatch, num_workers):
    def fail(self, *arguments):
        raise OSError("the disk is gone")

    monkeypatch.setattr(Shelf, "hand_over", fail)
    iterator = iter(Loader(pack, num_workers=num_workers))
    with pytest.raises(OSError, match="the disk is gone") as caught:
        next(iterator)
    assert any(entry.name == "fail" for entry in caught.traceback)
    with pytest.raises(LoaderError, match="closed"):
        next(iterator)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("amid", ["lend", "hand_over"])
def test_an_interrupt_closes_the_iterator_and_loses_no_place(pack, monkeypatch, num_workers, amid):
    loader = Loader(pack, batch_size=4, num_workers=num_workers, return_index=True)
    expected = [index.tolist() for epoch in range(2) for _, _, index in loader]
    loader.set_epoch(0)
    iterator = iter(loader)
    got = [next(iterator)[2].tolist() for _ in range(6)]

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Shelf, amid, interrupt)
        with pytest.raises(KeyboardInterrupt):
            next(iterator)
    with pytest.raises(LoaderError, match="interrupt"):
        next(iterator)
    loader.load_state_dict(loader.state_dict())
    got += [index.tolist() for epoch in range(2) for _, _, index in loader]
    assert got == expected


def test_a_signal_is_seen_while_next_waits(pack, monkeypatch):
    late = Late(monkeypatch)
    iterator = iter(Loader(pack, batch_size=4, num_workers=1))
    assert late.begun.wait(30)
    gone_on = []

    def interrupt(*_):
        gone_on.append(late.gone_on.is_set())
        # To close the iterator is to wait for the piece that is under way.
        late.end.set()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.03)
        with pytest.raises(KeyboardInterrupt):
            next(iterator)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert gone_on == [False]
    with pytest.raises(LoaderError, match="interrupt"):
        next(iterator)


def test_an_epoch_that_cannot_start_is_not_used_up(pack, monkeypatch):
    loader, other = (Loader(pack, batch_size=4, num_workers=2, return_index=True) for _ in range(2))
    expected = [index.tolist() for _, _, index in other]
    loader.load_state_dict({**loader.state_dict(), "epoch": 0, "samples": 8})

    def fail(thread):
        raise RuntimeError("can't start new thread")

    with engine_for(3):
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
        epochs = [loader.state_dict()["epoch"] for _ in loader]
        assert epochs == [*[expected] * (len(loader) - 1), expected + 1]
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


def test_an_epoch_of_a_pack_that_was_written_to_is_refused(npy_pack, tmp_path):
    path = copy_pack(npy_pack, tmp_path / "a.pack")
    loader = Loader(path, batch_size=4)
    assert len(list(loader)) == 3
    with open(path / "train" / "images-00000.npy", "rb+") as file:
        file.truncate(200)
    with pytest.raises(PackError, match="images-00000"):
        iter(loader)
