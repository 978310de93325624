import ctypes
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cinicpack
from cinicpack.cinic10 import Origin, parse_name
from cinicpack.errors import PackError, SelectionError
from cinicpack.store.images import ScatteredImages
from cinicpack.store.reader import locate_pack
from tests.packs import copy_pack

SPLITS = ("train", "valid", "test")


@pytest.fixture
def pack(any_pack) -> cinicpack.Pack:
    return cinicpack.open_pack(any_pack)


def files_of(tree: Path, split: str) -> list[Path]:
    return [
        file
        for folder in sorted((tree / split).iterdir())
        for file in sorted(folder.iterdir(), key=lambda file: file.name)
    ]


def pixels_of(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))


def test_a_pack_says_what_it_is(pack, any_pack):
    assert pack.path == any_pack
    assert pack.format == ("hdf5" if any_pack.suffix == ".h5" else "npy")
    assert pack.splits == SPLITS
    assert pack.classes == ("airplane", "cat")
    assert pack.class_to_idx == {"airplane": 0, "cat": 1}
    assert pack.image_shape == (12, 12, 3)
    assert len(pack.fingerprint) == 64
    assert repr(pack) == (f"Pack({str(any_pack)!r}, train 12, valid 12, test 12, 12x12, 2 classes)")
    assert "train" in pack
    assert "train+valid" not in pack


def test_mean_and_std_are_those_of_the_train_split(pack):
    pixels = np.asarray(pack["train"].images) / 255
    np.testing.assert_allclose(pack.mean, pixels.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(pack.std, pixels.std((0, 1, 2)), rtol=1e-9)
    assert pack.manifest.normalization.origin == "train"


@pytest.mark.parametrize("name", SPLITS)
def test_a_split_has_the_images_of_its_folder_in_order(pack, tree, name):
    split, files = pack[name], files_of(tree, name)
    assert len(split) == len(files) == 12
    assert split.names.tolist() == [os.fsencode(file.name) for file in files]
    assert split.labels.tolist() == [pack.class_to_idx[file.parent.name] for file in files]
    assert split.sources.tolist() == [tuple(parse_name(file.name)) for file in files]
    assert split.labels.dtype == np.uint8
    np.testing.assert_array_equal(split.images, np.stack([pixels_of(file) for file in files]))
    assert split.images.shape == (12, 12, 12, 3)
    assert split.images.dtype == np.uint8
    assert split.images.ndim == 4


def test_where_the_rows_lie_in_one_run_images_are_a_view(pack, any_pack):
    images = pack["train"].images
    sharded = any_pack.parent.name.startswith("sharded")
    assert isinstance(images, ScatteredImages if sharded else np.ndarray)
    assert isinstance(pack["train+valid"].images, ScatteredImages)
    within = pack["train"].select(indices=range(5, 10)).images
    assert isinstance(within, np.ndarray)
    if not sharded:
        assert np.shares_memory(within, images)
    assert isinstance(pack["train"].select(indices=[5, 7]).images, ScatteredImages)
    assert isinstance(pack["train"].select(indices=[6, 5]).images, ScatteredImages)
    assert isinstance(pack["train"].select(indices=[5, 7, 6, 8]).images, ScatteredImages)


def test_nothing_can_be_written(pack):
    for split in (pack["train"], pack["train+valid"], pack["train"].select(indices=[3, 1])):
        for array in (split.labels, split.sources, split.names):
            assert not array.flags.writeable
        with pytest.raises((ValueError, TypeError)):
            split.images[0] = 0


def test_images_are_not_copied(any_pack, tmp_path):
    path = tmp_path / any_pack.name
    copy_pack(any_pack, path)
    pack = cinicpack.open_pack(path)
    splits = [pack["train"], pack["train+valid"], pack["train+test"].select(indices=[0, 2])]
    images = [split.images for split in splits]
    before = [np.array(array[0]) for array in images]
    # The first byte of the first image on disk changes below them.
    _, _, regions = locate_pack(path)
    with open(regions[0].file, "r+b") as stream:
        stream.seek(regions[0].offset)
        stream.write(bytes([before[0][0, 0, 0] ^ 1]))
    for array, former in zip(images, before, strict=True):
        assert array[0][0, 0, 0] == former[0, 0, 0] ^ 1


def test_an_open_pack_outlives_its_files(any_pack, tmp_path):
    path = tmp_path / any_pack.name
    copy_pack(any_pack, path)
    pack = cinicpack.open_pack(path)
    expected = np.array(cinicpack.open_pack(any_pack)["train"].images)
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    np.testing.assert_array_equal(pack["train"].images, expected)
    assert pack["test+train"].select(classes="cat").labels.all()


def test_no_file_is_kept_open(any_pack):
    before = set(os.listdir("/proc/self/fd"))
    pack = cinicpack.open_pack(any_pack)
    assert len(pack["train"])
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("union", "parts"),
    [("train+valid", ["train", "valid"]), ("test+train+valid", ["test", "train", "valid"])],
)
def test_a_union_is_one_after_the_other(pack, union, parts):
    split = pack[union]
    assert len(split) == 12 * len(parts)
    for field in ("images", "labels", "sources", "names"):
        np.testing.assert_array_equal(
            getattr(split, field), np.concatenate([getattr(pack[name], field) for name in parts])
        )


@pytest.mark.parametrize("name", ["Train", "", "train+", "train+nope", "+", "train,valid", 0, None])
def test_a_split_that_is_not_there_is_refused(pack, any_pack, name):
    with pytest.raises(SelectionError, match=r"expected a split out of train, valid, test") as e:
        pack[name]
    assert str(any_pack) in str(e.value)


def test_a_split_cannot_be_taken_twice(pack):
    with pytest.raises(SelectionError, match=r"expected every split once, found 'train\+train'"):
        pack["train+train"]


@pytest.mark.parametrize("name", ["train", "train+test"])
def test_selecting_by_class_and_source(pack, name):
    split = pack[name]
    of_cifar = np.isin(split.sources["origin"], [Origin.CIFAR10_TRAIN, Origin.CIFAR10_TEST])
    for source, there in [("cifar10", of_cifar), ("imagenet", ~of_cifar)]:
        rows = split.where(source=source, classes=["cat"])
        np.testing.assert_array_equal(rows, np.flatnonzero(there & (split.labels == 1)))
        assert rows.dtype == np.int64
        selected = split.select(source=source, classes="cat")
        np.testing.assert_array_equal(selected.rows, rows)
        assert len(selected) == len(rows) > 0
        np.testing.assert_array_equal(selected.images, np.asarray(split.images)[rows])
        for field in ("labels", "sources", "names"):
            np.testing.assert_array_equal(getattr(selected, field), getattr(split, field)[rows])
    assert split.where().tolist() == list(range(len(split)))
    assert split.select() is split
    assert split.select(classes=["cat", "airplane"]) is split


def test_selections_of_selections(pack):
    split = pack["train+valid"]
    cats = split.select(classes="cat")
    assert set(cats.labels.tolist()) == {1}
    some = cats.select(indices=[-1, 0, 0, 3])
    rows = np.flatnonzero(split.labels == 1)[[-1, 0, 0, 3]]
    np.testing.assert_array_equal(some.rows, rows)
    np.testing.assert_array_equal(some.images, np.asarray(split.images)[rows])
    np.testing.assert_array_equal(some.names, split.names[rows])
    again = some.select(indices=np.array([False, True, True, False]))
    np.testing.assert_array_equal(again.rows, rows[1:3])
    mixed = split.select(classes="cat", indices=[0, 23, 8, 7])
    np.testing.assert_array_equal(mixed.rows, [23, 8, 7])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "cifar"}, r"expected source 'cifar10' or 'imagenet', found 'cifar'"),
        ({"classes": "dog"}, r"expected classes out of airplane, cat, found 'dog'"),
        ({"classes": ["cat", "x", "y"]}, r"found 'x', 'y'"),
        ({"classes": []}, r"has no images with"),
        ({"indices": []}, r"has no images with"),
        ({"indices": [12]}, r"expected indices from -12 to 11, found 12"),
        ({"indices": [3, -13]}, r"expected indices from -12 to 11, found -13"),
        (
            {"indices": np.array([2**64 - 1], np.uint64)},
            r"from -12 to 11, found 18446744073709551615",
        ),
        ({"indices": [0.0]}, r"whole numbers.* found float64 \(1,\)"),
        ({"indices": [[0]]}, r"whole numbers.* found int64 \(1, 1\)"),
        ({"indices": 0}, r"whole numbers.* found int64 \(\)"),
        ({"indices": [True]}, r"whole numbers, or a mask of 12.* found bool \(1,\)"),
        ({"indices": np.zeros(12, bool)}, r"has no images with"),
    ],
)
def test_selecting_what_is_not_there_is_refused(pack, options, message):
    with pytest.raises(SelectionError, match=message):
        pack["train"].select(**options)


def test_fingerprints_of_unions_and_selections(pack):
    union = pack["train+valid"]
    assert union.fingerprint == pack["valid+train"].fingerprint
    assert union.fingerprint not in (pack["train"].fingerprint, pack.fingerprint)
    everything = pack["train"].select(indices=np.arange(12)[::-1])
    assert everything.rows is not None
    assert everything.fingerprint == pack["train"].fingerprint
    assert pack["train"].select(indices=[0]).fingerprint != pack["train"].fingerprint


def test_addresses_point_at_the_planes(pack):
    for split in (
        pack["train"],
        pack["train+test"],
        pack["valid"].select(indices=[7, 3, 11, 3]),
    ):
        addresses = split.addresses()
        assert addresses.dtype == np.uint64
        planes = np.stack(
            [np.frombuffer(ctypes.string_at(int(address), 432), np.uint8) for address in addresses]
        ).reshape(-1, 3, 12, 12)
        np.testing.assert_array_equal(planes.transpose(0, 2, 3, 1), split.images)


def test_packs_and_splits_can_be_pickled(pack, monkeypatch, tmp_path):
    copy = pickle.loads(pickle.dumps(pack))
    assert copy.fingerprint == pack.fingerprint
    assert copy.path.is_absolute()
    for split in (
        pack["train"],
        pack["train+test"],
        pack["valid"].select(classes="cat", source="imagenet"),
        pack["train+valid"].select(indices=[20, 3, 3]),
    ):
        content = pickle.dumps(split)
        assert len(content) < 2_000
        copy = pickle.loads(content)
        assert copy.name == split.name
        np.testing.assert_array_equal(copy.images, split.images)
        np.testing.assert_array_equal(copy.names, split.names)


def test_pickles_of_before_splits_had_their_own_module_are_read(pack):
    split = pack["train"].select(indices=[3, 1])
    content = pickle.dumps(split, 0)
    former = content.replace(b"cinicpack.store.split\nreselect", b"cinicpack.store.pack\n_reselect")
    assert former != content
    np.testing.assert_array_equal(pickle.loads(former).names, split.names)


def test_a_pickle_does_not_depend_on_the_working_directory(npy_pack, monkeypatch, tmp_path):
    monkeypatch.chdir(npy_pack.parent)
    pack = cinicpack.open_pack(npy_pack.name)
    assert str(pack.path) == npy_pack.name
    monkeypatch.chdir(tmp_path)
    assert pickle.loads(pickle.dumps(pack)).fingerprint == pack.fingerprint


def test_a_pickle_of_a_pack_that_was_replaced_is_refused(npy_pack, tree, tmp_path):
    path = tmp_path / "a.pack"
    cinicpack.pack(tree, path, splits=["valid"], progress=False)
    content = pickle.dumps(cinicpack.open_pack(path)["valid"])
    cinicpack.pack(tree, path, splits=["train"], overwrite=True, progress=False)
    with pytest.raises(PackError, match=r"it was replaced since this object was pickled"):
        pickle.loads(content)


def test_class_names_that_are_not_utf8(tree, tmp_path):
    folder = tmp_path / "tree" / "train"
    shutil.copytree(tree / "train", folder)
    (folder / "cat").rename(folder / "\udcff\udcfe")
    (folder / "airplane" / "\udce9.png").write_bytes(next(folder.rglob("*.png")).read_bytes())
    for container in ("npy", "hdf5"):
        pack = cinicpack.pack(
            tmp_path / "tree", tmp_path / container, format=container, progress=False
        )
        assert pack.classes == ("airplane", "\udcff\udcfe")
        assert b"\xe9.png" in pack["train"].names.tolist()
        shuffled = pack["train"].select(indices=np.arange(13)[::-1])
        assert shuffled.fingerprint == pack["train"].fingerprint
