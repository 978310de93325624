import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cinicpack
from cinicpack.store.images import ScatteredImages

# What indexing gives is compared with what it gives for one array of all images.

integers = st.integers(-24, 23)
slices = st.slices(24)
lists = st.lists(integers, max_size=6)
masks = st.lists(st.booleans(), min_size=24, max_size=24).map(np.array)
arrays = st.lists(integers, min_size=6, max_size=6).map(lambda rows: np.array(rows).reshape(2, 3))
firsts = st.one_of(
    integers, integers.map(np.int32), slices, lists, lists.map(lambda r: np.array(r, int)), masks,
    arrays, integers.map(np.array),
)  # fmt: skip
within = st.one_of(
    st.integers(-12, 11), st.slices(12), st.just(Ellipsis), st.none(),
    st.lists(st.integers(-12, 11), min_size=1, max_size=1),
    st.lists(st.integers(-12, 11), max_size=3).map(lambda r: np.array(r, int)),
    st.lists(st.booleans(), min_size=12, max_size=12).map(np.array),
)  # fmt: skip
indices = st.one_of(
    firsts,
    st.just(()),
    st.tuples(firsts),
    st.tuples(firsts, within),
    st.tuples(firsts, within, within),
    st.tuples(firsts, within, within, st.one_of(st.integers(-3, 2), st.slices(3))),
)


@pytest.fixture(scope="module")
def scattered(sharded_pack) -> list[tuple[ScatteredImages, np.ndarray]]:
    pack = cinicpack.open_pack(sharded_pack)
    rows = np.random.default_rng(0).integers(0, 36, 24)
    union = pack["train+valid"].images
    selection = pack["train+valid+test"].select(indices=rows).images
    assert isinstance(union, ScatteredImages)
    assert isinstance(selection, ScatteredImages)
    everything = np.concatenate([pack[name].images for name in ("train", "valid", "test")])
    return [(union, everything[:24]), (selection, everything[rows])]


@settings(max_examples=400)
@given(index=indices)
def test_indexing_is_numpys(scattered, index):
    for images, array in scattered:
        try:
            expected = array[index]
        except IndexError:
            with pytest.raises(IndexError):
                images[index]
            continue
        found = images[index]
        np.testing.assert_array_equal(found, expected)
        assert found.shape == expected.shape
        assert found.dtype == np.uint8


@pytest.mark.parametrize("index", [24, -25, [24], (24, 0), np.zeros(23, bool), "a", 1.0, [0.5]])
def test_wrong_indices_are_refused_like_numpys(scattered, index):
    for images, array in scattered:
        for indexed in (images, array):
            with pytest.raises(IndexError):
                indexed[index]


@pytest.mark.parametrize("index", [..., None, (..., 0), True, np.True_, (False, 2)])
def test_images_come_first(scattered, index):
    for images, _ in scattered:
        with pytest.raises(IndexError, match=r"expected the images to be indexed first, found"):
            images[index]


def test_the_array_like_becomes_an_array(scattered):
    for images, array in scattered:
        assert images.shape == array.shape
        assert len(images) == 24
        assert repr(images) == "Images(shape=(24, 12, 12, 3), dtype=uint8)"
        np.testing.assert_array_equal(np.asarray(images), array)
        np.testing.assert_array_equal(np.array(images, copy=True), array)
        as_float = np.asarray(images, np.float32)
        assert as_float.dtype == np.float32
        np.testing.assert_array_equal(as_float, array)
        with pytest.raises(ValueError, match=r"expected copy=True or None"):
            np.array(images, copy=False)
        np.testing.assert_array_equal(np.stack([images[i] for i in range(24)]), array)


def test_what_indexing_gives_belongs_to_the_caller(scattered):
    for images, array in scattered:
        for index in (0, slice(3), [1, 2], (0, slice(2))):
            taken = images[index]
            taken[...] = 77
            np.testing.assert_array_equal(images[index], array[index])
