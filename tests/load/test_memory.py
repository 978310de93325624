import numpy as np
import pytest
import torch

from cinicpack.load.memory import Pool, allocate_aligned


@pytest.fixture
def made():
    return []


@pytest.fixture
def pool(made):
    def make():
        made.append(allocate_aligned(1000))
        return made[-1]

    return Pool(make, 2)


def lend(pool):
    loan = pool.lend()
    return loan.array(loan.lent.__array_interface__)


def test_memory_is_used_again_when_it_is_dropped(pool, made):
    for _ in range(10):
        array = lend(pool)
        assert array.shape == (1000,)
        assert array.dtype == np.uint8
        del array
    assert len(made) == 1


def test_the_last_to_come_back_is_lent_first(pool):
    first, second = lend(pool), lend(pool)
    place = second.ctypes.data
    del first, second
    assert lend(pool).ctypes.data == place


@pytest.mark.parametrize(
    "derive",
    [
        lambda array: array[10:20],
        lambda array: array[:96].view(np.float32).reshape(4, 6)[1],
        lambda array: torch.from_numpy(array[:96].view(np.int64)),
        lambda array: torch.from_numpy(array)[3:].numpy(),
        lambda array: torch.utils.dlpack.from_dlpack(torch.from_numpy(array)),
        lambda array: memoryview(array)[5:],
        lambda array: torch.from_numpy(array[:8].view(np.float32)).requires_grad_().exp().grad_fn,
    ],
)
def test_memory_is_not_used_again_while_anything_refers_to_it(pool, made, derive):
    held = derive(lend(pool))
    other = lend(pool)
    assert len(made) == 2
    del held, other
    again = [lend(pool), lend(pool)]
    assert len(made) == 2
    del again


def test_no_more_spares_are_kept_than_asked_for(pool, made):
    arrays = [lend(pool) for _ in range(5)]
    del arrays
    assert len(made) == 5
    again = [lend(pool) for _ in range(3)]
    assert len(made) == 6
    del again


def test_clear_lets_go_of_everything(pool, made):
    held = lend(pool)
    pool.clear()
    del held
    lend(pool)
    assert len(made) == 2


def test_memory_starts_on_a_cache_line():
    for nbytes in (1, 63, 64, 1000, 1 << 20):
        memory = allocate_aligned(nbytes)
        assert len(memory) == nbytes
        assert memory.ctypes.data % 64 == 0
