from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import cinicpack
from cinicpack.study.duplicates import find_duplicates
from tests.study.rows import as_split


def find_slowly(images: np.ndarray) -> list[list[int]]:
    rows = defaultdict(list)
    for row, image in enumerate(images):
        rows[image.tobytes()].append(row)
    return sorted(group for group in rows.values() if len(group) > 1)


SHAPES = st.sampled_from([(0, 1, 2, 3), (1, 2, 4, 3), (7, 1, 1, 3), (12, 1, 8, 3), (40, 1, 1, 3)])


@given(arrays(np.uint8, SHAPES, elements=st.integers(0, 1)), st.integers(0, 40))
def test_duplicates_are_those_that_a_table_finds(images, cut):
    parts = [part for part in (images[:cut], images[cut:]) if len(part)]
    found = find_duplicates([as_split(part) for part in parts])
    assert [rows.tolist() for rows in found] == find_slowly(images)


@pytest.mark.parametrize("byte", range(24))
def test_one_byte_makes_a_difference(byte):
    images = np.zeros((3, 2, 4, 3), np.uint8)
    images[1].reshape(-1)[byte] = 1
    assert [rows.tolist() for rows in find_duplicates([as_split(images)])] == [[0, 2]]


def test_duplicates_are_found_across_blocks_and_splits():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2500, 2, 2, 3), np.uint8)
    images[2400] = images[7]
    found = find_duplicates([as_split(images), as_split(images[:8])])
    assert [rows.tolist() for rows in found] == [
        *([row, row + 2500] for row in range(7)),
        [7, 2400, 2507],
    ]


def test_a_pack_against_itself(any_pack):
    pack = cinicpack.open_pack(any_pack)
    assert find_duplicates([pack[name] for name in pack.splits]) == []
    twice = find_duplicates([pack["train"], pack["test"], pack["train"]])
    assert [rows.tolist() for rows in twice] == [[row, row + 24] for row in range(12)]
