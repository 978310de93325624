import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cinicpack.load.augment import Augment
from cinicpack.load.draws import COLUMNS, COUNT, CROP, CUTOUT, FLIP, MIRROR, plan_draws
from cinicpack.load.kernels.random import draw, random_words
from tests.load import twins
from tests.load.philox import draw_words, philox

# kat_vectors of Random123, the lines of philox4x32 with 10 rounds.
KNOWN_ANSWERS = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([2**32 - 1] * 4, [2**32 - 1] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]
word = st.integers(0, 2**32 - 1)


def compiled(counters, key):
    out = np.zeros((len(counters), 4), np.uint32)
    random_words(np.array(counters, np.uint32), np.uint64(key[1] << 32 | key[0]), out)
    return out


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_known_answers(counter, key, expected):
    assert philox(counter, key).tolist() == expected
    assert compiled([counter], key).tolist() == [expected]


@given(st.lists(st.tuples(word, word, word, word), min_size=1, max_size=5), st.tuples(word, word))
def test_numpy_and_the_kernel_agree(counters, key):
    np.testing.assert_array_equal(philox(counters, key), compiled(counters, key))


def test_the_counter_is_index_epoch_purpose_and_the_key_is_the_seed():
    seed = 0x0123456789ABCDEF
    words = draw_words(seed, 5, CUTOUT, [7, 2**32 - 1])
    assert words.dtype == np.uint32
    key = [0x89ABCDEF, 0x01234567]
    np.testing.assert_array_equal(
        words, philox([[7, 5, CUTOUT, 0], [2**32 - 1, 5, CUTOUT, 0]], key)
    )
    assert draw_words(0, 0, CROP, 3).shape == (4,)
    assert draw_words(0, 0, CROP, np.zeros((2, 3), np.int64)).shape == (2, 3, 4)


def test_words_never_change():
    assert draw_words(1, 2, FLIP, 3).tolist() == [349503999, 3263813007, 2973215849, 3272845702]


def draw_rows(index, seed, epoch, augment, height, width, uses=None):
    out = np.full((len(index), COUNT), -1, np.int32)
    plan = plan_draws(augment, height, width)
    uses = np.zeros(len(index), np.int64) if uses is None else uses
    draw(np.asarray(index, np.int64), uses, np.uint64(seed), np.uint64(epoch), plan, out)
    return out


@given(
    st.lists(st.integers(0, 2**32 - 1), max_size=6), st.integers(0, 2**64 - 1),
    st.integers(0, 2**32 - 1), st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**30 - 1),
    st.sampled_from([None, "random", "alternating"]), st.integers(0, 40), st.booleans(),
)  # fmt: skip
def test_draws_are_those_of_the_twin(
    index, seed, epoch, height, width, padding, flip, cutout, vertical
):
    augment = Augment(padding, flip=flip, cutout=cutout, vertical_flip=vertical)
    expected = twins.draw(index, seed, epoch, augment, height, width)
    np.testing.assert_array_equal(draw_rows(index, seed, epoch, augment, height, width), expected)


def test_the_last_word_of_the_counter_is_the_use_of_the_row():
    uses = np.array([0, 1, 5 << 16, (7 << 16) + 3])
    drawn = draw_rows([9] * 4, 2, 3, Augment(2**29, flip=None), 8, 8, uses)
    words = philox([[9, 3, CROP, use] for use in uses], [2, 0])
    offsets = words[:, :2].astype(np.uint64) * np.uint64(2**30 + 1) >> np.uint64(32)
    np.testing.assert_array_equal(drawn[:, :2], offsets)


def test_more_samples_than_words_are_made_at_once():
    augment = Augment(flip="alternating", cutout=8)
    index = np.arange(600)
    expected = twins.draw(index, 7, 3, augment, 32, 24)
    np.testing.assert_array_equal(draw_rows(index, 7, 3, augment, 32, 24), expected)


def test_draws_are_uniform_and_reach_every_value():
    drawn = draw_rows(np.arange(90_000), 7, 0, Augment(cutout=8, vertical_flip=True), 32, 24)
    # How many values there are, and the quantile 0.999 of chi-square with one degree less.
    columns = {
        "dy": (9, 26.12), "dx": (9, 26.12), "mirror": (2, 10.83), "cy": (32, 61.1),
        "cx": (24, 49.73), "upside_down": (2, 10.83),
    }  # fmt: skip
    assert tuple(columns) == COLUMNS
    for column, (values, limit) in zip(drawn.T, columns.values(), strict=True):
        seen = np.bincount(column, minlength=values)
        assert len(seen) == values
        expected = 90_000 / values
        assert ((seen - expected) ** 2 / expected).sum() < limit


def test_an_alternating_flip_mirrors_every_other_epoch():
    augment = Augment(flip="alternating")
    first, second, third = (
        draw_rows(np.arange(1000), 7, epoch, augment, 32, 24)[:, MIRROR] for epoch in range(3)
    )
    assert 400 < first.sum() < 600
    np.testing.assert_array_equal(second, 1 - first)
    np.testing.assert_array_equal(third, first)
