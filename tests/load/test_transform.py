import numpy as np
import pytest

from cinicpack.errors import ArgumentError
from cinicpack.load.augment import Augment
from cinicpack.load.batches import DTYPES
from cinicpack.load.transform import Transform, make_transform, to_parameters

MEAN, STD = (0.5, 0.25, 0.125), (0.5, 0.25, 2.0)


def make(augment=None, shape=(9, 7, 3), mean=MEAN, std=STD, normalized=True, dtype="float32"):
    return make_transform(augment, shape, mean, std, normalized=normalized, dtype=dtype)


def test_pixels_are_normalised_by_one_multiply_and_one_add():
    transform = make()
    np.testing.assert_array_equal(transform.scale, np.float32(1 / (255 * np.array(STD))))
    np.testing.assert_array_equal(transform.shift, np.array([-1, -1, -0.0625], np.float32))


def test_pixels_that_are_not_normalised_stay_between_0_and_1():
    transform = make(normalized=False)
    np.testing.assert_array_equal(transform.scale, np.full(3, np.float32(1 / 255)))
    assert transform.shift.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("dtype", "normalized", "expected"),
    [("float32", True, [0, 0, 0]), ("float32", False, MEAN), ("uint8", False, [128, 64, 32])],
)
def test_a_cutout_is_set_to_the_mean(dtype, normalized, expected):
    assert make(dtype=dtype, normalized=normalized).filler.tolist() == list(expected)


@pytest.mark.parametrize("std", [(1, 0, 1), (1, -1, 1), (1e-50, 1, 1), (1e50, 1, 1)])
def test_what_float32_cannot_hold_is_refused(std):
    with pytest.raises(ArgumentError, match="expected a mean and a std above 0"):
        make(std=std)


def test_an_augmentation_that_does_not_fit_is_refused():
    with pytest.raises(ArgumentError, match="crop_padding below 7"):
        make(Augment(7, "reflect"))


@pytest.mark.parametrize("dtype", DTYPES)
def test_parameters_are_the_transform_and_the_seed(dtype):
    transform = make(Augment(3, "reflect", "alternating", 5), normalized=False, dtype=dtype)
    transform = transform._replace(filler=np.array([1, 2, 3], transform.filler.dtype))
    [parameters] = to_parameters(transform, 2**64 - 1, dtype)
    assert parameters["seed"] == 2**64 - 1
    for name in set(Transform._fields) - {"filler"}:
        np.testing.assert_array_equal(parameters[name], getattr(transform, name))
    filler = {
        "float32": [1.0, 2.0, 3.0],
        "float16": [0x3C00, 0x4000, 0x4200],
        "bfloat16": [0x3F80, 0x4000, 0x4040],
        "uint8": [1, 2, 3],
    }
    assert parameters["filler"].tolist() == filler[dtype]
