import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import cinicpack
from cinicpack import cinic10
from cinicpack.cli import main
from cinicpack.errors import ArgumentError, SelectionError
from cinicpack.study.statistics import (
    Statistics,
    StatisticsTable,
    compute_statistics,
    describe_statistics,
    format_statistics,
)
from cinicpack.synthetic import write_images, write_tree
from tests.outside import read_tiles


@pytest.fixture(scope="module")
def ten_classes(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("ten")
    write_tree(root / "tree", 3, size=8)
    with pytest.warns(UserWarning, match="like CINIC-10"):
        cinicpack.pack(root / "tree", root / "ten.pack", progress=False)
    return Path(root / "ten.pack")


def exact(images) -> Statistics:
    """The statistics of images (n, H, W, 3), by rational numbers up to the square root."""
    means, stds = [], []
    for channel in np.moveaxis(np.asarray(images), -1, 0):
        values = channel.astype(int).ravel()
        mean = Fraction(int(values.sum()), len(values) * 255)
        square = Fraction(int((values * values).sum()), len(values) * 255**2)
        means.append(float(mean))
        stds.append(float(square - mean * mean) ** 0.5)
    return Statistics(len(images), (means[0], means[1], means[2]), (stds[0], stds[1], stds[2]))


def check(found: Statistics, images) -> None:
    expected = exact(images)
    assert found.images == expected.images
    assert found.mean == expected.mean
    assert found.std == pytest.approx(expected.std, rel=1e-14)


def test_statistics_are_those_of_the_pixels(any_pack):
    pack = cinicpack.open_pack(any_pack)
    everything = pack["train+valid+test"]
    table = compute_statistics(pack)
    check(table.total, everything.images)
    assert table.groups == {}

    by_class = compute_statistics(pack, "train+test", by="class")
    check(by_class.total, pack["train+test"].images)
    assert list(by_class.groups) == ["airplane", "cat"]
    for name, found in by_class.groups.items():
        check(found, pack["train+test"].select(classes=name).images)

    by_source = compute_statistics(pack, "test", by="source")
    assert list(by_source.groups) == ["cifar10", "imagenet"]
    for name, found in by_source.groups.items():
        check(found, pack["test"].select(source=name).images)

    by_split = compute_statistics(pack, source="cifar10", by="split")
    check(by_split.total, everything.select(source="cifar10").images)
    assert list(by_split.groups) == ["train", "valid", "test"]
    for name, found in by_split.groups.items():
        check(found, pack[name].select(source="cifar10").images)


def test_images_of_unknown_source_are_a_group(tmp_path):
    write_images(tmp_path / "tree" / "some", ["a.png"], [np.full((2, 2, 3), 51, np.uint8)])
    pack = cinicpack.pack(tmp_path / "tree", tmp_path / "a.pack", progress=False)
    table = compute_statistics(pack, by="source")
    assert table == (Statistics(1, (0.2,) * 3, (0,) * 3), {"unknown": table.total})
    with pytest.raises(SelectionError, match="no images with source='imagenet'"):
        compute_statistics(pack, source="imagenet")


def test_what_there_is_not_is_refused(npy_pack):
    pack = cinicpack.open_pack(npy_pack)
    with pytest.raises(SelectionError, match="found 'tests'"):
        compute_statistics(pack, "tests")
    with pytest.raises(SelectionError, match="found 'cinic'"):
        compute_statistics(pack, source="cinic")
    with pytest.raises(ArgumentError, match=r"by: expected .* found 'colour'"):
        compute_statistics(pack, by="colour")  # type: ignore[arg-type]


def test_cinic10_is_compared_with_the_published_values(ten_classes):
    pack = cinicpack.open_pack(ten_classes)
    table = compute_statistics(pack, by="split")
    summary = describe_statistics(table, pack)
    assert summary["published"] == {"mean": cinic10.MEAN, "std": cinic10.STD}
    for kind, published in (("mean", cinic10.MEAN), ("std", cinic10.STD)):
        found = np.array(summary["total"][kind])
        assert np.array_equal(summary["difference"][kind], found - published)
    assert json.loads(json.dumps(summary))["groups"]["valid"]["images"] == 30

    # A part is compared with the values of the whole.
    part = compute_statistics(pack, source="cifar10")
    assert describe_statistics(part, pack)["published"] == summary["published"]


@pytest.mark.parametrize("name", ["{}.png", "cifar10-train-{}.png"])
def test_other_images_are_compared_with_nothing(npy_pack, tmp_path, name):
    # As of CIFAR-10, whose classes are the same.
    for number, class_name in enumerate(cinic10.CLASSES):
        pixels = np.full((1, 2, 2, 3), 20 * number, np.uint8)
        write_images(tmp_path / "tree" / class_name, [name.format(number)], pixels)
    cifar10 = cinicpack.pack(tmp_path / "tree", tmp_path / "a.pack", progress=False)
    for other in (cinicpack.open_pack(npy_pack), cifar10):
        table = compute_statistics(other)
        summary = describe_statistics(table, other)
        assert summary["published"] is summary["difference"] is None
        assert "published" not in format_statistics(table, other)


def test_table_has_eight_digits(ten_classes):
    pack = cinicpack.open_pack(ten_classes)
    some = Statistics(1234, (0.5, 1 / 3, 0.25), (0.1, 0.2, 0.3))
    text = format_statistics(StatisticsTable(some, {"cat": some._replace(images=5)}), pack)
    header, cat, total, published, difference = text.splitlines()
    assert " ".join(header.split()) == (
        "images mean red mean green mean blue std red std green std blue"
    )
    assert cat.split()[:2] == ["cat", "5"]
    assert " ".join(total.split()) == (
        "all 1,234 0.50000000 0.33333333 0.25000000 0.10000000 0.20000000 0.30000000"
    )
    assert published.split()[1:4] == ["0.47889522", "0.47227842", "0.43047404"]
    assert published.split()[4:] == ["0.24205776", "0.23828046", "0.25874835"]
    assert difference.split()[1:3] == ["+0.02110478", "-0.13894509"]
    assert len(set(map(len, text.splitlines()))) == 1


def test_real_images_come_near_the_published_values(tmp_path):
    names = [f"n00000000_{number}.png" for number in range(200)]
    for name in cinic10.CLASSES:
        write_images(tmp_path / "tree" / name, names, read_tiles(name))
    with pytest.warns(UserWarning, match="like CINIC-10"):
        pack = cinicpack.pack(tmp_path / "tree", tmp_path / "a.pack", progress=False)
    found = describe_statistics(compute_statistics(pack), pack)
    assert found["total"]["images"] == 2000
    assert np.abs([*found["difference"]["mean"], *found["difference"]["std"]]).max() < 0.01


def test_command_prints_a_table_or_json(ten_classes, capsys):
    pack = cinicpack.open_pack(ten_classes)
    assert main(["stats", str(ten_classes), "--by", "source"]) == 0
    table = compute_statistics(pack, by="source")
    assert capsys.readouterr().out == format_statistics(table, pack) + "\n"

    options = ["--split", "test,train", "--source", "imagenet", "--by", "split", "--json"]
    assert main(["stats", str(ten_classes), *options]) == 0
    table = compute_statistics(pack, "train+test", source="imagenet", by="split")
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(json.dumps(describe_statistics(table, pack)))

    assert main(["stats", str(ten_classes), "--split", "tests"]) == 1
    assert "found 'tests'" in capsys.readouterr().err
