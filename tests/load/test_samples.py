from typing import Any

import numpy as np
import pytest

import cinicpack
from cinicpack.load.batches import BatchFormat
from cinicpack.load.samples import Samples
from cinicpack.load.transform import make_transform


@pytest.mark.parametrize("rows", [slice(None), slice(5, 50, 7)])
def test_reading_ahead_touches_every_page_of_the_chosen_images_only(pack, monkeypatch, rows):
    # Smaller pieces, of which there are several.
    monkeypatch.setattr("cinicpack.load.samples._READ_BYTES", 10_000)
    split = pack["train+valid"]
    chosen = np.arange(len(split))[rows]
    height, width, _ = pack.image_shape
    form = BatchFormat("float32", height, width, False, "torch", False)
    transform = make_transform(
        None, pack.image_shape, pack.mean, pack.std, normalized=True, dtype="float32"
    )
    samples = Samples(split, chosen, transform, 0, form)
    planes = np.asarray(split.images)[chosen].transpose(0, 3, 1, 2).reshape(len(chosen), -1)
    touched = np.concatenate([planes[:, :-1:4096], planes[:, -1:]], axis=1)
    reading = samples.read_ahead()
    assert reading is not None
    assert reading.wait() == touched.sum(dtype=np.int64)


def test_the_first_epoch_is_read_ahead_and_no_other(pack, monkeypatch):
    started = []
    read_ahead = Samples.read_ahead

    def note(self):
        started.append(read_ahead(self))
        return started[-1]

    monkeypatch.setattr(Samples, "read_ahead", note)
    loader = cinicpack.Loader(pack, "train", batch_size=4, num_workers=1)
    next(iter(loader))
    for _ in loader:
        pass
    assert len(started) == 1
    for _ in cinicpack.Loader(pack, "train", batch_size=4, num_workers=0):
        pass
    assert len(started) == 1


def test_images_read_past_the_caches_give_the_same_batches(pack, monkeypatch):
    augment = cinicpack.Augment(cutout=4)
    options: Any = {"batch_size": 7, "shuffle": True, "augment": augment, "output": "numpy"}
    small = cinicpack.Loader(pack, "train", **options)
    expected = list(small)
    monkeypatch.setattr("cinicpack.load.samples._CACHED_BYTES", 0)
    loader = cinicpack.Loader(pack, "train", **options)
    assert loader._samples.kernel is not small._samples.kernel
    for found, batch in zip(loader, expected, strict=True):
        for array, other in zip(found, batch, strict=True):
            np.testing.assert_array_equal(array, other)
