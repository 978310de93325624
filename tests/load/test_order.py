import hashlib
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cinicpack.load.order import Schedule, Share, epoch_order
from tests.load import twins

seeds = st.integers(0, 2**64 - 1)
epochs = st.integers(0, 2**32 - 1)


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
    batch_size=st.integers(1, 7),
    slab_batches=st.integers(1, 4),
    ranks=st.sampled_from([(0, 1), (0, 2), (1, 2), (2, 3)]),
    drop_last=st.booleans(),
    consumed=st.integers(0, 40),
)
def test_a_schedule_goes_through_one_epoch_after_the_other(
    count, batch_size, slab_batches, ranks, drop_last, consumed
):
    rank, world_size = ranks
    share, consumed = Share(batch_size, rank, world_size, drop_last), min(consumed, count)
    expected = []
    for epoch, start in ((7, consumed), (8, 0), (9, 0)):
        order = epoch_order(count, shuffle=True, seed=3, epoch=epoch)
        expected += [
            (epoch, batch)
            for batch in batches(order, start, batch_size, rank, world_size, drop_last)
        ]
    schedule = Schedule(
        count,
        shuffle=True,
        seed=3,
        share=share,
        slab_batches=slab_batches,
        epoch=7,
        consumed=consumed,
    )
    found = []
    assert bool(len(schedule)) == bool(share.batches(count))
    for number in range(min(len(schedule), 200)):
        positions, edges, epoch = schedule[number]
        assert edges[0] == 0
        assert 0 < len(edges) - 1 <= slab_batches
        assert edges[-1] == len(positions) <= slab_batches * batch_size
        if epoch > 9:
            break
        found += [(epoch, positions[a:b].tolist()) for a, b in pairwise(edges)]
    assert found == (expected if len(schedule) else [])


def test_a_slab_can_be_asked_for_again_after_later_ones():
    schedule = Schedule(
        50,
        shuffle=True,
        seed=0,
        share=Share(4, 0, 1, False),
        slab_batches=2,
        epoch=0,
        consumed=0,
    )
    before = [schedule[number] for number in range(40)]
    for number in reversed(range(40)):
        np.testing.assert_array_equal(schedule[number].positions, before[number].positions)
