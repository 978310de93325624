from time import process_time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cinicpack.store import selection
from cinicpack.store.selection import drop_copies

SHAPES = st.tuples(st.integers(0, 40), st.integers(1, 5))


def keep_slowly(images):
    kept: dict[bytes, int] = {}
    for position, image in enumerate(images):
        kept.setdefault(image.tobytes(), position)
    return list(kept.values())


def keep(images):
    images = np.ascontiguousarray(images)
    size = images.shape[1]
    return drop_copies(images.ctypes.data + np.arange(len(images), dtype=np.uint64) * size, size)


@given(arrays(np.uint8, SHAPES, elements=st.integers(0, 2)))
def test_the_first_of_equal_images_is_kept(images):
    assert keep(images).dtype == np.int64
    assert keep(images).tolist() == keep_slowly(images)


@given(images=arrays(np.uint8, SHAPES, elements=st.integers(0, 2)), hashes=st.integers(1, 3))
def test_equal_hashes_of_different_images_do_not_matter(images, hashes):
    def poor_hash(pixels):
        return sum(pixels) % hashes

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "hash", poor_hash, raising=False)
        assert keep(images).tolist() == keep_slowly(images)


def test_every_byte_counts():
    for byte in range(48):
        images = np.zeros((3, 48), np.uint8)
        images[1, byte] = 1
        assert keep(images).tolist() == [0, 1]


def test_many_images_take_less_than_a_second():
    images = np.random.default_rng(0).integers(0, 256, (30_000, 3072), np.uint8)
    images[20_000:] = images[:10_000]
    start = process_time()
    kept = keep(images)
    assert process_time() - start < 1
    assert kept.tolist() == list(range(20_000))
