import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cinicpack.load.order import Orders, Share, draw_order
from cinicpack.load.recipes import InOrder, Recipe, Shuffled
from tests.load import twins

seeds = st.integers(0, 2**64 - 1)
epochs = st.integers(0, 2**32 - 1)


def make(count, shuffle) -> Recipe:
    return Shuffled(count) if shuffle else InOrder(count)


def epoch_order(count, *, shuffle, seed, epoch):
    return draw_order(make(count, shuffle), seed, epoch)


def batches(order, consumed, batch_size, rank, world_size, drop_last=False):
    share = Share(batch_size, rank, world_size, drop_last)
    mine, count = share.take(order[consumed:]), share.batches(len(order) - consumed)
    assert mine.flags.c_contiguous
    assert mine.dtype == np.int64
    assert len(mine) <= count * batch_size
    return [mine[k * batch_size : (k + 1) * batch_size].tolist() for k in range(count)]


@given(seeds, epochs, st.integers(0, 300))
def test_the_kernel_and_its_twin_agree(seed, epoch, count):
    order = epoch_order(count, shuffle=True, seed=seed, epoch=epoch)
    assert order.dtype == np.int64
    np.testing.assert_array_equal(order, twins.shuffle(seed, epoch, count))
    np.testing.assert_array_equal(np.sort(order), np.arange(count))


def test_without_shuffling_the_order_is_that_of_the_rows():
    order = epoch_order(5, shuffle=False, seed=1, epoch=2)
    assert order.tolist() == [0, 1, 2, 3, 4]
    assert order.dtype == np.int64


def test_seeds_and_epochs_give_other_orders():
    orders = {
        epoch_order(50, shuffle=True, seed=seed, epoch=epoch).tobytes()
        for seed in (0, 1, 2**32, 2**63)
        for epoch in (0, 1, 2**32 - 1)
    }
    assert len(orders) == 12


def test_orders_never_change():
    order = epoch_order(90_000, shuffle=True, seed=2018, epoch=3)
    digest = hashlib.sha256(order.astype("<i8").tobytes()).hexdigest()
    assert digest[:32] == "84e4bd2f7e322efb6dec1b5548a69d0f"


def test_every_place_is_as_likely_for_every_sample():
    count, rounds = 8, 20_000
    seen = np.zeros((count, count))
    for epoch in range(rounds):
        seen[np.arange(count), epoch_order(count, shuffle=True, seed=1, epoch=epoch)] += 1
    expected = rounds / count
    chi_square = ((seen - expected) ** 2 / expected).sum()
    # 49 degrees of freedom: a fair shuffle is below with a probability of 0.999, above of 0.999.
    assert 23.98 < chi_square < 85.35


@pytest.mark.parametrize(
    ("rank", "expected"), [(0, [[0, 2], [4, 6], [8]]), (1, [[1, 3], [5, 7], []])]
)
def test_ranks_take_turns_and_have_as_many_batches(rank, expected):
    assert batches(np.arange(9), 0, 2, rank, 2) == expected
    assert batches(np.arange(9), 0, 2, rank, 2, drop_last=True) == expected[:2]


@given(st.integers(0, 60), st.integers(1, 7), st.integers(1, 5), st.integers(0, 20), st.booleans())
def test_all_ranks_together_see_the_global_batches(count, batch_size, world_size, skip, drop_last):
    order = epoch_order(count, shuffle=True, seed=count, epoch=0)
    share = batch_size * world_size
    consumed = min(skip, count)
    left = order[consumed:].tolist()
    expected = [left[start : start + share] for start in range(0, len(left), share)]
    if drop_last:
        expected = [batch for batch in expected if len(batch) == share]
    ranks = [
        batches(order, consumed, batch_size, rank, world_size, drop_last)
        for rank in range(world_size)
    ]
    assert {len(rank) for rank in ranks} == {len(expected)}
    for number, batch in enumerate(expected):
        for rank in range(world_size):
            assert ranks[rank][number] == batch[rank::world_size]


def test_a_rest_can_be_taken_up_with_another_batch_size():
    order = epoch_order(100, shuffle=True, seed=0, epoch=0)
    before = batches(order, 0, 8, 0, 1)[:3]
    after = batches(order, 24, 5, 0, 1)
    assert [sample for batch in before + after for sample in batch] == order.tolist()


def test_nothing_left_is_no_batch():
    assert batches(np.arange(4), 4, 3, 0, 2) == []
    assert batches(np.arange(0), 0, 3, 1, 2) == []
    assert batches(np.arange(5), 0, 3, 1, 2, drop_last=True) == []


@given(
    count=st.integers(0, 40),
    share=st.builds(
        lambda size, ranks, drop_last: Share(size, ranks[0], ranks[1], drop_last),
        st.integers(1, 7),
        st.sampled_from([(0, 1), (0, 2), (1, 2), (2, 3)]),
        st.booleans(),
    ),
    shuffle=st.booleans(),
    ahead=st.booleans(),
    starts=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40)), max_size=5),
)
def test_work_is_a_ranks_share_of_an_order_that_was_drawn_ahead_or_not(
    count, share, shuffle, ahead, starts
):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("cinicpack.load.order._WORTHWHILE", 1)
        orders = Orders(make(count, shuffle), count, seed=3, ahead=ahead)
        for epoch, consumed in starts:
            consumed = min(consumed, count)
            work = orders.take(share, epoch, consumed)
            order = epoch_order(count, shuffle=shuffle, seed=3, epoch=epoch)
            expected = batches(order, consumed, *share)
            size = share.batch_size
            found = [work.positions[k * size : (k + 1) * size] for k in range(work.batches)]
            assert [batch.tolist() for batch in found] == expected
            assert work.epoch == epoch
            # Right, or not the one that is asked for next.
            orders.prepare(epoch + 1)


def test_another_seed_or_end_forgets_what_was_drawn_ahead():
    orders = Orders(Shuffled(20_000), 20_000, seed=1, ahead=True)
    share = Share(100, 0, 1, False)
    for seed in (2, 3):
        orders.prepare(1)
        orders.reseed(seed)
        expected = epoch_order(20_000, shuffle=True, seed=seed, epoch=1)
        np.testing.assert_array_equal(orders.take(share, 1, 0).positions, expected)
    orders.prepare(2)
    orders.clear()
    expected = epoch_order(20_000, shuffle=True, seed=3, epoch=2)
    np.testing.assert_array_equal(orders.take(share, 2, 0).positions, expected)
