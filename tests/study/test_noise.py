from hashlib import sha256
from typing import Any

import numpy as np
import pytest

import cinicpack
from cinicpack.errors import ArgumentError, SelectionError
from cinicpack.study import label_noise
from cinicpack.synthetic import synthesize_images, write_images

CLASSES = ("ant", "bee", "cat", "dog")


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> cinicpack.Split:
    """Four classes of 40 images."""
    folder = tmp_path_factory.mktemp("noise")
    images = list(synthesize_images(40, seed=0, size=4))
    for name in CLASSES:
        names = [f"{number:02}.png" for number in range(40)]
        write_images(folder / "tree" / "train" / name, names, images)
    return cinicpack.pack(folder / "tree", folder / "a.pack", progress=False)["train"]


def count_moves(split, noisy) -> list[list[int]]:
    """How many images of each class (rows) have which label (columns) now."""
    moves = np.zeros((4, 4), np.int64)
    np.add.at(moves, (split.labels, noisy), 1)
    counts: list[list[int]] = moves.tolist()
    return counts


@pytest.mark.parametrize("rate", [0, 0.1, 0.4, 0.99, 1, np.float32(0.5)])
def test_symmetric_noise_changes_its_share_of_every_class(train, rate):
    noisy = label_noise(train, rate)
    assert noisy.dtype == np.int64
    assert noisy.shape == (160,)
    moves = np.array(count_moves(train, noisy))
    assert np.diag(moves).tolist() == [40 - round(float(rate) * 40)] * 4
    if rate == 1:
        # Every other class is drawn about as often: 160 draws in 12 places.
        assert moves[~np.eye(4, dtype=bool)].min() > 5


def test_pairs_change_into_their_class(train):
    noisy = label_noise(train, 0.25, pairs={"cat": "dog", "dog": "cat", "ant": "bee"})
    assert count_moves(train, noisy) == [
        [30, 10, 0, 0],
        [0, 40, 0, 0],
        [0, 0, 30, 10],
        [0, 0, 10, 30],
    ]
    noisy = label_noise(train, 0.25, pairs="next")
    assert count_moves(train, noisy) == [
        [30, 10, 0, 0],
        [0, 30, 10, 0],
        [0, 0, 30, 10],
        [10, 0, 0, 30],
    ]


@pytest.mark.parametrize("rate", [{"bee": 0.5, "dog": 1}, [0, 0.5, 0, 1], np.array([0, 0.5, 0, 1])])
def test_each_class_has_a_rate(train, rate):
    moves = count_moves(train, label_noise(train, rate, pairs="next"))
    assert moves == [[40, 0, 0, 0], [0, 20, 20, 0], [0, 0, 40, 0], [40, 0, 0, 0]]
    assert np.diag(count_moves(train, label_noise(train, rate))).tolist() == [40, 20, 40, 0]


def test_a_higher_rate_changes_the_same_images_and_others(train):
    low, high = label_noise(train, 0.2, seed=3), label_noise(train, 0.6, seed=3)
    changed = low != train.labels
    np.testing.assert_array_equal(low[changed], high[changed])
    assert (high != train.labels).sum() == 3 * changed.sum() == 96


def test_labels_are_by_row_of_the_split_and_the_seeds(train):
    cats = train.select(classes=["dog", "bee"])[::-1]
    noisy = label_noise(cats, 0.5, seed=1)
    assert len(noisy) == 80
    assert (noisy != cats.labels).sum() == 40
    assert (noisy != label_noise(cats, 0.5, seed=2)).any()
    assert set(noisy.tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("pairs", "digest"), [(None, "36ae9f6e7dbe7ffa"), ("next", "ceb917517419c9c6")]
)
def test_what_a_seed_means_never_changes(train, pairs, digest):
    noisy = label_noise(train, 0.4, pairs=pairs, seed=42)
    assert sha256(noisy.astype("<i8").tobytes()).hexdigest()[:16] == digest


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rate": 1.1}, ArgumentError, r"expected rate to be a number from 0 to 1, found 1.1"),
        ({"rate": -0.1}, ArgumentError, r"found -0.1"),
        ({"rate": float("nan")}, ArgumentError, r"found nan"),
        ({"rate": "0.5"}, ArgumentError, r"found '0.5'"),
        ({"rate": [0.1, 0.2]}, ArgumentError, r"a rate for each of the 4 classes, found 2; give"),
        ({"rate": {"elk": 0.5}}, SelectionError, r"expected classes out of .* found 'elk'"),
        ({"pairs": {"cat": "elk"}}, SelectionError, r"found 'elk'"),
        ({"pairs": {"cat": "cat"}}, ArgumentError, r"different classes, found 'cat' with itself"),
        ({"pairs": "flip"}, ArgumentError, r"None, 'next' or \{name: name\} .* found 'flip'"),
        (
            {"rate": {"dog": 0.5, "bee": 0.1}, "pairs": {"dog": "cat"}},
            ArgumentError,
            r"expected pairs for all classes that rate names, found none for 'bee'",
        ),
        ({"seed": -1}, ArgumentError, r"expected seed"),
    ],
)
def test_other_arguments_are_refused(train, options: dict[str, Any], error, message):
    with pytest.raises(error, match=message):
        label_noise(train, **{"rate": 0.5, **options})


def test_one_class_has_no_other(tmp_path):
    write_images(tmp_path / "tree/train/cat", ["a.png"], synthesize_images(1, seed=0, size=4))
    pack = cinicpack.pack(tmp_path / "tree", tmp_path / "a.pack", progress=False)
    with pytest.raises(ArgumentError, match=r"has one class: expected another for wrong labels"):
        label_noise(pack["train"], 0.5)
