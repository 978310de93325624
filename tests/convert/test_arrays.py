import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cinicpack
from cinicpack import pack_arrays
from cinicpack.cinic10 import Origin
from cinicpack.errors import ArgumentError, DestinationError
from cinicpack.formats.png import encode_pngs
from cinicpack.store.verify import verify_pack
from tests.convert.sources_here import bytes_of, pack, put

CLASSES = ["dog", "cat", "eel"]  # not in the order of the alphabet, and the last has no images
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (7, 5, 4, 3), np.uint8)
LABELS = np.array([1, 0, 1, 1, 0, 0, 1])
PLANES = np.ascontiguousarray(IMAGES.transpose(0, 3, 1, 2))
ARRAYS = {"train": (IMAGES, LABELS), "test": (IMAGES[:2], LABELS[:2])}


def pack_here(arrays: Any, destination: Any, **options: Any) -> cinicpack.Pack:
    options.setdefault("classes", CLASSES)
    return pack_arrays(arrays, destination, progress=False, **options)


def test_row_i_is_image_i_and_is_named_by_its_number(tmp_path):
    made = pack_here(ARRAYS, tmp_path / "a")
    assert made.splits == ("train", "test")
    assert made.classes == tuple(CLASSES)
    assert made["train"].labels.tolist() == LABELS.tolist()
    assert made["train"].names.tolist() == [b"%08d.png" % row for row in range(7)]
    assert {*made["train"].sources["origin"].tolist()} == {Origin.UNKNOWN}
    np.testing.assert_array_equal(made["train"].images, IMAGES)
    np.testing.assert_array_equal(made["test"].images, IMAGES[:2])
    assert made.manifest.normalization.origin == "train"
    assert not verify_pack(made.path).problems


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (PLANES, LABELS),
        (np.asfortranarray(IMAGES), LABELS.tolist()),
        (IMAGES[::-1][::-1], LABELS.astype(np.uint8)),
        (torch.from_numpy(IMAGES), torch.from_numpy(LABELS)),
        (torch.from_numpy(IMAGES).permute(0, 3, 1, 2), torch.from_numpy(LABELS).int()),
        (list(IMAGES), list(LABELS)),
    ],
    ids=["planes", "Fortran", "strides", "torch", "torch planes", "lists"],
)
@pytest.mark.parametrize("container", ["npy", "hdf5"])
def test_the_bytes_do_not_depend_on_the_kind_of_array(tmp_path, images, labels, container):
    expected = pack_here({"train": (IMAGES, LABELS)}, tmp_path / "a", format=container)
    made = pack_here({"train": (images, labels)}, tmp_path / "b", format=container)
    assert bytes_of(made.path) == bytes_of(expected.path)


def test_a_tree_of_the_same_images_has_the_same_fingerprint(tmp_path):
    for split, (images, labels) in ARRAYS.items():
        for row, content in enumerate(encode_pngs(images)):
            put(tmp_path / "tree", {f"{split}/{CLASSES[labels[row]]}/{row:08d}.png": content})
    tree = pack(tmp_path / "tree", tmp_path / "a")
    assert pack_here(ARRAYS, tmp_path / "b").fingerprint == tree.fingerprint


def test_mapped_files_and_shards(tmp_path):
    np.save(tmp_path / "images.npy", PLANES)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    made = pack_here({"valid": (mapped, LABELS)}, tmp_path / "a", shard_rows=3)
    np.testing.assert_array_equal(np.asarray(made["valid"].images), IMAGES)
    assert made.manifest.splits["valid"].shards == (3, 3, 1)


def test_mapped_files_are_not_read_into_memory(tmp_path, monkeypatch):
    """Rows are taken one by one from an array that refuses to be read as a whole."""

    class Mapped(np.memmap):
        def __array__(self, *_: object, **__: object) -> Any:
            raise AssertionError("read as a whole")

    mapped = Mapped(tmp_path / "images", np.uint8, "w+", shape=IMAGES.shape)
    mapped[:] = IMAGES
    made = pack_here({"train": (mapped, LABELS)}, tmp_path / "a")
    np.testing.assert_array_equal(made["train"].images, IMAGES)


SIDE = st.integers(1, 6)


@settings(max_examples=30)
@given(st.tuples(SIDE, SIDE, SIDE), st.integers(0, 9))
def test_every_shape_comes_back_or_could_be_both(tmp_path_factory, shape, seed):
    count, height, width = shape
    images = np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)
    for given_as, other in ((images, height), (images.transpose(0, 3, 1, 2), width)):
        arrays = {"train": (given_as, [2] * count)}
        path = tmp_path_factory.mktemp("given") / "a"
        if other == 3:
            with pytest.raises(ArgumentError, match="could be both"):
                pack_here(arrays, path)
        else:
            np.testing.assert_array_equal(pack_here(arrays, path)["train"].images, images)


BAD: dict[str, tuple[Any, str]] = {
    "no mapping": ((IMAGES, LABELS), r'expected {"train": (images, labels), ...}, found <class'),
    "nothing": ({}, r'expected {"train": (images, labels), ...}, found {}'),
    "images only": ({"train": IMAGES}, "train: expected {"),
    "floats": (
        {"train": (IMAGES / 255, LABELS)},
        "train: expected pixels uint8, (height, width, 3) or (3, height, width) each, found "
        "float64 (7, 5, 4, 3): give what was before it was scaled, 0 to 255",
    ),
    "grey": (
        {"train": (IMAGES[..., 0], LABELS)},
        "train: expected images (N, height, width, 3) or",
    ),
    "four channels": ({"train": (IMAGES.repeat(2, -1), LABELS)}, "found uint8 (7, 5, 4, 6)"),
    "3x3": ({"train": (IMAGES[:, :3, :3], LABELS)}, "found (7, 3, 3, 3), which could be both"),
    "3 high": ({"train": (IMAGES[:, :3], LABELS)}, "found (7, 3, 4, 3), which could be both; give"),
    "ragged": ({"train": ([IMAGES[0], IMAGES[1, :2]], [0, 1])}, "found something else: "),
    "no rows": ({"train": (IMAGES[:0], LABELS[:0])}, "train: expected images, found none; leave"),
    "no height": ({"train": (IMAGES[:, :0], LABELS)}, "found uint8 (7, 0, 4, 3)"),
    "lengths": (
        {"train": ARRAYS["train"], "test": (IMAGES, LABELS[:3])},
        "test: expected 7 labels, integers in one row as there are images, found int64 (3,)",
    ),
    "columns": ({"train": (IMAGES, LABELS[:, None])}, "found int64 (7, 1)"),
    "float labels": ({"train": (IMAGES, LABELS / 1)}, "found float64 (7,)"),
    "too large": (
        {"train": (IMAGES, LABELS + 2)},
        "train: expected labels from 0 to 2, since there are 3 classes, found 3 in row 0 and 3",
    ),
    "negative": ({"train": (IMAGES, [0] * 6 + [-1])}, "found -1 in row 6"),
    "sizes": (
        {"train": ARRAYS["train"], "test": (IMAGES[:, :4], LABELS)},
        "expected images of one size in all splits, found train 5x4, test 4x4",
    ),
    "split": (
        {"a+b": ARRAYS["train"]},
        "expected splits with names as 'train', without '+', found",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_images_and_labels_is_refused_and_nothing_is_made(tmp_path, case):
    arrays, message = BAD[case]
    with pytest.raises(ArgumentError, match=re.escape(message)):
        pack_here(arrays, tmp_path / "a")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("cat", "expected the names of the classes in a list, found 'cat'"),
        ([], r"in a list, found \[\]"),
        ([1, 2], r"in a list, found \[1, 2\]"),
        (["cat", "dog", "cat"], "expected every class once, found more of 'cat'"),
        (["a/b"], "names that a visible folder can have, found 'a/b'"),
        ([".a"], "names that a visible folder can have, found '.a'"),
    ],
)
def test_names_of_classes_that_cannot_be(tmp_path, classes, message):
    with pytest.raises(ArgumentError, match=message):
        pack_here(ARRAYS, tmp_path / "a", classes=classes)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")
def test_tensors_on_a_device_are_refused(tmp_path):
    with pytest.raises(ArgumentError, match="of torch on the host"):
        pack_here({"train": (torch.from_numpy(IMAGES).cuda(), LABELS)}, tmp_path / "a")


def test_what_is_there_stays_unless_it_is_to_be_replaced(tmp_path):
    first = pack_here(ARRAYS, tmp_path / "a")
    with pytest.raises(DestinationError, match="already exists"):
        pack_here({"test": ARRAYS["test"]}, tmp_path / "a")
    assert cinicpack.open_pack(tmp_path / "a").fingerprint == first.fingerprint
    made = pack_here({"test": ARRAYS["test"]}, tmp_path / "a", overwrite=True)
    assert cinicpack.open_pack(tmp_path / "a").splits == made.splits == ("test",)
    with pytest.raises(ArgumentError, match=r"format 'npy' makes a directory"):
        pack_here(ARRAYS, tmp_path / "b.h5")


def test_256_classes_and_more(tmp_path):
    classes = [f"c{number}" for number in range(300)]
    labels = [299, 0, 257, 1, 2, 3, 4]
    made = pack_here({"train": (IMAGES, labels)}, tmp_path / "a", classes=classes)
    assert made["train"].labels.dtype == np.uint16
    assert made["train"].labels.tolist() == labels
