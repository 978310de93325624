from collections import defaultdict

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import cinicpack
from cinicpack.study.duplicates import find_duplicates, hash_images
from tests.study.rows import as_split

MASK = 2**64 - 1
FACTOR = 0x9E3779B97F4A7C15


def step(state: int, word: int) -> int:
    """Take one more word into a hash."""
    state = (state ^ word) * FACTOR & MASK
    return state ^ state >> 32


def hash_slowly(image: np.ndarray) -> int:
    pixels = image.transpose(2, 0, 1).tobytes()
    size = 8 if len(pixels) % 8 == 0 else 1
    state = 0
    for start in range(0, len(pixels), size):
        state = step(state, int.from_bytes(pixels[start : start + size], "little"))
    return state


def find_slowly(images: np.ndarray) -> list[list[int]]:
    rows = defaultdict(list)
    for row, image in enumerate(images):
        rows[image.tobytes()].append(row)
    return sorted(group for group in rows.values() if len(group) > 1)


def collide() -> np.ndarray:
    """Make two images (1, 16, 3) of 48 bytes that differ and have the same hash."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 48), np.uint8)
    words = pixels.view("<u8")
    words[1, 2:] = words[0, 2:]
    first, second = (step(0, int(word)) for word in words[:, 0])
    words[1, 1] = first ^ second ^ int(words[0, 1])
    return pixels.reshape(2, 3, 1, 16).transpose(0, 2, 3, 1)


SHAPES = st.sampled_from([(0, 1, 2, 3), (1, 2, 4, 3), (7, 1, 1, 3), (12, 1, 8, 3), (40, 1, 1, 3)])


# The first call compiles.
@settings(deadline=None)
@given(arrays(np.uint8, SHAPES, elements=st.integers(0, 1)), st.integers(0, 40))
def test_duplicates_are_those_that_a_table_finds(images, cut):
    parts = [part for part in (images[:cut], images[cut:]) if len(part)]
    found = find_duplicates([as_split(part) for part in parts])
    assert [rows.tolist() for rows in found] == find_slowly(images)


# The first call compiles.
@settings(deadline=None)
@given(arrays(np.uint8, SHAPES))
def test_hashes_are_those_of_the_plain_twin(images):
    expected = [hash_slowly(image) for image in images]
    assert hash_images([as_split(images)]).tolist() == expected


def test_images_with_equal_hashes_are_compared():
    one, other = images = collide()
    assert not np.array_equal(one, other)
    assert len(set(hash_images([as_split(images)]).tolist())) == 1
    assert find_duplicates([as_split(images)]) == []
    three = find_duplicates([as_split(images[[0, 1, 1]]), as_split(images[[0, 0]])])
    assert [rows.tolist() for rows in three] == [[0, 3, 4], [1, 2]]


def test_a_pack_against_itself(any_pack):
    pack = cinicpack.open_pack(any_pack)
    assert find_duplicates([pack[name] for name in pack.splits]) == []
    twice = find_duplicates([pack["train"], pack["test"], pack["train"]])
    assert [rows.tolist() for rows in twice] == [[row, row + 24] for row in range(12)]
