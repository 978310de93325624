import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cinicpack.formats.filters import unfilter
from tests.png_images import filter_row


@settings(deadline=None)  # the first call compiles
@given(
    count=st.integers(0, 3),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    channels=st.sampled_from([1, 3]),
    seed=st.integers(0, 2**32),
    data=st.data(),
)
def test_unfilter_undoes_every_filter(count, height, width, channels, seed, data):
    shape = (count, height, width, channels)
    expected = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    rows = b""
    for image in expected:
        above = bytes(channels * width)
        for row in image:
            method = data.draw(st.integers(0, 4))
            rows += bytes([method]) + filter_row(method, row.tobytes(), above, channels)
            above = row.tobytes()
    places = np.array(data.draw(st.permutations(range(count + 1)))[:count], np.int64)
    images = np.full((count + 1, height, width, 3), 7, np.uint8)
    valid = unfilter(rows, channels, images, places)
    assert valid.tolist() == [True] * count
    np.testing.assert_array_equal(images[places], expected.repeat(3 // channels, -1), strict=True)
    assert (np.delete(images, places, 0) == 7).all()


def test_paeth_predicts_as_the_specification_says():
    # Images of 2x2, every channel a case: above left and above, then left and the prediction.
    above, left = (side.ravel() for side in np.indices((256, 256), np.int16))
    for corner in range(0, 256, 5):
        estimate = left + above - corner
        distances = np.abs([estimate - left, estimate - above, estimate - corner])
        nearest = np.choose(distances.argmin(0), [left, above, np.full_like(left, corner)])
        cases = np.zeros((65536, 2, 7), np.uint8)
        cases[:, 0, 1:4] = corner
        cases[:, 0, 4:] = above[:, None]
        cases[:, 1, 0] = 4
        cases[:, 1, 1:4] = (left - corner)[:, None]
        images = np.empty((65536, 2, 2, 3), np.uint8)
        unfilter(cases.tobytes(), 3, images, np.arange(65536))
        np.testing.assert_array_equal(images[:, 1, 1], nearest[:, None].repeat(3, 1))


@pytest.mark.parametrize("channels", [1, 3])
def test_an_unknown_filter_spoils_only_its_image(channels):
    rows = np.zeros((4, 3, 1 + channels * 7), np.uint8)
    rows[1, 2, 0] = 5
    rows[3, 0, 0] = 255
    images = np.full((4, 3, 7, 3), 1, np.uint8)
    valid = unfilter(rows.tobytes(), channels, images, np.arange(4))
    assert valid.tolist() == [True, False, True, False]
    assert not images[valid].any()
