import json
import math
from statistics import NormalDist

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import cinicpack
from cinicpack import Pack
from cinicpack.cinic10 import Origin
from cinicpack.cli import main
from cinicpack.errors import ArgumentError, SelectionError
from cinicpack.study.shift import Accuracy, exchange_sources, measure_accuracies
from cinicpack.synthetic import write_tree

CLASSES = ("cat", "deer", "ship")


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    root = tmp_path_factory.mktemp("tree") / "cinic"
    write_tree(root, 18, classes=CLASSES)
    (root / "test" / "ship" / "mine.png").symlink_to(next((root / "test" / "ship").iterdir()))
    return cinicpack.pack(root, root.with_name("a.pack"), progress=False)


def named(accuracies: list[Accuracy]) -> dict[tuple[str | None, str | None], tuple[int, int]]:
    return {(entry.source, entry.class_name): (entry.images, entry.correct) for entry in accuracies}


def test_sources_and_classes_are_counted(pack):
    """Wrong are: all cats of CIFAR-10's test set, and all of ImageNet's ships."""
    test = pack["test"]
    predictions = test.labels.astype(np.int64)
    origins = test.sources["origin"]
    predictions[(origins == Origin.CIFAR10_TEST) & (test.labels == 0)] = 1
    predictions[(origins == Origin.IMAGENET) & (test.labels == 2)] = 0
    expected = {
        (None, None): (55, 39),
        (None, "cat"): (18, 16),
        (None, "deer"): (18, 18),
        (None, "ship"): (19, 5),
        ("cifar10", None): (12, 10),
        ("cifar10", "cat"): (4, 2),
        ("cifar10", "deer"): (4, 4),
        ("cifar10", "ship"): (4, 4),
        ("cifar10 train", None): (6, 6),
        ("cifar10 train", "cat"): (2, 2),
        ("cifar10 train", "deer"): (2, 2),
        ("cifar10 train", "ship"): (2, 2),
        ("cifar10 test", None): (6, 4),
        ("cifar10 test", "cat"): (2, 0),
        ("cifar10 test", "deer"): (2, 2),
        ("cifar10 test", "ship"): (2, 2),
        ("imagenet", None): (42, 28),
        ("imagenet", "cat"): (14, 14),
        ("imagenet", "deer"): (14, 14),
        ("imagenet", "ship"): (14, 0),
        ("unknown", None): (1, 1),
        ("unknown", "ship"): (1, 1),
    }
    found = measure_accuracies(predictions, test)
    assert named(found) == expected
    assert list(named(found)) == list(expected)
    assert all(entry.accuracy == entry.correct / entry.images for entry in found)


def test_scores_count_by_the_highest(pack):
    test = pack["test"]
    labels = (test.labels.astype(np.int64) + np.arange(len(test)) % 2) % 3
    scores = np.random.default_rng(0).normal(size=(len(test), 3)).astype(np.float32)
    scores[np.arange(len(test)), labels] = 9
    expected = measure_accuracies(labels, test)
    assert expected[0].correct == 28
    for predictions in (scores, torch.from_numpy(scores), scores.tolist(), labels.tolist()):
        assert measure_accuracies(predictions, test) == expected


def test_selections_are_measured_in_their_order(pack):
    chosen = pack["valid+test"].select(source="imagenet", classes=["ship", "cat"], indices=None)
    predictions = np.zeros(len(chosen), np.int64)
    assert named(measure_accuracies(predictions, chosen)) == {
        (None, None): (56, 28),
        (None, "cat"): (28, 28),
        (None, "ship"): (28, 0),
        ("imagenet", None): (56, 28),
        ("imagenet", "cat"): (28, 28),
        ("imagenet", "ship"): (28, 0),
    }
    backwards = pack["test"].select(indices=np.arange(len(pack["test"]))[::-1])
    assert measure_accuracies(backwards.labels, backwards)[0].accuracy == 1


def interval(hits: int, images: int, confidence: float = 0.95) -> tuple[float, float]:
    class Pretended:
        name = "cat"
        classes = ("cat", "deer")

    class One:
        pack = Pretended()
        labels = np.zeros(images, np.uint8)
        sources = np.zeros(images, cinicpack.store.format.PROVENANCE_DTYPE)

        def __len__(self) -> int:
            return images

    predictions = (np.arange(images) >= hits).astype(int)
    entry = measure_accuracies(predictions, One(), confidence=confidence)[0]  # type: ignore[arg-type]
    assert entry.correct == hits
    return entry.low, entry.high


def test_intervals_are_those_of_the_textbooks():
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3: Wilson's score interval.
    for hits, images, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        assert interval(hits, images) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 500), st.data(), st.floats(0.01, 0.999))
def test_intervals_solve_their_equation(images, data, confidence):
    hits = data.draw(st.integers(0, images))
    quantile = NormalDist().inv_cdf(0.5 + confidence / 2)
    low, high = interval(hits, images, confidence)
    assert 0 <= low <= hits / images + 1e-12
    assert hits / images - 1e-12 <= high <= 1
    for end in (low, high):
        distance = quantile * math.sqrt(end * (1 - end) / images)
        if 0 < end < 1:
            assert abs(hits / images - end) == pytest.approx(distance, abs=1e-9)


def test_exchange_selects_both_directions(pack):
    on_cifar = exchange_sources(pack, "cifar10", train="train+valid")
    assert [len(split) for split in on_cifar] == [24, 12, 42]
    on_imagenet = exchange_sources(pack, "imagenet")
    assert [len(split) for split in on_imagenet] == [42, 42, 12]
    assert on_imagenet.other.fingerprint == on_cifar.same.fingerprint
    assert set(on_imagenet.train.sources["origin"].tolist()) == {Origin.IMAGENET}
    with pytest.raises(SelectionError, match="'cifar10' or 'imagenet', found 'cifar'"):
        exchange_sources(pack, "cifar")


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        (np.zeros(54, int), r"as \(55,\) integers or \(55, 3\) scores, found \(54,\) int64"),
        (np.zeros(55), r"found \(55,\) float64"),
        (np.zeros((55, 10)), r"found \(55, 10\) float64"),
        (np.zeros(55, bool), r"found \(55,\) bool"),
        (np.full(55, 3), r"expected labels from 0 to 2, found 3 to 3"),
        (np.full(55, -1), r"found -1 to -1"),
        (np.full((55, 3), np.nan), r"found NaN"),
    ],
)
def test_other_predictions_are_refused(pack, predictions, message):
    with pytest.raises(ArgumentError, match=message):
        measure_accuracies(predictions, pack["test"])


@pytest.mark.parametrize("confidence", [0, 1, 95, math.nan])
def test_confidence_lies_between_0_and_1(pack, confidence):
    with pytest.raises(ArgumentError, match="expected confidence between 0 and 1"):
        measure_accuracies(pack["test"].labels, pack["test"], confidence=confidence)


def test_command(pack, tmp_path, capsys):
    np.save(tmp_path / "p.npy", pack["test"].labels)
    command = ["shift", str(pack.path), str(tmp_path / "p.npy")]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["all", "55", "55", "100.00", "(93.47-100.00)"]
    assert lines[3].split()[:4] == ["cifar10", "train", "6", "6"]
    assert [line.split()[0] for line in lines[8:]] == ["class", "cat", "deer", "ship"]
    assert lines[-2].split() == [
        *("deer", "100.00", "(82.41-100.00)", "100.00", "(51.01-100.00)"),
        *("100.00", "(78.47-100.00)", "-"),
    ]
    assert main([*command, "--json", "--confidence", "0.5"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert entries[0] == {
        "source": None,
        "class_name": None,
        "images": 55,
        "correct": 55,
        "accuracy": 1.0,
        "low": pytest.approx(0.9918, abs=1e-4),
        "high": 1.0,
    }
    (tmp_path / "p.npy").write_bytes(b"")
    assert main(command) == 1
    assert "p.npy: expected an npy file" in capsys.readouterr().err
