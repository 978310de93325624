import dataclasses
import json

import pytest

from cinicpack.errors import ArgumentError
from cinicpack.load.augment import Augment


def test_the_defaults_are_crop_4_and_flip():
    assert Augment() == Augment(
        crop_padding=4, padding_mode="constant", flip="random", cutout=0, vertical_flip=False
    )


def test_zeros_is_another_name_for_constant():
    assert Augment(padding_mode="zeros") == Augment(padding_mode="constant")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"crop_padding": -1}, "expected crop_padding .* at least 0 .* found -1"),
        ({"crop_padding": 2**30}, "below 1073741824, found 1073741824"),
        ({"crop_padding": True}, "found True"),
        ({"crop_padding": 4.0}, r"found 4\.0"),
        ({"cutout": -8}, "expected cutout .* found -8"),
        ({"cutout": "8"}, "expected cutout .* found '8'"),
        ({"padding_mode": "edge"}, "expected padding_mode .* found 'edge'"),
        ({"padding_mode": []}, r"expected padding_mode .* found \[\]"),
        ({"vertical_flip": 1}, "expected vertical_flip .* found 1"),
        ({"flip": True}, "expected flip .* found True"),
        ({"flip": "vertical"}, "expected flip .* found 'vertical'"),
    ],
)
def test_anything_else_is_refused(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        Augment(**arguments)


def test_an_image_must_be_larger_than_what_is_reflected():
    Augment(4, "reflect").check_size(5, 9)
    Augment(9, "constant").check_size(5, 9)
    for height, width in ((4, 9), (9, 4), (3, 3)):
        with pytest.raises(ArgumentError, match=f"images of {height}x{width}, found 4"):
            Augment(4, "reflect").check_size(height, width)


def test_it_cannot_change_and_goes_through_json():
    augment = Augment(2, "reflect", None, 8)
    with pytest.raises(dataclasses.FrozenInstanceError):
        augment.cutout = 4  # type: ignore[misc]
    assert Augment(**json.loads(json.dumps(dataclasses.asdict(augment)))) == augment
    assert hash(augment) == hash(dataclasses.replace(augment))
