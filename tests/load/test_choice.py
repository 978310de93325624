"""Orders of the user's own: by weights, balanced, repeated, and rows that are given."""

import copy
import hashlib
import json
import pickle
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cinicpack
from cinicpack import ArgumentError, Augment, Loader, Repeated, StateError, Weighted
from cinicpack.load.choice import check_order
from cinicpack.load.draws import WEIGHTED
from cinicpack.load.order import draw_order
from cinicpack.load.recipes import make_recipe
from tests.load.philox import draw_words

COUNT = 90
WEIGHTS = np.arange(COUNT) % 7 / 3
ROWS = np.array([5, 80, 5, 5, 0, 33, 80, 12])


def by_epoch(epoch):
    """Each epoch another subset, one with a row twice."""
    return [3 + epoch, 50, 3 + epoch, *range(60, 70 + epoch)]


ORDERS: dict[str, Any] = {
    "weighted": Weighted(WEIGHTS, num_samples=130),
    "floats": WEIGHTS,
    "without replacement": Weighted(WEIGHTS, replacement=False, num_samples=50),
    "balanced": "balanced",
    "repeated": Repeated(3),
    "repeated, cut": Repeated(4, num_samples=COUNT),
    "rows": ROWS,
    "function": by_epoch,
}


def load(pack, order, **options) -> Any:
    defaults: dict[str, Any] = {
        "augment": Augment(cutout=5),
        "return_index": True,
        "batch_size": 16,
    }
    return Loader(pack, order=order, **defaults | options)


def samples_of(batches) -> list[tuple[int, int, bytes]]:
    """List the samples in their order: row, label, pixels."""
    return [
        (row, label, image.contiguous().view(torch.uint8).numpy().tobytes())
        for images, labels, index in batches
        for image, label, row in zip(images, labels.tolist(), index.tolist(), strict=True)
    ]


def rows_of(loader) -> list[int]:
    return [row for batch in loader for row in batch[2].tolist()]


@pytest.mark.parametrize("name", ORDERS)
def test_samples_do_not_depend_on_how_they_are_loaded(pack, name):
    order = ORDERS[name]
    loader = load(pack, order, num_workers=0)
    expected = [samples_of(loader), samples_of(loader)]
    ways: list[dict[str, Any]] = [
        {"num_workers": 3},
        {"batch_size": 5},
        {"batch_size": 2**40},
        {"augment_on": "device"},
        {"resident": True, "batch_size": 200},
    ]
    for way in ways:
        again = load(pack, order, **way)
        for epoch in expected:
            assert len(again) == -(-len(epoch) // again.batch_size)
            assert samples_of(again) == epoch
    ranks = [list(load(pack, order, batch_size=4, rank=rank, world_size=3)) for rank in range(3)]
    taken = [samples_of(batches) for batches in ranks]
    assert [taken[i % 3][i // 3] for i in range(len(expected[0]))] == expected[0]


@pytest.mark.parametrize("name", ORDERS)
def test_an_epoch_goes_on_exactly_from_its_middle(pack, name):
    order = ORDERS[name]
    loader = load(pack, order, batch_size=4)
    list(loader)
    iterator = iter(loader)
    next(iterator)
    state = json.loads(json.dumps(loader.state_dict()))
    assert len(json.dumps(state)) < 600
    copied = copy.copy(loader)
    resumed = load(pack, order, batch_size=3, num_workers=1)
    resumed.load_state_dict(state)
    expected = samples_of(iterator)
    assert expected
    assert samples_of(resumed) == samples_of(copied) == expected
    assert samples_of(resumed) == samples_of(loader)


@pytest.mark.parametrize("name", ORDERS)
def test_a_row_that_comes_again_is_augmented_anew(pack, name):
    # One of these labels is rare.
    options = {"labels": np.arange(COUNT) // 80} if name == "balanced" else {}
    samples = samples_of(load(pack, ORDERS[name], **options))
    seen = Counter((row, pixels) for row, _, pixels in samples)
    rows = Counter(row for row, _ in seen.elements())
    assert (max(rows.values()) > 1) is (name != "without replacement")
    # 81 crops, mirrored or not, with 1,024 places of the cutout: some are the same by chance.
    assert len(seen) > 0.97 * seen.total()
    # The first time it is what it always is.
    plain = {row: pixels for row, _, pixels in samples_of(load(pack, None))}
    first = {row: pixels for row, _, pixels in reversed(samples)}
    assert first == {row: plain[row] for row in first}


def test_rows_come_as_they_are_given(pack):
    loader = load(pack, ROWS)
    assert rows_of(loader) == rows_of(loader) == ROWS.tolist()
    loader = load(pack, by_epoch, batch_size=4, drop_last=True)
    for epoch in range(3):
        assert len(loader) == len(by_epoch(epoch)) // 4
        assert rows_of(loader) == by_epoch(epoch)[: 4 * (len(by_epoch(epoch)) // 4)]


def test_the_length_is_that_of_the_next_epoch(pack):
    loader = load(pack, by_epoch, batch_size=1)
    iterator = iter(loader)
    next(iterator)
    assert len(loader) == len(by_epoch(1))
    loader.set_epoch(20)
    assert len(loader) == len(by_epoch(20))


def test_every_label_comes_as_often_as_any_other(pack):
    kept = [*range(40), *range(70, 75)]
    split = pack["train"].select(indices=kept)
    loader = load(pack, "balanced", split=split)
    extra = []
    for _ in range(3):
        counts = Counter(label for _, label, _ in samples_of(loader))
        assert set(counts) == set(split.labels.tolist())
        assert counts.total() == len(kept)
        assert max(counts.values()) - min(counts.values()) <= 1
        extra.append({label for label, count in counts.items() if count == max(counts.values())})
    assert extra[0] != extra[1]
    rows = Counter(rows_of(loader))
    # A row waits for all others of its class.
    for label in set(split.labels.tolist()):
        own = [rows[row] for row in np.flatnonzero(split.labels == label).tolist()]
        assert max(own) - min(own) <= 1
    own_labels = np.arange(COUNT) // 89
    labels = torch.cat([batch[1] for batch in load(pack, "balanced", labels=own_labels)])
    assert labels.sum() == COUNT / 2


def test_repeated_rows_stand_together(pack):
    rows = rows_of(load(pack, Repeated(3)))
    assert rows == np.repeat(rows_of(load(pack, None)), 3).tolist()
    assert rows_of(load(pack, Repeated(3, num_samples=50))) == rows[:50]


def draw_again(weights, seed, epoch, number, replacement):
    """Draw by weights in whole numbers of Python, without a tree."""
    whole = [
        max(round(w / max(weights) * 2 ** (62 - len(weights).bit_length())), w > 0) for w in weights
    ]
    words = draw_words(seed, epoch, WEIGHTED, np.arange(number // 2 + 1)).reshape(-1, 2).tolist()
    drawn = []
    for low, high in words[:number]:
        rest = (high * 2**32 + low) * sum(whole) >> 64
        place = 0
        while rest >= whole[place]:
            rest -= whole[place]
            place += 1
        drawn.append(place)
        if not replacement:
            whole[place] = 0
    return drawn


@settings(max_examples=60)
@given(
    st.lists(st.floats(0, 1e300, allow_subnormal=True), min_size=1, max_size=40).filter(any),
    st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1), st.booleans(), st.integers(1, 600),
)  # fmt: skip
def test_the_kernel_draws_as_its_twin(weights, seed, epoch, replacement, number):
    if not replacement:
        number = min(number, np.count_nonzero(weights))
    rows = np.arange(len(weights))
    options: Any = type("Options", (), {"order": Weighted(weights, replacement, number)})
    samples: Any = type("Samples", (), {"rows": rows, "__len__": lambda _: len(rows)})()
    order = draw_order(make_recipe(options, samples), seed, epoch)
    assert order.tolist() == draw_again(weights, seed, epoch, number, replacement)


def test_draws_by_weight_never_change(pack):
    rows = rows_of(load(pack, Weighted(WEIGHTS, num_samples=3000), seed=2018, epoch=3))
    digest = hashlib.sha256(np.array(rows, "<i8").tobytes()).hexdigest()
    assert digest[:32] == "2cfec781a13509591d920346352fa9c1"
    rows = rows_of(load(pack, "balanced", source="imagenet", seed=2018, epoch=3))
    digest = hashlib.sha256(np.array(rows, "<i8").tobytes()).hexdigest()
    assert digest[:32] == "ea53e758de958cab223c2fc309034f1c"


def test_rows_are_drawn_as_often_as_their_weights_say(pack):
    number = 60_000
    loader = load(pack, Weighted(WEIGHTS, num_samples=number), dtype="uint8", augment=None)
    seen = np.bincount(rows_of(loader), minlength=COUNT)
    assert not seen[WEIGHTS == 0].any()
    expected = number * (WEIGHTS / WEIGHTS.sum())[WEIGHTS > 0]
    chi_square = ((seen[WEIGHTS > 0] - expected) ** 2 / expected).sum()
    # The quantiles 0.001 and 0.999 with 76 degrees of freedom.
    assert 43.2 < chi_square < 119.9
    # Without replacement heavy rows come early: each pair in the order that its weights say.
    weights = np.where(np.arange(COUNT) == 8, 3, np.arange(COUNT) == 9)
    loader = load(pack, Weighted(weights, False, 2), dtype="uint8", augment=None, batch_size=2)
    first = [rows_of(loader)[0] for _ in range(2000)]
    assert 1440 < first.count(8) < 1560


def test_torch_draws_by_the_same_weights(pack):
    from torch.utils.data import WeightedRandomSampler

    number = 40_000
    theirs = np.bincount([*WeightedRandomSampler(WEIGHTS.tolist(), number)], minlength=COUNT)
    loader = load(pack, Weighted(WEIGHTS, num_samples=number), dtype="uint8", augment=None)
    ours = np.bincount(rows_of(loader), minlength=COUNT)
    assert np.abs(ours - theirs).max() < 6 * np.sqrt(2 * ours.max())


def test_a_large_order_that_was_drawn_ahead_is_the_same(pack, monkeypatch):
    monkeypatch.setattr("cinicpack.load.order._WORTHWHILE", 1)
    for order in (Weighted(WEIGHTS), "balanced", Repeated(2)):
        ahead, alone = load(pack, order, num_workers=1), load(pack, order, num_workers=0)
        for _ in range(3):
            assert rows_of(ahead) == rows_of(alone)


def test_weights_and_rows_go_by_the_split_before_it_is_narrowed(pack):
    kept = pack["train"].where(source="imagenet")
    loader = load(pack, Weighted(WEIGHTS, num_samples=9000), source="imagenet")
    assert set(rows_of(loader)) == set(kept[WEIGHTS[kept] > 0].tolist())
    order = kept[[3, 1, 3]]
    assert rows_of(load(pack, order, source="imagenet")) == order.tolist()
    assert rows_of(load(pack, lambda _: order, source="imagenet")) == order.tolist()


def test_options_are_read_once_and_kept_in_copies(pack):
    weights, rows = WEIGHTS.copy(), ROWS.copy()
    loaders = [load(pack, weights), load(pack, rows), load(pack, by_epoch), load(pack, Repeated(2))]
    expected = [rows_of(load(pack, order)) for order in (WEIGHTS, ROWS, by_epoch, Repeated(2))]
    weights[:], rows[:] = 1, 1
    again = pickle.loads(pickle.dumps(loaders))
    for loader, other, found in zip(loaders, again, expected, strict=True):
        assert rows_of(loader) == rows_of(other) == found
    assert isinstance(loaders[0].order, Weighted)
    assert not loaders[0].shuffle


@pytest.mark.parametrize("name", ORDERS)
def test_a_state_of_another_order_is_refused(pack, name):
    state = load(pack, ORDERS[name]).state_dict()
    others = [None, Weighted(WEIGHTS + 1), Repeated(5), ROWS[::-1], Weighted(WEIGHTS, False, 49)]
    for other in others:
        with pytest.raises(StateError, match=r"another loader: .*order"):
            load(pack, other).load_state_dict(state)


@pytest.mark.parametrize(
    ("order", "text"),
    [
        (np.ones(89), r"weights for each of the 90 rows of the split.*\(89,\)"),
        (-np.ones(COUNT), "at least 0 that are finite, found -1.0 in row 0"),
        (np.where(np.arange(COUNT) == 4, np.nan, 1), "found nan in row 4"),
        (np.zeros(COUNT), "some weight above 0, found 90 times 0"),
        (np.where(np.arange(COUNT) < 2, 1.0, 0), r"among the \d+ rows of the loader, found none"),
        ([90], "rows of the split that the loader has, found 90"),
        ([3, -1], "found -1"),
        ([[1, 2]], "whole numbers in one dimension"),
        ([], "at least one"),
        (np.ones(COUNT, bool), "whole numbers"),
        ([0], "found 0, which is not there or was left out by source"),
        ("weighted", "'balanced' if it is a word, found 'weighted'"),
        (3, "whole numbers in one dimension"),
        ([[1], [2, 3]], "order to become an array"),
    ],
)
def test_bad_orders_are_refused(pack, order, text):
    with pytest.raises(ArgumentError, match=text):
        load(pack, order, source="imagenet")


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Weighted([]), "in one dimension"),
        (lambda: Weighted([["a"]]), "become numbers"),
        (lambda: Weighted([1], replacement=None), "replacement to be True or False"),  # type: ignore[arg-type]
        (lambda: Weighted([1], num_samples=0), "num_samples to be a whole number of at least 1"),
        (lambda: Repeated(0), "k to be a whole number of at least 1"),
        (lambda: Repeated(2**16 + 1), "k to be"),
        (lambda: Repeated(2, num_samples=1.5), "num_samples"),  # type: ignore[arg-type]
    ],
)
def test_bad_choices_are_refused_where_they_are_made(make, text):
    with pytest.raises(ArgumentError, match=text):
        make()


def test_what_only_the_loader_can_see_is_refused_there(pack):
    few = np.arange(COUNT) < 50
    with pytest.raises(ArgumentError, match="found 50 for 90: pass num_samples=50"):
        Loader(pack, order=Weighted(few, replacement=False))
    for labels in (np.ones(COUNT), np.ones((COUNT, 2), int), np.arange(COUNT) - 1):
        with pytest.raises(ArgumentError, match=r"'balanced' goes by labels.*Weighted"):
            Loader(pack, order="balanced", labels=labels)
    for shuffle in (True, False):
        with pytest.raises(ArgumentError, match=f"expected no shuffle, found {shuffle}"):
            Loader(pack, order="balanced", shuffle=shuffle)


def test_a_function_that_returns_no_rows_is_told_of_by_epoch(pack):
    loader = load(pack, lambda epoch: [epoch, 10**6])
    for ask in (len, iter):
        with pytest.raises(ArgumentError, match=r"order\(0\) to be rows.*found 1000000"):
            ask(loader)


def test_a_row_cannot_come_more_often_than_the_counter_has_numbers_for(pack):
    often = np.zeros(2**16, np.int64)
    assert check_order(often, COUNT) is not None
    small: dict[str, Any] = {"dtype": "uint8", "batch_size": 2**16, "augment": None}
    [(_, _, index)] = load(pack, often, **small)
    assert len(index) == 2**16
    with pytest.raises(ArgumentError, match="up to 65536 times in an epoch, found one 65537 times"):
        iter(load(pack, np.zeros(2**16 + 1, np.int64), **small))


def test_public_names():
    assert cinicpack.Weighted is Weighted
    assert repr(Repeated(2)) == "Repeated(k=2, num_samples=None)"
