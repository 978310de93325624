from typing import Any

import numpy as np
import pytest

import cinicpack
from cinicpack import Augment, Loader
from cinicpack.limit import Limit, find_limit, is_large, make_plain, name_cache


def load(path, **options: Any) -> Loader:
    return Loader(path, augment=Augment(crop_padding=2), **options)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("images", "buffers"), [(1, 1), (5, 2), (64, 4)])
def test_a_limit_writes_every_image_of_the_loader(npy_pack, threads, images, buffers):
    loader = load(npy_pack)
    limit = Limit(loader, threads, images, buffers)
    assert [limit.run() for _ in range(3)] == [len(loader.split)] * 3
    assert limit.nbytes == threads * images * buffers * 12 * 12 * 3 * 4
    assert str(limit) == f"{buffers} x {images} images a thread"


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_a_limit_writes_what_the_loader_gives(npy_pack, dtype):
    loader = load(npy_pack, batch_size=12, dtype=dtype, return_index=True, output="numpy")
    [(expected, labels, index)] = loader
    limit = Limit(loader, 1, 12, 1)
    limit.run()
    [[found]], [[[found_labels, found_index]]] = limit._memory, limit._columns
    order = np.argsort(index)[np.argsort(np.argsort(found_index))]
    np.testing.assert_array_equal(found_labels, labels[order])
    assert found.tobytes() == expected[order].tobytes()


def test_the_plain_way_multiplies_and_adds(npy_pack):
    loader = load(npy_pack)
    plain = make_plain(loader, 1, images=12, buffers=1)
    assert plain.run() == 12
    [[found]] = plain._memory
    # It reads in an order of its own, without labels.
    pixels = np.asarray(loader.split.images, np.float32).transpose(0, 3, 1, 2)
    expected = pixels * np.float32(0.016) + np.float32(-1.9)
    np.testing.assert_array_equal(np.sort(found.view(np.float32)), np.sort(expected.ravel()))


def test_the_fastest_buffers_are_found_and_large_batches_are_written_whole(npy_pack):
    loader = load(npy_pack, batch_size=4)
    limit = find_limit(loader, 2, seconds=0)
    assert not is_large(loader)
    assert limit.run() == 12
    size = (8 << 20) // (12 * 12 * 3 * 4) + 1
    large = load(npy_pack, batch_size=size)
    assert is_large(large)
    found = find_limit(large, 2)
    assert (found.images, found.buffers) == (-(-size // 2), 2)


def test_the_smallest_cache_that_holds_it_is_named():
    assert name_cache(1 << 50, 2) == "no cache that is known"
    assert name_cache(1, 1).startswith(("the L1 cache", "no cache that is known"))


def test_a_limit_outlives_its_loader(npy_pack):
    pack = cinicpack.open_pack(npy_pack)
    limit = Limit(load(pack), 2, 4, 1)
    del pack
    assert limit.run() == 12
