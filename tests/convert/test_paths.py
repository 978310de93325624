import os
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cinicpack.convert.paths import Paths

parts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1)
names = parts | parts.map(lambda text: text + "\udcff") | st.just("x" * 255)
folders = st.sampled_from(["", "cat", "train/cat", "train/dög", "test/\udcfe"])
paths_of = st.lists(st.builds(os.path.join, folders, names), max_size=30)


@given(paths_of, paths_of, st.data())
def test_paths_are_those_that_were_added(first, more, data):
    paths = Paths(first)
    paths.extend(more)
    expected = [*first, *more]
    assert list(paths) == expected
    assert len(paths) == len(expected)
    start, stop = (data.draw(st.integers(-31, 61)) for _ in range(2))
    assert paths[start:stop] == expected[start:stop]
    if not expected:
        return
    place = data.draw(st.integers(-len(expected), len(expected) - 1))
    assert paths[place] == expected[place]
    order = data.draw(st.permutations(range(len(expected))))
    order = np.array(order[: data.draw(st.integers(1, len(expected)))])
    assert list(paths.in_order(order)) == [expected[place] for place in order]
    found = [expected[place].rpartition("/")[2] for place in order]
    assert paths.names(order) == found
    assert paths.encoded(order).tolist() == [os.fsencode(name) for name in found]
    assert paths.measure_names(order) == max(len(os.fsencode(name)) for name in found)
    for folder, places in paths.in_folders().items():
        mine = [row for row, path in enumerate(expected) if path.rpartition("/")[0] == folder]
        assert places.tolist() == mine


def test_a_place_behind_the_last_path_is_an_error():
    with pytest.raises(IndexError):
        Paths(["a/b.png"])[1]


def test_a_path_takes_few_bytes():
    count = 20_000
    tracemalloc.start()
    try:
        paths = Paths(f"train/{row % 1000:04d}/imagenet-train-{row}.png" for row in range(count))
        used, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(paths) == count
    # The name of 24 characters, and the number of one of a thousand folders.
    assert used < 40 * count
    assert peak < 100 * count
