import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cinicpack.cinic10 import CLASSES
from cinicpack.convert.layout import Layout, arrange
from cinicpack.convert.tree import Tree
from cinicpack.errors import SelectionError, SourceError
from tests.torchvision_here import import_torchvision

# Names of which many sort differently by code point than by letter, by path or by bytes.
NAMES = ("a", "A", "a-", "a b", "a.b", "a0", "a10", "a2", "b", "é", "z", "ﬀ", "😀", "\udcff")

names = st.sampled_from(NAMES)


def named(paths: Sequence[str], layout: Layout) -> dict[str, list[str]]:
    return {split: [paths[row] for row in rows] for split, rows in layout.rows.items()}


def test_two_components_are_one_split_named_train():
    paths = ["dog/1.png", "cat/2.png", "cat/10.png"]
    layout = arrange(paths)
    assert layout.classes == ("cat", "dog")
    assert named(paths, layout) == {"train": ["cat/10.png", "cat/2.png", "dog/1.png"]}
    assert layout.labels["train"].tolist() == [0, 0, 1]


@pytest.mark.parametrize("top", ["", "CINIC-10/"])
def test_three_components_are_splits_under_a_lone_folder_or_none(top):
    paths = [f"{top}{split}/{name}/x.png" for split in ("b", "test", "a", "train") for name in "ed"]
    layout = arrange(paths)
    assert layout.classes == ("d", "e")
    assert [*layout.rows] == [*layout.labels] == ["train", "test", "a", "b"]
    assert named(paths, layout)["a"] == [f"{top}a/d/x.png", f"{top}a/e/x.png"]


def test_cinic10s_splits_come_first_and_in_its_order():
    paths = [f"{split}/cat/x.png" for split in ("extra", "test", "valid", "Train", "train")]
    assert [*arrange(paths).rows] == ["train", "valid", "test", "Train", "extra"]
    assert [*arrange(paths, ["extra", "test", "train"]).rows] == ["train", "test", "extra"]


@settings(deadline=None)
@given(st.data(), st.integers(1, 3), st.lists(names, min_size=1, max_size=4, unique=True))
def test_every_path_is_one_row_whatever_their_order(data, splits, classes):
    paths = [
        f"split {split}/{name}/{file}.png"
        for split in range(splits)
        for name in classes
        for file in data.draw(st.lists(names, min_size=1, max_size=6, unique=True))
    ]
    ordered = named(paths, arrange(paths))
    assert sorted(path for rows in ordered.values() for path in rows) == sorted(paths)
    shuffled = data.draw(st.permutations(paths))
    layout = arrange(shuffled)
    assert named(shuffled, layout) == ordered
    for split, rows in ordered.items():
        assert rows == sorted(rows, key=lambda path: path.split("/"))
        labels = [layout.classes[label] for label in layout.labels[split]]
        assert labels == [path.split("/")[1] for path in rows]


def test_rows_and_labels_are_imagefolders(tmp_path):
    folder = import_torchvision().datasets.ImageFolder
    (tmp_path / "train").mkdir()
    for number, name in enumerate(NAMES):
        directory = tmp_path / "train" / name
        directory.mkdir()
        for file in NAMES[number % 3 :: 3]:
            (directory / f"{file}{'.png' if number % 2 else '.PNG'}").touch()
    (tmp_path / "elsewhere" / "below").mkdir(parents=True)
    (tmp_path / "elsewhere" / "x.png").touch()
    (tmp_path / "train" / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "train" / "a" / "link.png").symlink_to(tmp_path / "elsewhere" / "x.png")
    (tmp_path / "elsewhere" / "gone.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "test").symlink_to(tmp_path / "train", target_is_directory=True)

    paths = [path for path in Tree(tmp_path).paths() if not path.startswith("elsewhere/")]
    layout = arrange(paths)
    for split in ("train", "test"):
        expected = folder(os.fspath(tmp_path / split))
        rows = [os.fspath(tmp_path / paths[row]) for row in layout.rows[split]]
        assert rows == [path for path, _ in expected.samples]
        assert layout.labels[split].tolist() == expected.targets
        assert list(layout.classes) == expected.classes


def test_rows_are_int64_and_labels_as_small_as_they_can_be():
    few = arrange([f"{number:03}/x.png" for number in range(256)])
    many = arrange([f"{number:03}/x.png" for number in range(257)])
    assert few.rows["train"].dtype == many.rows["train"].dtype == np.int64
    assert few.labels["train"].dtype == np.dtype(np.uint8)
    assert many.labels["train"].dtype == np.dtype(np.uint16)
    assert many.labels["train"].tolist() == list(range(257))


def test_too_many_classes_are_refused():
    with pytest.raises(SourceError, match="at most 65536 classes, found 65537"):
        arrange([f"{number}/x.png" for number in range(65_537)])


def test_no_paths_are_refused():
    with pytest.raises(SourceError, match=r"SPLIT/CLASS/NAME\.png.*found no image at all"):
        arrange([])


@pytest.mark.parametrize(
    "paths",
    [
        ["x.png"],
        ["a/b/c/d/x.png"],
        ["cat/x.png", "y.png"],
        ["cat/x.png", "train/cat/x.png"],
        ["train/cat/x.png", "train/cat/deeper/x.png"],
        ["top/train/cat/x.png", "top/train/x.png"],
    ],
)
def test_other_shapes_are_refused_with_examples(paths):
    with pytest.raises(SourceError, match=r"expected all images at SPLIT/CLASS/NAME") as caught:
        arrange(paths)
    assert all(repr(path) in str(caught.value) for path in paths)


def test_at_most_five_examples_are_shown_of_a_shape():
    paths = [f"cat/{n}.png" for n in range(100)] + [f"train/cat/{n}.png" for n in range(5)]
    with pytest.raises(SourceError, match=r"'cat/4\.png' and 95 more\n") as caught:
        arrange(paths)
    assert str(caught.value).count(".png'") == 10


def test_a_folder_above_must_be_alone():
    with pytest.raises(SourceError, match=r"lone folder above SPLIT; found 2 of these: 'a', 'b'"):
        arrange(["a/train/cat/x.png", "b/test/cat/x.png"])


def test_the_same_path_twice_is_refused():
    with pytest.raises(SourceError, match=r"expected every path once, found more of 'a/x\.png'$"):
        arrange(["a/x.png", "a/y.png", "a/x.png"])


# What is missing


@pytest.mark.parametrize("top", ["", "top/"])
def test_classes_without_images_are_refused_or_keep_their_labels(top):
    paths = [f"{top}{split}/{name}/x.png" for split in ("train", "test") for name in ("ant", "cat")]
    folders = [f"{top}train/bee", f"{top}test/bee/deeper", f"{top}train/ant", "", top.rstrip("/")]
    with pytest.raises(SourceError, match=rf"found no images in '{top}train/bee', '{top}test/bee'"):
        arrange(paths, folders=folders)
    layout = arrange(paths, folders=folders, allow_missing=True)
    assert layout.classes == ("ant", "bee", "cat")
    assert [labels.tolist() for labels in layout.labels.values()] == [[0, 2], [0, 2]]


def test_in_a_tree_of_classes_every_folder_is_one():
    with pytest.raises(SourceError, match=r"found no images in 'bee'\. Add.*--allow-missing"):
        arrange(["ant/x.png", "cat/x.png"], folders=["ant", "bee/deep", "cat"])
    layout = arrange(["ant/x.png", "cat/x.png"], folders=["bee"], allow_missing=True)
    assert layout.labels["train"].tolist() == [0, 2]


@pytest.mark.parametrize("folder", ["train/cat/deep", "docs", "docs/old", "__MACOSX/cat", "a/b/c"])
def test_folders_elsewhere_are_no_classes(folder):
    paths = ["train/cat/x.png", "test/cat/x.png"]
    assert arrange(paths, folders=[folder]).classes == ("cat",)


def test_a_zip_of_macos_has_no_more_classes():
    assert arrange(["cat/x.png"], folders=["__MACOSX", "__MACOSX/cat"]).classes == ("cat",)


@pytest.mark.parametrize("folder", ["valid", "valid/cat", "extra/cat"])
def test_splits_without_images_are_refused_or_left_out(folder):
    paths = ["train/cat/x.png", "test/cat/x.png"]
    split = folder.partition("/")[0]
    with pytest.raises(SourceError, match=f"found no images in the splits '{split}'"):
        arrange(paths, folders=[folder])
    assert [*arrange(paths, folders=[folder], allow_missing=True).rows] == ["train", "test"]
    assert [*arrange(paths, ["test"], folders=[folder]).rows] == ["test"]


@pytest.mark.parametrize("present", [["cat"], ["dog", "cat", "airplane"], CLASSES[1:]])
def test_some_of_cinic10s_classes_are_refused_or_have_its_labels(present):
    paths = [f"{split}/{name}/n02121808_7.png" for split in ("train", "test") for name in present]
    absent = ", ".join(name for name in CLASSES if name not in present)
    with pytest.raises(SourceError, match=f"names of CINIC-10, but not its classes {absent}"):
        arrange(paths)
    layout = arrange(paths, allow_missing=True)
    assert layout.classes == CLASSES
    for labels in layout.labels.values():
        assert labels.tolist() == sorted(CLASSES.index(name) for name in present)
    # Neither other files nor other classes are CINIC-10's.
    assert arrange([*paths, "train/cat/a.png", "test/cat/a.png"]).classes == tuple(sorted(present))
    more = [f"{split}/lion/n02121808_7.png" for split in ("train", "test")]
    assert arrange([*paths, *more]).classes == tuple(sorted([*present, "lion"]))


@pytest.mark.parametrize("inner", [["cat", "dog"], ["cat"]])
def test_images_deeper_in_a_split_are_no_splits(inner):
    paths = [f"train/{name}/part/x.png" for name in inner]
    with pytest.raises(SourceError, match=r"found images deeper in 'train/cat/part'"):
        arrange(paths)
    assert [*arrange([f"test/train/{name}/x.png" for name in inner]).rows] == ["train"]


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_what_is_missing_is_told_or_leaves_imagefolders_labels(data):
    folder = import_torchvision().datasets.ImageFolder
    kinds = st.sampled_from(["x.png", "x.JPG", "README", None])
    classes = ("ant", "bee", "cat", "dog")
    tree = {
        (split, name): data.draw(kinds)
        for split in ("train", "test")
        for name in classes
        if data.draw(st.integers(0, 5)) or name == "ant"
    }
    tree["train", "ant"] = tree["test", "ant"] = "x.png"
    with TemporaryDirectory() as root:
        for (split, name), file in tree.items():
            path = Path(root, split, name, file or ".")
            (path.parent if file else path).mkdir(parents=True, exist_ok=True)
            if file:
                path.touch()
        source = Tree(Path(root))
        paths = list(source.paths())
        folders = source.remarks.folders
        accepted = arrange(paths, folders=folders, allow_missing=True)
        for split in ("train", "test"):
            there = [name for part, name in tree if part == split]
            expected = folder(os.path.join(root, split), allow_empty=True)
            found = [accepted.classes[label] for label in accepted.labels[split]]
            assert found == [expected.classes[label] for label in expected.targets]
            if len(there) == len(accepted.classes):
                assert accepted.labels[split].tolist() == expected.targets
        if {*tree.values()} - {"x.png", "x.JPG"} or len(tree) != 2 * len(accepted.classes):
            with pytest.raises(SourceError, match="--allow-missing"):
                arrange(paths, folders=folders)
        else:
            layout = arrange(paths, folders=folders)
            for split in ("train", "test"):
                expected = folder(os.path.join(root, split))
                assert layout.labels[split].tolist() == expected.targets
                assert list(layout.classes) == expected.classes


def test_a_class_must_be_in_every_split_that_is_taken():
    paths = ["train/cat/x.png", "train/dog/x.png", "valid/cat/x.png", "test/dog/x.png"]
    with pytest.raises(SourceError, match="no images in 'test/cat', 'valid/dog'") as caught:
        arrange(paths)
    assert "name the splits to take" in str(caught.value)
    accepted = arrange(paths, allow_missing=True)
    assert {split: labels.tolist() for split, labels in accepted.labels.items()} == {
        "train": [0, 1],
        "valid": [0],
        "test": [1],
    }
    assert arrange(paths, ["train"]).classes == ("cat", "dog")
    assert arrange(paths, ["valid"]).classes == ("cat",)
    assert arrange(paths, ["test"]).labels["test"].tolist() == [0]


@pytest.mark.parametrize(
    ("splits", "found"),
    [(["train", "dev", "eval"], "dev, eval"), ([], "none"), ("dev", "dev"), ("", "none")],
)
def test_splits_that_are_not_there_are_refused(splits, found):
    paths = ["valid/cat/x.png", "train/cat/x.png", "a/cat/x.png"]
    with pytest.raises(SelectionError, match=f"splits out of train, valid, a; found {found}$"):
        arrange(paths, splits)


def test_a_split_may_be_named_twice():
    assert [*arrange(["train/cat/x.png"], ["train", "train"]).rows] == ["train"]


def test_one_split_may_be_named_as_it_is():
    # Not letter by letter: of these, "a" is a split too.
    paths = ["train/cat/x.png", "a/dog/x.png", "t/cat/x.png"]
    assert [*arrange(paths, "train").rows] == ["train"]
    assert arrange(paths, "a").classes == ("dog",)


def test_declared_classes_keep_their_order_and_rows_theirs_or_imagefolders():
    paths = ["test/b/2.png", "train/c/9.png", "test/a/1.png", "train/b/1.png", "test/b/1.png"]
    layout = arrange(paths, classes=("c", "b", "a"))
    assert layout.classes == ("c", "b", "a")
    assert [*layout.rows] == ["train", "test"]
    assert layout.rows["train"].tolist() == [1, 3]
    assert layout.labels["train"].tolist() == [0, 1]
    assert layout.rows["test"].tolist() == [0, 2, 4]
    assert layout.labels["test"].tolist() == [1, 2, 1]
    ordered = arrange(paths, classes=("c", "b", "a"), keeps_order=False)
    assert ordered.rows["test"].tolist() == [4, 0, 2]
    assert ordered.labels["test"].tolist() == [1, 1, 2]
    assert ordered.rows["train"].tolist() == [1, 3]
    assert [*arrange(paths, "test", classes=("c", "b", "a")).rows] == ["test"]
    with pytest.raises(SelectionError, match="expected splits out of train, test; found valid"):
        arrange(paths, ["valid"], classes=("c", "b", "a"))
    with pytest.raises(SourceError, match="every path once, found more of 'test/b/2"):
        arrange([*paths, paths[0]], classes=("c", "b", "a"))


@pytest.mark.parametrize(("count", "dtype"), [(256, np.uint8), (257, np.uint16)])
def test_labels_of_declared_classes_have_the_type_that_labels_have(count, dtype):
    layout = arrange(["train/255/a.png"], classes=[str(n) for n in range(count)])
    assert layout.labels["train"].dtype == dtype
    assert layout.labels["train"].tolist() == [255]
