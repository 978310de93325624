import csv
import json

import pytest

import cinicpack
from cinicpack.cli import main
from cinicpack.errors import ArgumentError
from cinicpack.store.pack import open_pack
from cinicpack.study.overlap import (
    compare_packs,
    describe_overlap,
    format_common,
    format_overlap,
)
from cinicpack.synthetic import synthesize_images, write_images, write_tree

A, B, C, D, E = synthesize_images(5, seed=0, size=8)


def make_pack(folder, tree):
    """Pack a tree {split: {class: {name: image}}}."""
    for split, classes in tree.items():
        for name, images in classes.items():
            write_images(folder / "tree" / split / name, list(images), images.values())
    return cinicpack.pack(folder / "tree", folder / "a.pack", progress=False)


@pytest.fixture(scope="module")
def overlap(tmp_path_factory):
    mine = {
        "train": {"cat": {"a.png": A, "b.png": B}, "dog": {"c.png": C, "a2.png": A}},
        "test": {"cat": {"e.png": E}, "dog": {"a3.png": A}},
    }
    theirs = {
        "one": {"cat": {"x.png": A}, "elk": {"y.png": C}},
        "two": {"cat": {"x.png": D}, "elk": {"y.png": A}},
    }
    packs = [make_pack(tmp_path_factory.mktemp("packs"), tree) for tree in (mine, theirs)]
    return compare_packs(*packs)


def names(places):
    return [f"{place.split}/{place.class_name}/{place.name}" for place in places]


def test_pictures_that_both_have_are_found_wherever_they_are(overlap):
    assert [(names(mine), names(theirs)) for mine, theirs in overlap.pictures] == [
        (
            ["train/cat/a.png", "train/dog/a2.png", "test/dog/a3.png"],
            ["one/cat/x.png", "two/elk/y.png"],
        ),
        (["train/dog/c.png"], ["one/elk/y.png"]),
    ]


def test_the_summary_counts_by_split_and_class(overlap):
    summary = json.loads(json.dumps(describe_overlap(overlap)))
    assert (summary["images"], summary["common"]) == (6, 4)
    assert (summary["against_images"], summary["against_common"]) == (4, 3)
    assert (summary["pictures"], summary["other_class"]) == (2, 1)
    train = summary["splits"]["train"]
    assert train["images"] == 4
    assert train["classes"] == {
        "cat": {"common": 1, "in": {"one": 1, "two": 1}},
        "dog": {"common": 2, "in": {"one": 2, "two": 1}},
    }
    lines = format_overlap(summary).splitlines()
    assert lines[0].startswith("4 of 6 images of ")
    assert [line.split() for line in lines[3:]] == [
        ["common", "in", "one", "in", "two"],
        ["train", "cat", "1", "1", "1"],
        ["train", "dog", "2", "2", "1"],
        ["test", "dog", "1", "1", "1"],
    ]


def test_the_csv_names_the_images_of_the_pack(overlap):
    rows = list(csv.DictReader(format_common(overlap).splitlines()))
    assert [*rows[0]] == ["finding", "picture", "split", "class", "name", "detail"]
    found = [f"{row['split']}/{row['class']}/{row['name']}" for row in rows]
    assert found == [name for mine, _ in overlap.pictures for name in names(mine)]
    assert [row["picture"] for row in rows] == ["1", "1", "1", "2"]
    assert rows[3]["detail"] == "in the other pack one/elk/y.png"


def test_packs_without_a_common_image_and_of_other_sizes(overlap, any_pack, tmp_path):
    other = make_pack(tmp_path, {"train": {"cat": {"d.png": D}}})
    assert compare_packs(overlap.pack, other).pictures == []
    assert "0 of 6 images" in format_overlap(describe_overlap(compare_packs(overlap.pack, other)))
    with pytest.raises(ArgumentError, match=r"expected images of 8x8 pixels.*found 12x12"):
        compare_packs(overlap.pack, open_pack(any_pack))


def test_the_command(overlap, tmp_path, capsys):
    paths = [str(overlap.pack.path), "--against", str(overlap.against.path)]
    assert main(["audit", *paths, "-o", str(tmp_path / "a.csv")]) == 0
    out = capsys.readouterr().out
    assert out.startswith(format_overlap(describe_overlap(overlap)))
    assert "compared in " in out
    assert (tmp_path / "a.csv").read_text() == format_common(overlap)
    assert main(["audit", *paths, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == describe_overlap(overlap)
    assert main(["audit", *paths, "--sheet", str(tmp_path / "a.png")]) == 1
    assert "expected --against or --sheet" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:.*like CINIC-10")
def test_the_cifar10_part_of_cinic10_is_found_in_cifar10(tmp_path):
    write_tree(tmp_path / "cinic", 9)
    pack = cinicpack.pack(tmp_path / "cinic", tmp_path / "cinic.pack", progress=False)
    command = ["cifar10", str(pack.path), str(tmp_path / "cifar-10-batches-py"), "--layout", "py"]
    assert main([*command, "--allow-missing"]) == 0
    cifar10 = cinicpack.pack(tmp_path / "cifar-10-batches-py", tmp_path / "b", progress=False)
    found = compare_packs(pack, cifar10)
    for split in pack.splits:
        expected = pack[split].select(source="cifar10").names.tolist()
        mine = [place.name for mine, _ in found.pictures for place in mine if place.split == split]
        assert sorted(mine) == sorted(name.decode() for name in expected)
    assert all(mine.name == theirs.name for [mine], [theirs] in found.pictures)
    assert len(found.pictures) == len(cifar10["train"]) + len(cifar10["test"])
    assert describe_overlap(found)["other_class"] == 0
