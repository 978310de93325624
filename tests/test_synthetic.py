import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from cinicpack import cinic10
from cinicpack.cinic10 import Origin, Provenance
from cinicpack.errors import ArgumentError
from cinicpack.synthetic import SYNSETS, name_images, synthesize_images, write_images, write_tree
from tests import outside

Tree = dict[tuple[str, str], list[str]]
Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]


def provenances(tree: Tree, split: str | None = None) -> list[Provenance]:
    return [
        cinic10.parse_name(name)
        for (part, _), names in tree.items()
        if split in (None, part)
        for name in names
    ]


def rows(images: list[Provenance], origin: Origin) -> list[int]:
    return sorted(image.number for image in images if image.origin is origin)


def read_tree(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*.png")}


def test_the_full_size_has_cinic10s_names_and_counts():
    tree = name_images(cinic10.PER_CLASS)
    assert list(tree) == [(split, name) for split in cinic10.SPLITS for name in cinic10.CLASSES]
    everything = []
    for (split, _), names in tree.items():
        images = [cinic10.parse_name(name) for name in names]
        origins = Counter(image.origin for image in images)
        cifar = (1_000, 1_000) if split == "test" else (2_000, 0)
        assert (origins[Origin.CIFAR10_TRAIN], origins[Origin.CIFAR10_TEST]) == cifar
        assert origins[Origin.IMAGENET] == cinic10.IMAGENET_PER_CLASS
        assert origins.total() == cinic10.PER_CLASS
        everything += images
    assert len(set(everything)) == 270_000
    assert rows(everything, Origin.CIFAR10_TRAIN) == list(range(50_000))
    assert rows(everything, Origin.CIFAR10_TEST) == list(range(10_000))


@given(
    per_class=st.integers(1, 60),
    splits=st.lists(st.sampled_from(["train", "valid", "test", "more"]), min_size=1, unique=True),
    classes=st.lists(st.sampled_from(cinic10.CLASSES), min_size=1, unique=True),
    seed=st.integers(0, 9),
)
def test_any_size_has_dense_rows_known_synsets_and_no_name_twice(per_class, splits, classes, seed):
    tree = name_images(per_class, splits, classes, seed)
    images = provenances(tree)
    assert len(set(images)) == len(images) == per_class * len(splits) * len(classes)
    train, test = rows(images, Origin.CIFAR10_TRAIN), rows(images, Origin.CIFAR10_TEST)
    assert train == list(range(len(train)))
    assert test == list(range(len(test)))
    assert rows(provenances(tree, "test"), Origin.CIFAR10_TEST) == test
    assert len(train) + len(test) == round(per_class * 2 / 9) * len(splits) * len(classes)
    for (_, label), names in tree.items():
        synsets = {cinic10.parse_name(name).synset for name in names}
        assert synsets <= {0, *SYNSETS[label]}
    assert tree == name_images(per_class, splits, classes, seed)


def test_rows_are_dealt_at_random_and_seeds_differ():
    tree = name_images(90)
    for origin in (Origin.CIFAR10_TRAIN, Origin.CIFAR10_TEST):
        found = rows([cinic10.parse_name(name) for name in tree["test", "cat"]], origin)
        assert found[-1] - found[0] > 2 * len(found)
    assert tree != name_images(90, seed=1)


def test_names_of_no_images_or_of_unknown_classes_are_refused():
    with pytest.raises(ArgumentError, match="per_class: expected at least 1 image, found 0"):
        name_images(0)
    with pytest.raises(ArgumentError, match=r"found 'lynx'; choose from airplane, .*, truck"):
        name_images(1, classes=["cat", "lynx"])


def test_synsets_are_those_of_the_authors():
    listed: dict[str, set[int]] = {}
    name = ""
    for line in outside.require(outside.SYNSETS).read_text().split("\n"):
        if match := re.match(r"-+n([0-9]{8}):", line):
            listed[name].add(int(match[1]))
        elif line.strip():
            name = line.strip()
            listed[name] = set()
    assert tuple(SYNSETS) == tuple(sorted(listed)) == cinic10.CLASSES
    for name, synsets in SYNSETS.items():
        others = set().union(*(listed[other] for other in listed if other != name))
        assert set(synsets) <= listed[name] - others


@given(
    count=st.integers(0, 5),
    size=st.integers(1, 40),
    seed=st.integers(0, 2**40),
    labelled=st.booleans(),
)
@settings(max_examples=40)
def test_images_have_the_shape_asked_for_and_follow_the_seed(count, size, seed, labelled):
    labels = np.arange(count) if labelled else None
    images = synthesize_images(count, seed, size=size, labels=labels)
    assert images.shape == (count, size, size, 3)
    assert images.dtype == np.uint8
    assert np.array_equal(images, synthesize_images(count, seed, size=size, labels=labels))


def test_images_differ_from_each_other_and_between_seeds():
    images = np.concatenate([synthesize_images(300, seed, size=8, labels=3) for seed in (0, 1)])
    assert len(np.unique(images.reshape(600, -1), axis=0)) == 600


def test_impossible_images_are_refused():
    with pytest.raises(ArgumentError, match="count: expected 0 or more images, found -1"):
        synthesize_images(-1, 0)
    with pytest.raises(ArgumentError, match="size: expected at least 1 pixel, found 0"):
        synthesize_images(1, 0, size=0)


def test_images_have_the_statistics_of_cinic10():
    pixels = synthesize_images(500, 0, labels=np.arange(500) % 10) / 255
    assert pixels.mean((0, 1, 2)) == pytest.approx(cinic10.MEAN, abs=0.04)
    assert pixels.std((0, 1, 2)) == pytest.approx(cinic10.STD, abs=0.04)


def score_by_class_means(images: Pixels, labels: Labels, seen: Pixels) -> float:
    """Give the share of images whose label is that of the most similar class mean of others."""

    def standardise(pixels: Pixels) -> NDArray[np.float64]:
        flat: NDArray[np.float64] = pixels.reshape(len(pixels), -1).astype(float)
        flat -= flat.mean(1, keepdims=True)
        flat /= flat.std(1, keepdims=True)
        return flat

    means = np.stack([standardise(seen[labels == label]).mean(0) for label in range(10)])
    return float(np.mean((standardise(images) @ means.T).argmax(1) == labels))


def test_labels_can_be_learnt_and_those_of_cifar10_more_easily():
    labels = np.arange(1_000) % 10
    seen = synthesize_images(1_000, 1, labels=labels)
    cifar10, imagenet = (
        score_by_class_means(
            synthesize_images(1_000, 2, labels=labels, origins=origin), labels, seen
        )
        for origin in (Origin.CIFAR10_TRAIN, Origin.IMAGENET)
    )
    assert cifar10 > imagenet + 0.05
    assert imagenet > 0.2
    unlabelled = synthesize_images(1_000, 2)
    assert score_by_class_means(unlabelled, labels, seen) < 0.15


def test_a_tree_is_written_under_its_names(tmp_path):
    total = write_tree(tmp_path / "tree", 12, seed=3)
    files = read_tree(tmp_path / "tree")
    names = name_images(12, seed=3)
    assert set(files) == {
        f"{split}/{label}/{name}" for (split, label), part in names.items() for name in part
    }
    assert total == sum(map(len, files.values()))
    assert 2_000 < total / len(files) < 2_800
    write_tree(tmp_path / "again", 12, seed=3)
    assert read_tree(tmp_path / "again") == files
    write_tree(tmp_path / "other", 12, seed=4)
    assert not set(read_tree(tmp_path / "other").values()) & set(files.values())


def test_a_tree_may_have_other_splits_classes_and_sizes(tmp_path):
    write_tree(tmp_path, 2, splits=["all"], classes=["dog", "ship"], size=12)
    assert sorted({path.rpartition("/")[0] for path in read_tree(tmp_path)}) == [
        "all/dog",
        "all/ship",
    ]
    for path in tmp_path.rglob("*.png"):
        with Image.open(path) as image:
            assert image.size == (12, 12)


def test_a_few_imagenet_images_are_greyscale_and_no_others(tmp_path):
    write_tree(tmp_path, 400, splits=["train"], classes=["cat", "dog"], size=4)
    modes: Counter[tuple[Origin, str]] = Counter()
    for path in tmp_path.rglob("*.png"):
        with Image.open(path) as image:
            modes[cinic10.parse_name(path.name).origin, image.mode] += 1
    assert modes[Origin.CIFAR10_TRAIN, "RGB"] == 178
    assert 3 <= modes[Origin.IMAGENET, "L"] <= 30
    assert modes[Origin.IMAGENET, "L"] + modes[Origin.IMAGENET, "RGB"] == 622


def test_images_may_come_from_elsewhere(tmp_path):
    given_images: dict[str, NDArray[np.int64]] = {}

    def source(split, name, names):
        images = np.random.default_rng(len(given_images)).integers(0, 256, (len(names), 5, 7, 3))
        for file, image in zip(names, images, strict=True):
            given_images[f"{split}/{name}/{file}"] = image
            yield image.astype(np.uint8)

    write_tree(tmp_path, 3, classes=["frog"], images=source)
    assert len(given_images) == 9
    for path, expected in given_images.items():
        with Image.open(tmp_path / path) as image:
            assert np.array_equal(np.asarray(image), expected)


def test_images_without_colour_are_saved_as_the_real_ones_are(tmp_path):
    grey = np.repeat(np.arange(16, dtype=np.uint8).reshape(1, 4, 4, 1), 3, axis=-1)
    names = ["n02121808_1.png", "cifar10-train-1.png", "n02121808_2.png"]
    almost = grey.copy()
    almost[0, 3, 3, 2] += 1
    size = write_images(tmp_path / "new" / "cat", names, [*grey, *grey, *almost])
    assert size == sum(path.stat().st_size for path in tmp_path.rglob("*.png"))
    modes = []
    for name, expected in zip(names, [*grey, *grey, *almost], strict=True):
        with Image.open(tmp_path / "new" / "cat" / name) as image:
            modes.append(image.mode)
            assert np.array_equal(np.asarray(image.convert("RGB")), expected)
    assert modes == ["L", "RGB", "RGB"]


def test_a_source_must_give_as_many_images_as_names(tmp_path):
    with pytest.raises(ValueError, match="shorter"):
        write_images(tmp_path, ["a.png", "b.png"], np.zeros((1, 4, 4, 3), np.uint8))
