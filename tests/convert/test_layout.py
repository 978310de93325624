import os
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cinicpack.convert.layout import Layout, arrange
from cinicpack.convert.sources import Tree
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

    paths = [path for path in Tree(tmp_path) if not path.startswith("elsewhere/")]
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
    with pytest.raises(SourceError, match=r"SPLIT/CLASS/NAME\.png.*found no PNG file at all"):
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
    with pytest.raises(SourceError, match=r"expected all PNG files at SPLIT/CLASS/NAME") as caught:
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


def test_a_class_must_be_in_every_split_that_is_taken():
    paths = ["train/cat/x.png", "train/dog/x.png", "valid/cat/x.png", "test/dog/x.png"]
    with pytest.raises(SourceError, match="no images in 'test/cat', 'valid/dog'") as caught:
        arrange(paths)
    assert "name the splits to take" in str(caught.value)
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
