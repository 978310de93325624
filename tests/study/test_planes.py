import numpy as np
import pytest

import cinicpack
from cinicpack.study.planes import map_planes
from tests.study.rows import as_split


def test_every_image_comes_once_in_order(any_pack):
    pack = cinicpack.open_pack(any_pack)
    splits = [pack["test"], pack["train"], pack["valid"].select(classes="cat")]
    seen = map_planes(splits, lambda rows, planes: (rows, planes.copy(), planes.flags.c_contiguous))
    starts = [rows.start for rows, _, _ in seen]
    stops = [rows.stop for rows, _, _ in seen]
    assert starts == [0, *stops[:-1]]
    assert all(contiguous for _, _, contiguous in seen)
    planes = np.concatenate([planes for _, planes, _ in seen])
    images = np.concatenate([np.asarray(split.images) for split in splits])
    assert np.array_equal(planes.reshape(-1, 3, 12, 12), images.transpose(0, 3, 1, 2))


def test_many_blocks_stay_in_order():
    images = np.random.default_rng(0).integers(0, 256, (5000, 1, 2, 3), np.uint8)
    seen = map_planes(
        [as_split(images[:1100]), as_split(images[1100:])], lambda rows, planes: planes
    )
    assert len(seen) > 4
    assert np.array_equal(np.concatenate(seen), images.transpose(0, 3, 1, 2).reshape(5000, 3, 2))


def test_errors_come_through(npy_pack):
    def fail(rows, planes):
        raise KeyError("no")

    with pytest.raises(KeyError, match="no"):
        map_planes([cinicpack.open_pack(npy_pack)["train"]], fail)
