import csv
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

import cinicpack
from cinicpack import Pack
from cinicpack.cli import main
from cinicpack.study.audit import (
    FLAT_BELOW,
    Audit,
    Place,
    audit_pack,
    describe_audit,
    format_audit,
    format_findings,
    measure_spread,
    name_spread,
)
from cinicpack.synthetic import synthesize_images, write_images

IMAGES = synthesize_images(40, seed=0, size=8)


def make_pack(folder, tree) -> Pack:
    """Pack a tree {split: {class: {name: image}}}."""
    for split, classes in tree.items():
        for name, images in classes.items():
            write_images(folder / "tree" / split / name, list(images), images.values())
    return cinicpack.pack(folder / "tree", folder / "a.pack", progress=False)


def flat(spread: int) -> np.ndarray:
    """An image whose values differ by twice ``spread``, the standard deviation, in each channel."""
    image = np.full((8, 8, 3), (100, 20, 200), np.uint8)
    image[::2] += np.uint8(2 * spread)
    return image


@pytest.fixture(scope="module")
def blemished(tmp_path_factory) -> Audit:
    a, b, c, d, *others = IMAGES
    tree = {
        "train": {
            "cat": {"n00000001_1.png": a, "n00000001_2.png": b, "n00000001_3.png": b},
            "dog": {"n00000002_1.png": c, "n00000002_2.png": others[0]},
            "elk": {"n00000003_1.png": d, "cifar10-train-0.png": others[1]},
        },
        "test": {
            "cat": {"cifar10-train-5.png": a, "cifar10-test-6.png": flat(0)},
            "dog": {"n00000002_3.png": a, "n00000002_4.png": others[2]},
            "elk": {"n00000003_2.png": d, "x.png": flat(4), "y.png": flat(5), "z.png": flat(3)},
        },
        "valid": {
            "cat": {"n00000001_4.png": others[3]},
            "dog": {"n00000002_5.png": c, "n00000002_6.png": others[4]},
            "elk": {"n00000003_3.png": c},
        },
    }
    return audit_pack(make_pack(tmp_path_factory.mktemp("audit"), tree))


def names(places) -> list[str]:
    return [f"{place.split}/{place.class_name}/{place.name}" for place in places]


def test_duplicates_are_found_within_and_across(blemished):
    assert list(map(names, blemished.duplicates)) == [
        ["train/cat/n00000001_1.png", "test/cat/cifar10-train-5.png", "test/dog/n00000002_3.png"],
        ["train/cat/n00000001_2.png", "train/cat/n00000001_3.png"],
        ["train/dog/n00000002_1.png", "valid/dog/n00000002_5.png", "valid/elk/n00000003_3.png"],
        ["train/elk/n00000003_1.png", "test/elk/n00000003_2.png"],
    ]
    for places in blemished.duplicates:
        images = [blemished.pack[place.split].images[place.row] for place in places]
        assert all(np.array_equal(image, images[0]) for image in images)
        for place in places:
            assert blemished.pack[place.split].names[place.row].decode() == place.name


def test_flat_images_are_found(blemished):
    assert names(blemished.constant) == ["test/cat/cifar10-test-6.png"]
    assert names(blemished.near_constant) == ["test/elk/x.png", "test/elk/z.png"]
    assert FLAT_BELOW == 5
    stricter = audit_pack(blemished.pack, flat_below=3.5)
    assert names(stricter.near_constant) == ["test/elk/z.png"]
    assert names(stricter.constant) == names(blemished.constant)


def test_one_lively_channel_is_enough(tmp_path):
    image = flat(0)
    image[::2, :, 1] += 12
    audit = audit_pack(make_pack(tmp_path, {"train": {"cat": {"a.png": image}}}))
    assert not audit.near_constant
    assert names(audit_pack(audit.pack, flat_below=6.5).near_constant) == ["train/cat/a.png"]


def test_cifar10_train_images_in_test_are_found(blemished):
    assert names(blemished.leaked) == ["test/cat/cifar10-train-5.png"]


def test_balance_counts_every_class(blemished):
    assert blemished.balance == {
        "train": {
            "imagenet": {"cat": 3, "dog": 2, "elk": 1},
            "cifar10": {"cat": 0, "dog": 0, "elk": 1},
        },
        "valid": {"imagenet": {"cat": 1, "dog": 2, "elk": 1}},
        "test": {
            "cifar10": {"cat": 2, "dog": 0, "elk": 0},
            "imagenet": {"cat": 0, "dog": 2, "elk": 1},
            "unknown": {"cat": 0, "dog": 0, "elk": 3},
        },
    }


def test_findings_are_csv(blemished):
    rows = list(csv.DictReader(format_findings(blemished).splitlines()))
    found = [tuple(row.values()) for row in rows]
    assert list(rows[0]) == ["finding", "picture", "split", "class", "name", "detail"]
    assert found[0] == (
        "duplicate",
        "1",
        "train",
        "cat",
        "n00000001_1.png",
        "one of 3 in several splits, several classes",
    )
    assert [row["picture"] for row in rows if row["finding"] == "duplicate"] == list("1112233344")
    others = [(row["finding"], row["split"], row["name"]) for row in rows[10:]]
    assert others[:4] == [
        ("constant", "test", "cifar10-test-6.png"),
        ("near-constant", "test", "x.png"),
        ("near-constant", "test", "z.png"),
        ("cifar10-train-in-test", "test", "cifar10-train-5.png"),
    ]
    unequal = [row for row in found[14:] if row[2] == "valid"]
    assert unequal == [("imbalance", "", "valid", "dog", "", "2 of imagenet, not 1 as usual")]


def test_summary_counts_the_findings(blemished):
    summary = json.loads(json.dumps(describe_audit(blemished)))
    assert summary["images"] == 19
    assert summary["duplicates"]["pictures"] == 4
    assert summary["duplicates"]["images"] == 10
    assert summary["duplicates"]["spread"] == {
        "several splits, several classes": 2,
        "several splits, one class": 1,
        "one split, one class": 1,
    }
    shared = {tuple(pair["splits"]): pair["pictures"] for pair in summary["duplicates"]["shared"]}
    assert shared == {("train", "test"): 2, ("train", "valid"): 1}
    assert (summary["constant"], summary["near_constant"]) == (1, 2)
    assert summary["cifar10_train_in_test"] == 1

    lines = format_audit(summary).splitlines()
    assert lines[0].endswith("a.pack: 19 images")
    assert "exact duplicates       10 images of 4 pictures" in lines
    assert "  2 in several splits, several classes" in lines
    assert "  2 in both train and test" in lines
    assert "  valid  imagenet       1, but 2 dog" in lines


def test_clean_pack_has_no_findings(any_pack):
    audit = audit_pack(cinicpack.open_pack(any_pack))
    assert [audit.duplicates, audit.constant, audit.near_constant] == [[], [], []]
    # One of two images in nine are CIFAR-10's, half of those in test from its train set.
    tested = audit.pack["test"]
    expected = [name.decode() for name in tested.names if name.startswith(b"cifar10-train")]
    assert [place.name for place in audit.leaked] == expected
    assert audit == audit_pack(audit.pack)


def test_spread_is_named():
    here = Place("train", 0, "cat", "a.png")
    assert name_spread([here, here]) == "one split, one class"
    assert name_spread([here, here._replace(class_name="dog")]) == "one split, several classes"
    assert name_spread([here, here._replace(split="test")]) == "several splits, one class"


# The first call compiles.
@settings(deadline=None)
@given(arrays(np.uint8, st.tuples(st.integers(0, 3), st.just(3), st.integers(1, 40))))
def test_spread_is_the_standard_deviation(planes):
    out = np.empty((len(planes), 3))
    measure_spread(planes, out)
    assert np.allclose(out, planes.std(2), rtol=1e-12, atol=1e-6)
    assert np.array_equal(out == 0, planes.min(2) == planes.max(2))


def test_command_writes_findings_and_sheet(blemished, tmp_path, capsys):
    path = str(blemished.pack.path)
    csv_file, picture = tmp_path / "a.csv", tmp_path / "a.png"
    assert main(["audit", path, "-o", str(csv_file), "--sheet", str(picture)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(format_audit(describe_audit(blemished)))
    assert "audited in " in out
    assert csv_file.read_text() == format_findings(blemished)
    with Image.open(picture) as image:
        assert image.format == "PNG"

    assert main(["audit", path, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["near_constant"] == 2


def test_command_refuses_other_files_before_it_starts(npy_pack, tmp_path, capsys):
    assert main(["audit", "missing.pack", "-o", "a.txt"]) == 1
    assert "ends in .csv" in capsys.readouterr().err
    assert main(["audit", "missing.pack", "--sheet", "a.jpg"]) == 1
    assert "ends in .png or .svg" in capsys.readouterr().err
    assert main(["audit", str(npy_pack), "--sheet", str(tmp_path / "a.png")]) == 0
    assert "a.png: not drawn, there are no duplicates" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
