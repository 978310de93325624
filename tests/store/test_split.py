"""What a split gives and what is made of it; test_pack.py has what a pack hands out."""

import csv
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cinicpack
from cinicpack.errors import ArgumentError, SelectionError
from cinicpack.study.audit import audit_pack, format_findings
from cinicpack.synthetic import synthesize_images, write_images


@pytest.fixture
def pack(any_pack) -> cinicpack.Pack:
    return cinicpack.open_pack(any_pack)


def rows_of(split: cinicpack.Split) -> list[int]:
    assert split.rows is not None
    rows: list[int] = split.rows.tolist()
    return rows


def assert_same(split: cinicpack.Split, expected: cinicpack.Split) -> None:
    assert (split.name, len(split)) == (expected.name, len(expected))
    for field in ("images", "labels", "sources", "names", "rows"):
        np.testing.assert_array_equal(getattr(split, field), getattr(expected, field))


def test_a_pack_is_a_mapping_of_its_splits(pack):
    assert list(pack) == list(pack.keys()) == ["train", "valid", "test"]
    assert len(pack) == 3
    for (name, split), value in zip(pack.items(), pack.values(), strict=True):
        assert_same(split, pack[name])
        assert_same(value, pack[name])
    assert {name: len(split) for name, split in dict(pack).items()} == dict.fromkeys(pack, 12)


@pytest.mark.parametrize("name", ["train", "valid+test", "cats"])
def test_a_row_is_an_image_and_its_label(pack, name):
    split = pack["train"].select(classes="cat") if name == "cats" else pack[name]
    for index in (0, 3, -1, np.int64(5)):
        image, label = split[index]
        np.testing.assert_array_equal(image, np.asarray(split.images)[index])
        assert (image.shape, image.dtype, type(label)) == ((12, 12, 3), np.uint8, int)
        assert label == split.labels[index]
    assert [label for _, label in split] == split.labels.tolist()
    assert split.classes == pack.classes == ("airplane", "cat")


@pytest.mark.parametrize(
    "index",
    [slice(2, 9, 3), slice(None, None, -1), [5, -1, 5], np.array([2, 1], np.uint8), range(3)],
)
def test_several_rows_are_a_selection(pack, index):
    union = pack["train+valid"]
    for split in (union, union[20:2:-1]):
        positions = np.arange(len(split))[index]
        assert_same(split[index], split.select(indices=positions))
        np.testing.assert_array_equal(split[index].names, split.names[positions])
    assert_same(union[union.labels == 1], union.select(classes="cat"))
    assert union[:] is union


@pytest.mark.parametrize("index", [12, -13, 10**30])
def test_a_row_that_is_not_there_ends_an_iteration(pack, index):
    with pytest.raises(IndexError, match=rf"expected a row below 12, found {index}"):
        pack["train"][index]


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("cat", r"expected a row, a slice, a mask or an array of rows, found 'cat'"),
        (1.0, r"found 1.0"),
        (None, r"found None"),
        ([0.5], r"expected indices as whole numbers"),
        ([12], r"expected indices from -12 to 11, found 12"),
        (slice(5, 5), r"has no images with these indices"),
        ((0, 1), r"expected a row, a slice, .* found \(0, 1\)"),
        ([[0], [1, 2]], r"expected indices in one dimension"),
    ],
)
def test_other_indices_are_refused(pack, index, message):
    with pytest.raises(SelectionError, match=message):
        pack["train"][index]


def test_splits_add_up_to_a_union(pack):
    assert_same(pack["train"] + pack["valid"], pack["train+valid"])
    assert (pack["valid"] + pack["train"]).rows is None
    assert_same(pack["test"] + pack["train+valid"], pack["test+train+valid"])


def test_selections_add_up_in_their_order(pack):
    parts = [
        pack["train"][[3, 1]],
        pack["valid+train"][[0, 12, 5]],
        pack["test"][4:6],
        pack["train"].select(classes="cat"),
    ]
    for first in parts:
        for second in parts:
            both = first + second
            for field in ("images", "labels", "names", "sources"):
                expected = np.concatenate([getattr(first, field), getattr(second, field)])
                np.testing.assert_array_equal(getattr(both, field), expected)
            copy = pickle.loads(pickle.dumps(both))
            assert_same(copy, both)
    assert (parts[0] + parts[1]).name == "train+valid"
    assert rows_of(parts[0] + parts[0]) == [3, 1, 3, 1]


def test_splits_of_other_packs_do_not_add_up(npy_pack, hdf5_pack, tree, tmp_path):
    first, again = cinicpack.open_pack(npy_pack), cinicpack.open_pack(hdf5_pack)
    assert_same(first["train"] + again["test"], first["train+test"])
    other = cinicpack.pack(tree, tmp_path / "a.pack", splits=["test"], progress=False)
    with pytest.raises(SelectionError, match=r"expected two splits of one pack, .* pack them toge"):
        first["train"] + other["test"]
    with pytest.raises(TypeError, match=r"unsupported operand"):
        first["train"] + 1  # type: ignore[operator]


def test_parts_of_a_partition_are_rows_of_the_split(pack):
    train = pack["train"]
    for how in ("iid", "dirichlet", "shards", "pathological"):
        parts = train.partition(2, how, per_client=1, min_size=2, seed=3)
        assert sorted(rows_of(parts[0]) + rows_of(parts[1])) == list(range(12))
        for part in parts:
            assert part.pack is pack
            np.testing.assert_array_equal(part.images, np.asarray(train.images)[part.rows])
    cats = pack["train+test"].select(classes="cat")
    parts = cats.partition(3, min_size=4)
    assert sorted(rows_of(parts[0]) + rows_of(parts[1]) + rows_of(parts[2])) == rows_of(cats)
    assert_same(parts[0] + parts[1] + parts[2], cats[np.random.RandomState(0).permutation(12)])


def test_a_client_is_loaded_as_its_rows(pack):
    clients = pack["train"].partition(2, "shards", per_client=2, min_size=1)
    seen = []
    for client in clients:
        with cinicpack.Loader(pack, client, batch_size=4, return_index=True) as loader:
            for _, labels, index in loader:
                np.testing.assert_array_equal(labels, client.labels[index])
                seen += client.names[index].tolist()
    assert sorted(seen) == sorted(pack["train"].names.tolist())


def test_fractions_and_folds_are_selections(pack):
    valid = pack["valid"]
    part, rest = valid.stratified(1 / 3, seed=5)
    assert np.bincount(part.labels).tolist() == [2, 2]
    assert sorted(rows_of(part) + rows_of(rest)) == list(range(12))
    folds = valid.folds(3, seed=5)
    for others, fold in folds:
        assert np.bincount(fold.labels).tolist() == [2, 2]
        assert sorted(rows_of(others) + rows_of(fold)) == list(range(12))
    assert sorted(row for _, fold in folds for row in rows_of(fold)) == list(range(12))
    inner, _ = rest.stratified(0.5)
    assert set(rows_of(inner)) < set(rows_of(rest))


IMAGES = list(synthesize_images(9, seed=1, size=8))


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> cinicpack.Pack:
    """A pack with copies within a class, across classes and across splits."""
    a, b, c, d, *_ = IMAGES
    folder = tmp_path_factory.mktemp("copied")
    tree: dict[str, dict[str, dict[str, Any]]] = {
        "train": {"cat": {"1": a, "2": b, "3": a}, "dog": {"1": b, "4": c}},
        "test": {"cat": {"5": c, "6": d}, "dog": {"7": IMAGES[5], "1": IMAGES[6]}},
    }
    for split, classes in tree.items():
        for name, images in classes.items():
            files = [f"{stem}.png" for stem in images]
            write_images(folder / "tree" / split / name, files, images.values())
    return cinicpack.pack(folder / "tree", folder / "a.pack", progress=False)


def test_unique_keeps_the_first_of_equal_images(copied):
    train = copied["train"]
    unique = train.select(unique=True)
    assert rows_of(unique) == [0, 1, 4]
    assert train.where(unique=True).tolist() == [0, 1, 4]
    assert unique.select(unique=True) is unique
    test = copied["test"]
    assert test.select(unique=True) is test


def test_unique_looks_at_what_is_else_selected(copied):
    train = copied["train"]
    assert rows_of(train.select(classes="dog", unique=True)) == [3, 4]
    assert rows_of(train.select(indices=[4, 3, 2, 1, 0], unique=True)) == [4, 3, 2]
    assert rows_of(train.select(exclude=["train/cat/1.png"], unique=True)) == [1, 2, 4]
    assert rows_of(train[[2, 0, 2]].select(unique=True)) == [2]
    assert train.where(classes="dog", unique=True).tolist() == [3, 4]
    union = copied["test+train"].select(unique=True)
    assert rows_of(union) == [0, 1, 2, 3, 4, 5]


def test_names_are_left_out(copied):
    train = copied["train"]
    left = train.select(exclude=["train/cat/2.png", "4.png"])
    assert rows_of(left) == [0, 2, 3]
    # A name of another split counts for that split alone.
    assert train.select(exclude=["test/dog/1.png", "7.png"]) is train
    union = copied["test+train"].select(exclude=["train/dog/1.png", "test/dog/1.png"])
    assert rows_of(union) == [0, 1, 3, 4, 5, 6, 8]
    assert rows_of(train[3:].select(exclude=iter(["4.png"]))) == [3]
    assert train.select(exclude=[]) is train


def test_a_leak_free_test_is_one_call(copied, tmp_path):
    findings = tmp_path / "findings.csv"
    findings.write_text(format_findings(audit_pack(copied)))
    lines = findings.read_text().splitlines()
    assert {row["finding"] for row in csv.DictReader(lines)} >= {"duplicate", "imbalance"}
    clean = copied["test"].select(exclude=findings)
    assert clean.names.tolist() == [b"6.png", b"1.png", b"7.png"]
    assert_same(copied["test"].select(exclude=str(findings)), clean)


def test_names_that_are_not_utf8_are_left_out(tmp_path):
    name = "\udce9,\n.png"
    write_images(tmp_path / "tree/train/\udcff", [name, "b.png"], IMAGES[:2])
    pack = cinicpack.pack(tmp_path / "tree", tmp_path / "a.pack", progress=False)
    file = tmp_path / "names.csv"
    with open(file, "w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
        csv.writer(stream).writerows([["name", "split", "class"], [name, "train", "\udcff"]])
    assert pack["train"].select(exclude=file).names.tolist() == [b"b.png"]


@pytest.mark.parametrize(
    ("exclude", "message"),
    [
        (
            ["1.png"],
            r"'1.png' is the name of 3 images, in train/cat, train/dog, test/dog: write SP",
        ),
        (["2.png", "x.png"], r"expected names of images of this pack, .* found 'x.png'; are they"),
        (["train/cat/4.png"], r"found 'train/cat/4.png'"),
        (["valid/cat/1.png"], r"found 'valid/cat/1.png'"),
        (["train/elk/1.png"], r"found 'train/elk/1.png'"),
        (["cat/1.png"], r"expected names .* as SPLIT/CLASS/NAME, found 'cat/1.png'"),
        ([""], r"found ''"),
        ([3], r"found 3"),
        ([b"1.png"], r"found b'1.png'"),
    ],
)
def test_names_of_no_or_several_images_are_refused(copied, exclude, message):
    with pytest.raises(SelectionError, match=message):
        copied["train"].select(exclude=exclude)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "",
            r"expected a CSV file with columns split, class, name, .* none called split, class, n",
        ),
        ("split,name\ntrain,1.png\n", r"found none called class"),
        ("split,class,name\ntrain,cat,1.png\ntrain,dog\n", r"line 3 ends early"),
        ('split,class,name\n"train,cat', r"expected a CSV file: unexpected end of data"),
    ],
)
def test_files_that_are_no_findings_are_refused(copied, tmp_path, text, message):
    file = tmp_path / "findings.csv"
    file.write_text(text)
    with pytest.raises(ArgumentError, match=message) as raised:
        copied["train"].select(exclude=file)
    assert str(raised.value).startswith(f"{file}: ")


def test_findings_of_another_pack_are_refused(copied, tmp_path):
    file = tmp_path / "findings.csv"
    file.write_text("split,class,name\ntrain,cat,n1_1.png\n")
    with pytest.raises(SelectionError, match=rf"{file}: expected .* are they another pack's\?"):
        copied["train"].select(exclude=file)


@pytest.mark.parametrize("exclude", ["cifar10-train-3.png", Path("nowhere.csv"), "."])
def test_no_file_is_refused(copied, exclude):
    with pytest.raises(ArgumentError, match=rf"{exclude}: expected exclude to be .* as a list"):
        copied["train"].select(exclude=exclude)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"source": "cifar10"}, "source='cifar10'"),
        ({"indices": []}, "these indices"),
        ({"classes": [], "unique": True}, r"classes=\[\]"),
        (
            {"classes": "dog", "indices": [0]},
            r"classes='dog' and these indices",
        ),
        (
            {"classes": "dog", "exclude": ["train/dog/1.png", "4.png"]},
            r"classes='dog' and these images excluded",
        ),
    ],
)
def test_an_empty_selection_says_what_was_asked_for(copied, options, said):
    with pytest.raises(SelectionError, match=rf"5 images\) has no images with {said}$"):
        copied["train"].select(**options)


@pytest.mark.parametrize("classes", [3, None.__class__, b"cat", ["cat", 3], 0.5])
def test_classes_that_are_no_names_are_refused(copied, classes):
    with pytest.raises(SelectionError, match=r"expected classes out of cat, dog, found .*label"):
        copied["train"].select(classes=classes)
