import copy
import pickle
import sys
import threading
import weakref
from typing import Any

import numpy as np
import pytest
import torch

import cinicpack
from cinicpack.load.engine.memory import Shelf, Slot, allocate_aligned


def describe(nbytes):
    return {"version": 3, "typestr": "|u1", "shape": (nbytes,), "strides": None}


@pytest.fixture
def shelf():
    return Shelf(1000, describe(1000))


def give(shelf):
    """Lend a slot and hand its array over, as a batch of 900 bytes."""
    slot = shelf.lend()
    return shelf.hand_over(slot, slot.array[:900])


def is_unused(slot):
    return sys.getrefcount(slot.array) == slot.references


def place_of(array):
    return array.__array_interface__["data"][0]


def test_a_slot_is_memory_of_the_kind_that_was_described(shelf):
    slot = shelf.lend()
    assert (slot.array.shape, slot.array.dtype) == ((1000,), np.uint8)
    assert place_of(slot.array) == slot.address
    slot.array[:] = 7
    assert is_unused(slot)


def test_memory_is_used_again_when_it_is_dropped(shelf):
    places = set()
    for _ in range(10):
        array = give(shelf)
        places.add(place_of(array))
        del array
    assert len(places) == 1


def test_what_is_lent_is_lent_once(shelf):
    slots = [shelf.lend() for _ in range(5)]
    assert len({slot.address for slot in slots}) == 5
    for slot in slots:
        shelf.put(slot)
    assert {shelf.lend().address for _ in range(5)} == {slot.address for slot in slots}


@pytest.mark.parametrize(
    "derive",
    [
        lambda array: array,
        lambda array: array[10:20],
        lambda array: array[:96].view(np.float32).reshape(4, 6)[1],
        lambda array: torch.from_numpy(array[:96].view(np.int64)),
        lambda array: torch.from_numpy(array)[3:].numpy(),
        lambda array: torch.utils.dlpack.from_dlpack(torch.from_numpy(array)),
        lambda array: np.from_dlpack(torch.from_numpy(array)),
        lambda array: torch.from_numpy(array).untyped_storage(),
        lambda array: memoryview(array)[5:],
        lambda array: torch.from_numpy(array[:8].view(np.float32)).requires_grad_().exp().grad_fn,
        lambda array: torch.from_numpy(array).view(torch.int16)[2:4],
    ],
)
def test_memory_is_not_used_again_while_anything_refers_to_it(shelf, derive):
    array = give(shelf)
    place = place_of(array)
    held = derive(array)
    del array
    others = [give(shelf) for _ in range(3)]
    assert place not in {place_of(other) for other in others}
    del others
    assert place not in {place_of(give(shelf)) for _ in range(5)}
    del held
    assert place in {place_of(array) for array in [give(shelf) for _ in range(5)]}


def test_what_autograd_has_saved_is_not_used_again(shelf):
    images = torch.from_numpy(give(shelf)[:896].view(np.float32))
    images[:] = torch.arange(224)
    weight = torch.ones(224, requires_grad=True)
    loss = (images * weight).sum()
    del images
    for _ in range(5):
        give(shelf)[:] = 255
    loss.backward()
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.arange(224.0))


@pytest.mark.parametrize(("nbytes", "most"), [(1000, 16), (4 << 20, 12), (40 << 20, 5)])
def test_no_more_is_looked_after_than_16_slots_in_48_mib_or_5(nbytes, most):
    shelf = Shelf(nbytes, describe(nbytes))
    slots = [shelf.lend() for _ in range(most + 4)]
    last = [slot.address for slot in slots[-most:]]
    kept = [weakref.ref(slot.array) for slot in slots]
    while slots:
        shelf.put(slots.pop(0))
    # The memory of the others was freed at once, or will be when the user lets go.
    assert [array() is not None for array in kept] == [False] * 4 + [True] * most
    assert sorted(shelf.lend().address for _ in range(most)) == sorted(last)


def test_held_memory_that_is_looked_after_no_longer_is_the_users(shelf):
    held = [give(shelf) for _ in range(40)]
    for number, array in enumerate(held):
        array[:] = number
    assert len({place_of(array) for array in held}) == 40
    for _ in range(60):
        give(shelf)[:] = 255
    assert all((array == number).all() for number, array in enumerate(held))


def test_clear_lets_go_of_everything(shelf):
    held = give(shelf)
    slot = shelf.lend()
    unused = weakref.ref(slot.array)
    shelf.put(slot)
    del slot
    shelf.clear()
    assert unused() is None
    held[:] = 5
    give(shelf)[:] = 6
    assert (held == 5).all()


def test_threads_that_lend_and_put_at_once_never_share_a_slot(shelf):
    """Each writes its own number into what it was lent, and finds it there later."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    wrong: list[int] = []

    def work(number):
        held = []
        for turn in range(2000):
            array = give(shelf)
            array[:8] = number
            held.append(array)
            if len(held) > turn % 5 and (held.pop(0)[:8] != number).any():
                wrong.append(number)
            del array

    workers = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    sys.setswitchinterval(before)
    assert not wrong


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, pickle.dumps])
def test_neither_shelf_nor_slot_is_copied(shelf, way):
    for thing in (shelf, shelf.lend()):
        with pytest.raises(TypeError, match=f"cannot copy or pickle {type(thing).__name__}"):
            way(thing)


def test_memory_starts_on_a_cache_line_or_a_huge_page():
    for nbytes in (1, 63, 64, 1000, (1 << 20) - 1, 1 << 20, 5 << 20):
        memory = allocate_aligned(nbytes)
        assert len(memory) == nbytes
        assert memory.ctypes.data % 64 == 0
        if nbytes >= 1 << 20 and sys.platform == "linux":
            assert memory.ctypes.data % (2 << 20) == 0
        memory[:] = 1
        assert (memory == 1).all()


def test_a_slot_of_any_kind():
    interface = {"version": 3, "typestr": "<f4", "shape": (2, 3, 4), "strides": (48, 4, 12)}
    slot = Slot(96, interface)
    assert slot.array.strides == (48, 4, 12)
    assert is_unused(slot)
    view = slot.array[:1]
    assert not is_unused(slot)
    del view
    assert is_unused(slot)


@pytest.mark.parametrize("batch_size", [10, 2000])
def test_epochs_use_the_memory_of_those_before(tmp_path, monkeypatch, batch_size):
    """Batches of 25 MB as well, while the loop holds one as loops do."""
    images, path = np.zeros((4 * batch_size, 3, 32, 32), np.uint8), tmp_path / "zeros.pack"
    cinicpack.pack_arrays({"train": (images, [0] * len(images))}, path, classes=["zero"])
    loader = cinicpack.Loader(path, batch_size=batch_size, num_workers=2, normalize=False)
    made, init = [0], Slot.__init__

    def count(*arguments: Any) -> None:
        made[0] += 1
        init(*arguments)

    monkeypatch.setattr(Slot, "__init__", count)
    for _ in range(10):
        for batch, _ in loader:
            assert len(batch) == batch_size
    # As many as there may be at once, however fast the threads were.
    assert 0 < made[0] < 12


def test_what_was_given_back_last_is_lent_first(shelf):
    """Whatever is still in use, and however often somebody looked."""
    oldest, older, old, newest = (shelf.lend() for _ in range(4))
    for slot in (oldest, older, old, newest):
        shelf.put(slot)
    held = newest.array[:5]
    assert shelf.lend() is old
    shelf.put(old)
    assert shelf.lend() is old
    del held
    assert [shelf.lend() for _ in range(3)] == [newest, older, oldest]
