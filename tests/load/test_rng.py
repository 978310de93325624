import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cinicpack.load.kernels.fill import random_words
from cinicpack.load.rng import CROP, CUTOUT, FLIP, ORDER, draw_words, philox

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


def test_the_counter_is_index_epoch_stream_and_the_key_is_the_seed():
    seed = 0x0123456789ABCDEF
    words = draw_words(seed, 5, CUTOUT, [7, 2**32 - 1])
    assert words.dtype == np.uint32
    key = [0x89ABCDEF, 0x01234567]
    np.testing.assert_array_equal(
        words, philox([[7, 5, CUTOUT, 0], [2**32 - 1, 5, CUTOUT, 0]], key)
    )
    assert draw_words(0, 0, CROP, 3).shape == (4,)
    assert draw_words(0, 0, CROP, np.zeros((2, 3), np.int64)).shape == (2, 3, 4)


def test_streams_never_change():
    assert (CROP, CUTOUT, FLIP, ORDER) == (0, 1, 2, 3)
    assert draw_words(1, 2, FLIP, 3).tolist() == [349503999, 3263813007, 2973215849, 3272845702]
