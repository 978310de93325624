import pytest
from hypothesis import given
from hypothesis import strategies as st

from cinicpack import cinic10
from cinicpack.cinic10 import (
    CLASSES,
    Origin,
    Provenance,
    format_name,
    is_cinic10,
    parse_name,
    parse_names,
)

numbers = st.integers(0, 999_999_999)


def test_the_counts_agree():
    assert cinic10.PER_CLASS == cinic10.CIFAR10_PER_CLASS + cinic10.IMAGENET_PER_CLASS == 9_000
    assert cinic10.PER_CLASS * len(cinic10.CLASSES) * len(cinic10.SPLITS) == 270_000
    assert sorted(cinic10.CLASSES) == list(cinic10.CLASSES)
    assert len(set(cinic10.CLASSES)) == 10


def test_the_numbers_of_origins_are_those_of_the_format():
    assert [(origin.name, origin.value) for origin in Origin] == [
        ("UNKNOWN", 0),
        ("CIFAR10_TRAIN", 1),
        ("CIFAR10_TEST", 2),
        ("IMAGENET", 3),
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cifar10-train-49999.png", (Origin.CIFAR10_TRAIN, 0, 49_999)),
        ("cifar10-test-0.png", (Origin.CIFAR10_TEST, 0, 0)),
        ("cifar-10-train-7.png", (Origin.CIFAR10_TRAIN, 0, 7)),
        ("cifar-10-test-0010.png", (Origin.CIFAR10_TEST, 0, 10)),
        ("n02691156_10153.png", (Origin.IMAGENET, 2_691_156, 10_153)),
        ("n00000000_0.png", (Origin.IMAGENET, 0, 0)),
    ],
)
def test_names_of_cinic10(name, expected):
    assert parse_name(name) == expected


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a.png",
        "cifar10-train-.png",
        "cifar10-valid-1.png",
        "cifar100-train-1.png",
        "cifar--10-train-1.png",
        "cifar10-train-1.jpg",
        "cifar10-train-1.PNG",
        "cifar10-train-1.png\n",
        "cifar10-train--1.png",
        "cifar10-train-1234567890.png",
        "n2691156_1.png",
        "n026911560_1.png",
        "n02691156_1234567890.png",
        "n02691156-1.png",
        "xn02691156_1.png",
        "n0269115\u0661_1.png",
        "cifar10-train-\u0661.png",
        "train/cifar10-train-1.png",
    ],
)
def test_other_names(name):
    assert parse_name(name) == (Origin.UNKNOWN, 0, 0)


@given(st.sampled_from([Origin.CIFAR10_TRAIN, Origin.CIFAR10_TEST]), numbers)
def test_cifar_names_survive(origin, number):
    provenance = Provenance(origin, 0, number)
    assert parse_name(format_name(provenance)) == provenance


@given(st.integers(0, 99_999_999), numbers)
def test_imagenet_names_survive(synset, number):
    provenance = Provenance(Origin.IMAGENET, synset, number)
    assert parse_name(format_name(provenance)) == provenance


@given(
    st.lists(
        st.text(st.characters(exclude_characters="/"))
        | st.from_regex(r"(n[0-9]{8}_|cifar-?10-(train|test)-)[0-9]{1,10}\.png", fullmatch=True)
    )
)
def test_names_are_parsed_together(names):
    assert parse_names(names) == [tuple(parse_name(name)) for name in names]


@given(st.text())
def test_any_text_is_a_name(name):
    origin, synset, number = parse_name(name)
    assert 0 <= synset < 2**32
    assert 0 <= number < 2**32
    assert origin is not Origin.UNKNOWN or synset == number == 0


def test_the_unknown_has_no_name():
    with pytest.raises(ValueError, match=r"expected a known origin, found Origin\.UNKNOWN"):
        format_name(Provenance(Origin.UNKNOWN, 0, 0))


@pytest.mark.parametrize(
    ("classes", "origins", "expected"),
    [
        (CLASSES, [Origin.IMAGENET], True),
        (list(CLASSES), [1, 2, 3, 3], True),
        (CLASSES, [Origin.CIFAR10_TRAIN, Origin.CIFAR10_TEST], False),
        (CLASSES, [Origin.IMAGENET, Origin.UNKNOWN], False),
        (CLASSES, [Origin.UNKNOWN], False),
        (CLASSES, [], False),
        (CLASSES[:9], [Origin.IMAGENET], False),
        (CLASSES[::-1], [Origin.IMAGENET], False),
    ],
)
def test_cinic10_is_told_from_data_sets_with_its_classes(classes, origins, expected):
    assert is_cinic10(classes, origins) == expected
