import contextlib
import os
import resource
import shutil
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

import cinicpack
from cinicpack import Pack
from cinicpack.errors import (
    ArgumentError,
    DestinationError,
    PackError,
    SelectionError,
    SourceError,
)
from cinicpack.formats.png import encode_pngs
from cinicpack.study.unpack import unpack
from cinicpack.synthetic import write_images, write_tree
from tests.packs import make_writable

CLASSES = ("bird", "cat", "ship")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree") / "above" / "cinic"
    write_tree(root, 9, classes=CLASSES)
    return root


@pytest.fixture(scope="module")
def pack(tree: Path) -> Pack:
    return repack(tree, tree.parent.with_name("a.pack"))


def repack(tree: Path, path: Path | None = None) -> Pack:
    """Pack a tree of some of CINIC-10's classes."""
    path = path or tree.with_name(f"{tree.name}.pack")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*: like CINIC-10, but")
        return cinicpack.pack(tree, path, allow_missing=True, progress=False)


def files(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))


SHAPES = st.tuples(st.integers(0, 3), st.integers(1, 9), st.integers(1, 9), st.just(3))


@given(arrays(np.uint8, SHAPES))
def test_encoded_pngs_decode_to_the_same_pixels(images):
    for image, file in zip(images, encode_pngs(images), strict=True):
        with Image.open(BytesIO(file)) as decoded:
            assert decoded.mode == "RGB"
            assert np.array_equal(np.asarray(decoded), image)


@pytest.mark.parametrize("num_workers", [None, 0, 1, 3])
def test_whole_pack_comes_back(tree, pack, tmp_path, num_workers):
    made = tmp_path / "made"
    counts = unpack(pack, made, num_workers=num_workers, progress=False)
    assert counts == {"train": 27, "valid": 27, "test": 27}
    assert files(made) == files(tree)
    for name in files(tree):
        with Image.open(tree / name) as a, Image.open(made / name) as b:
            assert np.array_equal(np.asarray(a.convert("RGB")), np.asarray(b)), name
    assert repack(made).fingerprint == pack.fingerprint
    assert sorted(os.listdir(tmp_path)) == ["made", "made.pack"]


@pytest.mark.parametrize(
    ("split", "source", "classes"),
    [
        ("valid", None, None),
        ("train+test", "imagenet", None),
        ("test", "cifar10", ["ship", "bird"]),
        (None, None, "cat"),
    ],
)
def test_parts_have_the_fingerprints_of_the_selections(pack, tmp_path, split, source, classes):
    made = tmp_path / "made"
    counts = unpack(
        str(pack.path), made, split=split, source=source, classes=classes, progress=False
    )
    again = repack(made)
    assert set(again.splits) == set(split.split("+") if split else pack.splits)
    for name in again.splits:
        selection = pack[name].select(source=source, classes=classes)
        assert counts[name] == len(selection)
        assert again[name].fingerprint == selection.fingerprint


@pytest.mark.parametrize("source", [None, "cifar10"])
def test_train_and_valid_merge(pack, tmp_path, source):
    made = tmp_path / "made"
    counts = unpack(pack, made, source=source, merge_train_valid=True, progress=False)
    each = 27 if source is None else 6
    assert counts == {"train": 2 * each, "test": each}
    again = repack(made)
    assert again.splits == ("train", "test")
    assert again["train"].fingerprint == pack["train+valid"].select(source=source).fingerprint


@pytest.mark.parametrize("link", [False, True])
def test_a_class_without_images_has_an_empty_folder(tmp_path, link):
    image = np.zeros((1, 2, 2, 3), np.uint8)
    tree = tmp_path / "tree"
    for split, name in (("train", "ant"), ("train", "cat"), ("valid", "cat"), ("test", "ant")):
        write_images(tree / split / name, [f"{split}.png"], image)
    (tree / "train" / "bee").mkdir()
    pack = repack(tree)
    for options, splits in (
        ({}, ["test", "train", "valid"]),
        ({"merge_train_valid": True}, ["test", "train"]),
        ({"classes": iter(["cat", "bee"])}, ["train", "valid"]),
    ):
        made = tmp_path / f"made-{len(options)}-{len(splits)}"
        unpack(pack, made, link=tree if link else None, progress=False, **options)
        assert sorted(os.listdir(made)) == splits
        for split in splits:
            expected = ["bee", "cat"] if "classes" in options else ["ant", "bee", "cat"]
            assert sorted(os.listdir(made / split)) == expected
        if not options:
            assert repack(made)["valid"].labels.tolist() == [2]
            assert repack(made, tmp_path / "again").fingerprint == pack.fingerprint
        shutil.rmtree(made)


def test_merging_refuses_names_that_collide(tmp_path):
    for split in ("train", "valid", "test"):
        for name in ("cat", "ship"):
            image = np.zeros((1, 2, 2, 3), np.uint8)
            write_images(tmp_path / "tree" / split / name, [f"{name}.png"], image)
    pack = repack(tmp_path / "tree")
    with pytest.raises(SelectionError, match=r"found cat/cat.png, ship/ship.png in both"):
        unpack(pack, tmp_path / "made", merge_train_valid=True, progress=False)
    assert unpack(pack, tmp_path / "made", progress=False) == {"train": 2, "valid": 2, "test": 2}


def test_merging_needs_both(pack, tmp_path):
    with pytest.raises(ArgumentError, match=r"train and valid to merge, found .* train, test"):
        unpack(pack, tmp_path / "made", split="train+test", merge_train_valid=True)


@pytest.mark.parametrize("deep", [False, True])
def test_links_are_relative_and_resolve(tree, pack, tmp_path, deep):
    """Through a linked folder, and with a lone folder above the splits."""
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "short").symlink_to(tmp_path / "deep" / "er")
    made = tmp_path / ("short" if deep else "") / "made"
    unpack(
        pack,
        made,
        source="cifar10",
        merge_train_valid=True,
        link=tree.parent if deep else tree,
        progress=False,
    )
    for path in made.rglob("*.png"):
        assert path.is_symlink()
        assert not os.path.isabs(os.readlink(path))
        assert path.resolve().is_file()
        assert path.resolve().is_relative_to(tree)
    again = repack(made, tmp_path / "again.pack")
    assert again["train"].fingerprint == pack["train+valid"].select(source="cifar10").fingerprint
    assert again["test"].fingerprint == pack["test"].select(source="cifar10").fingerprint


def test_links_follow_the_tree_where_it_really_is(tree, pack, tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "tree").symlink_to(tree)
    (tmp_path / "short").symlink_to(tmp_path / "a" / "b")
    unpack(pack, tmp_path / "made", link=tmp_path / "short" / ".." / "tree", progress=False)
    assert repack(tmp_path / "made").fingerprint == pack.fingerprint


def test_links_into_a_tree_without_the_files_are_refused(tree, pack, tmp_path):
    part = tmp_path / "part"
    unpack(pack, part, source="imagenet", progress=False)
    with pytest.raises(SourceError, match=r"found no .*/train/bird/cifar10-.* and 13 more; name"):
        unpack(pack, tmp_path / "made", link=part, progress=False)
    with pytest.raises(SourceError, match=r"found no "):
        unpack(pack, tmp_path / "made", link=tmp_path / "nowhere", progress=False)
    assert sorted(os.listdir(tmp_path)) == ["part"]


def test_destination_is_no_mount_point(pack, tmp_path, monkeypatch):
    (tmp_path / "disk").mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: path == tmp_path / "disk")
    with pytest.raises(DestinationError, match=r"disk: expected .*, found a mount point; choose"):
        unpack(pack, tmp_path / "disk", progress=False)
    assert os.listdir(tmp_path) == ["disk"]


def test_folders_of_others_beside_it_are_kept(pack, tmp_path):
    for name in (".out.old", ".out.a.tmp", ".taken.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").touch()
    for link in (None, tmp_path / "nowhere", tmp_path / "out"):
        with contextlib.suppress(SourceError, DestinationError):
            unpack(pack, tmp_path / "out", link=link, progress=False)
    with pytest.raises(DestinationError, match=r"\.taken\.tmp: expected nothing there"):
        unpack(pack, tmp_path / "taken", progress=False)
    found = sorted(path.name for path in tmp_path.iterdir())
    assert found == [".out.a.tmp", ".out.old", ".taken.tmp", "out"]
    assert len(list(tmp_path.glob(".*/mine"))) == 3


def test_destination_must_be_free(pack, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("full", "full/mine", "link"):
        with pytest.raises(DestinationError, match=r"expected nothing there"):
            unpack(pack, tmp_path / name, progress=False)
    with pytest.raises(DestinationError, match=r"does not exist; create it first"):
        unpack(pack, tmp_path / "no" / "where", progress=False)
    assert os.listdir(tmp_path / "full") == ["mine"]
    (tmp_path / "empty").mkdir()
    unpack(pack, tmp_path / "empty", split="test", progress=False)
    assert len(files(tmp_path / "empty")) == 27


def test_failure_leaves_nothing(pack, tmp_path):
    unpack(pack, tmp_path / "whole", progress=False)
    sizes = [path.stat().st_size for path in (tmp_path / "whole").rglob("*.png")]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max(sizes) - 1, hard))
    try:
        with pytest.raises(DestinationError, match=r"cannot write \d files in .*: File too large"):
            unpack(pack, tmp_path / "made", progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == ["whole"]


@pytest.mark.parametrize("other", [b"../", b"..", b"."])
def test_names_do_not_lead_outside(tree, tmp_path, other):
    pack = repack(tree, tmp_path / "a.pack")
    make_writable(pack.path)
    file = pack.path / "test" / "names.npy"
    name = pack["test"].names[5]
    file.write_bytes(file.read_bytes().replace(name, other.ljust(len(name), b"\0")))
    with pytest.raises(PackError, match=r"a.pack: expected names .* found 'bird' and '\."):
        unpack(tmp_path / "a.pack", tmp_path / "made", progress=False)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"split": "trian"}, SelectionError),
        ({"source": "cifar"}, SelectionError),
        ({"classes": ["lion"]}, SelectionError),
        ({"num_workers": -1}, ArgumentError),
    ],
)
def test_wrong_options_are_refused(pack, tmp_path, options, error):
    with pytest.raises(error, match="expected"):
        unpack(pack, tmp_path / "made", progress=False, **options)
    assert os.listdir(tmp_path) == []


@pytest.fixture
def pictures(tmp_path) -> Path:
    """A tree of files of other formats, some of which have the same name but for that."""
    for class_name in ("ant", "bee"):
        folder = tmp_path / "pictures" / "train" / class_name
        folder.mkdir(parents=True)
        for number, name in enumerate(("a.jpg", "a.JPEG", "b.png.webp", "c.PNG", "d.bmp")):
            Image.new("RGB", (7, 5), (40 * number, 0, 0)).save(folder / name)
    return Path(tmp_path / "pictures")


def test_images_of_other_formats_become_png_under_longer_names(pictures, tmp_path):
    one = cinicpack.pack(pictures, tmp_path / "one", progress=False)
    names = [b"a.JPEG", b"a.jpg", b"b.png.webp", b"c.PNG", b"d.bmp"]
    assert one["train"].names.tolist() == 2 * names
    assert unpack(one, tmp_path / "made", progress=False) == {"train": 10}
    written = sorted(os.listdir(tmp_path / "made/train/ant"))
    assert written == ["a.JPEG.png", "a.jpg.png", "b.png.webp.png", "c.PNG", "d.bmp.png"]
    again = cinicpack.pack(tmp_path / "made", tmp_path / "again", progress=False)
    np.testing.assert_array_equal(again["train"].images, one["train"].images)


def test_links_to_files_of_other_formats_have_their_names(pictures, tmp_path):
    one = cinicpack.pack(pictures, tmp_path / "one", progress=False)
    unpack(one, tmp_path / "links", link=pictures, progress=False)
    again = cinicpack.pack(tmp_path / "links", tmp_path / "again", progress=False)
    assert again.fingerprint == one.fingerprint


def test_names_that_would_be_the_same_as_png_are_refused(pictures, tmp_path):
    shutil.copy(pictures / "train/ant/c.PNG", pictures / "train/ant/a.jpg.png")
    one = cinicpack.pack(pictures, tmp_path / "one", progress=False)
    with pytest.raises(SelectionError, match=r"found ant/a\.jpg\.png twice; link the files with"):
        unpack(one, tmp_path / "made", progress=False)
    assert not (tmp_path / "made").exists()
    assert unpack(one, tmp_path / "bee", classes="bee", progress=False) == {"train": 5}
    assert unpack(one, tmp_path / "links", link=pictures, progress=False) == {"train": 11}


def test_resized_images_are_written_but_not_linked(pictures, tmp_path):
    one = cinicpack.pack(pictures, tmp_path / "one", resize=3, progress=False)
    with pytest.raises(ArgumentError, match=r"one: .*found resized ones; leave out --link"):
        unpack(one, tmp_path / "made", link=pictures, progress=False)
    assert not (tmp_path / "made").exists()
    unpack(one, tmp_path / "made", progress=False)
    with Image.open(tmp_path / "made/train/ant/a.jpg.png") as image:
        assert image.size == (3, 3)
