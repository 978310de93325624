"""shuffle="blocks": what the order is, over any rows, for any rank, and after a pause."""

import hashlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cinicpack import ArgumentError, Augment, Loader, StateError
from cinicpack.load.draws import BLOCKS
from cinicpack.load.order import draw_order
from cinicpack.load.recipes import Blocks, Shuffled
from tests.load import twins

seeds = st.integers(0, 2**64 - 1)
epochs = st.integers(0, 2**32 - 1)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make blocks and windows small, of which a split of 90 images then has many."""
    monkeypatch.setattr(Blocks, "block", 4)
    monkeypatch.setattr(Blocks, "window", 16)


class Small(Blocks):
    block = 3
    window = 12


def twin(recipe: Blocks, count: int, seed: int, epoch: int) -> list[int]:
    """Draw the order again, as the docstring of `Blocks` says it."""
    blocks = twins.shuffle(seed, epoch, -(-count // recipe.block), BLOCKS)
    rows = [
        row
        for block in blocks.tolist()
        for row in range(block * recipe.block, min(count, (block + 1) * recipe.block))
    ]
    place = {row: number for number, row in enumerate(twins.shuffle(seed, epoch, count).tolist())}
    windows = [rows[start : start + recipe.window] for start in range(0, count, recipe.window)]
    return [row for window in windows for row in sorted(window, key=place.__getitem__)]


@given(seeds, epochs, st.integers(0, 200))
def test_it_is_what_its_twin_draws(seed, epoch, count):
    recipe = Small(count)
    order = draw_order(recipe, seed, epoch)
    assert order.dtype == np.int64
    assert order.tolist() == twin(recipe, count, seed, epoch)


@given(seeds, epochs, st.integers(0, 100_000))
def test_every_window_is_of_few_blocks_and_every_sample_comes_once(seed, epoch, count):
    order = draw_order(Blocks(count), seed, epoch)
    np.testing.assert_array_equal(np.sort(order), np.arange(count))
    for start in range(0, count, 16_384):
        window = order[start : start + 16_384]
        # One more where the last block, which may be shorter, came before.
        assert len(np.unique(window // 128)) <= 16_384 // 128 + 1


@given(seeds, st.integers(0, 5), st.integers(0, 16_384))
def test_one_window_is_shuffled_as_ever(seed, epoch, count):
    np.testing.assert_array_equal(
        draw_order(Blocks(count), seed, epoch), draw_order(Shuffled(count), seed, epoch)
    )


def test_the_order_never_changes():
    order = draw_order(Blocks(90_000), 2018, 3)
    digest = hashlib.sha256(order.astype("<i8").tobytes()).hexdigest()
    assert digest[:32] == "2c3a945b90231d466e83c2b0b5e4db95"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"split": "train+valid"},
        {"source": "imagenet"},
        {"classes": ["cat", "ship"], "split": "train+valid+test"},
    ],
)
@pytest.mark.parametrize("form", ["pack", "sharded_pack", "hdf5_pack"])
def test_rows_that_the_loader_reads_are_counted(request, small, form, options):
    loader = load(request.getfixturevalue(form), **options)
    rows = np.sort(take(Loader(loader.pack, shuffle=False, return_index=True, **options)))
    for epoch in range(2):
        expected = rows[twin(Blocks(len(rows)), len(rows), 7, epoch)]
        assert take(loader) == expected.tolist()


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_the_order_of_one(pack, small, world_size):
    alone = take(load(pack, batch_size=6))
    shares = [
        take(load(pack, batch_size=6 // world_size, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    for rank, share in enumerate(shares):
        assert share == alone[rank::world_size]


@pytest.mark.parametrize("batches", [1, 3, 9])
def test_a_state_goes_on_where_it_was(pack, small, batches):
    first = load(pack, epoch=2)
    iterator = iter(first)
    before = [row for _ in range(batches) for row in next(iterator)[-1].tolist()]
    state = first.state_dict()
    assert state["shuffle"] == "blocks"
    rest = load(pack, batch_size=5)
    rest.load_state_dict(state)
    assert before + take(rest) == take(load(pack, epoch=2))
    with pytest.raises(StateError, match="shuffle 'blocks' \\(here True\\)"):
        Loader(pack, seed=7).load_state_dict(state)


@pytest.mark.parametrize("shuffle", ["block", 1, 0, "", "True", [], 0.5, ("blocks",)])
def test_anything_else_is_refused(pack, shuffle):
    with pytest.raises(ArgumentError, match="expected shuffle to be True, False or 'blocks'"):
        Loader(pack, shuffle=shuffle)


def load(pack: Any, **options: Any) -> Loader:
    defaults: dict[str, Any] = {"batch_size": 8, "seed": 7, "augment": Augment()}
    return Loader(pack, shuffle="blocks", return_index=True, **defaults | options)


def take(loader: Loader) -> list[int]:
    return [row for *_, index in loader for row in index.tolist()]
