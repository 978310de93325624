import numpy as np
import pytest

from cinicpack.arguments import check_int, check_number
from cinicpack.errors import ArgumentError


@pytest.mark.parametrize("value", [3, np.uint8(3), np.int64(3)])
def test_whole_numbers_become_int(value):
    assert check_int("n", value, 3, 4) == 3
    assert type(check_int("n", value, 0)) is int


@pytest.mark.parametrize("value", [2, 4, 3.0, True, "3", None])
def test_other_whole_numbers_are_refused(value):
    with pytest.raises(ArgumentError, match=rf"expected n .* 3 and below 4, found {value!r}"):
        check_int("n", value, 3, 4)


@pytest.mark.parametrize("value", [1, 0.5, np.float32(0.5), np.int8(1)])
def test_numbers_become_float(value):
    assert check_number("alpha", value, 0, np.inf) == value
    assert type(check_number("alpha", value, 0, 1, ends=True)) is float


@pytest.mark.parametrize("value", [0, -1, np.inf, np.nan, True, "1", None, 1j, [1]])
def test_other_numbers_are_refused(value):
    with pytest.raises(ArgumentError, match=r"expected alpha to be a number above 0, found"):
        check_number("alpha", value, 0, np.inf)
    if value != 0:
        with pytest.raises(ArgumentError, match=r"expected alpha to be a number from 0 to 0.5"):
            check_number("alpha", value, 0, 0.5, ends=True)
