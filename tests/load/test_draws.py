from itertools import pairwise

import numpy as np
import pytest

from cinicpack.load import draws
from cinicpack.load.augment import Augment
from cinicpack.load.draws import (
    BALANCED,
    COLUMNS,
    CROP,
    CUTOUT,
    FLIP,
    MIX,
    ORDER,
    VERTICAL,
    WEIGHTED,
    plan_draws,
)  # fmt: skip


def plan(augment):
    table = plan_draws(augment, 48, 36)
    assert table.dtype == np.int64
    return dict(zip(COLUMNS, map(tuple, table.tolist()), strict=True))


def test_purposes_never_change():
    assert tuple(range(8)) == (CROP, CUTOUT, FLIP, ORDER, VERTICAL, BALANCED, WEIGHTED, MIX)


@pytest.mark.parametrize("name", COLUMNS)
def test_every_column_has_a_constant_that_says_where_it_is(name):
    assert COLUMNS[getattr(draws, name.upper())] == name


def test_nothing_is_drawn_for_nothing():
    assert not any(values for _, _, values in plan(Augment(0, flip=None)).values())


def test_a_column_has_as_many_values_as_there_are_choices():
    found = plan(Augment(3, flip="random", cutout=5, vertical_flip=True))
    assert {name: values for name, (_, _, values) in found.items()} == {
        "dy": 7, "dx": 7, "mirror": 2, "cy": 48, "cx": 36, "upside_down": 2,
    }  # fmt: skip


def test_no_word_is_used_twice():
    for flip in ("random", "alternating"):
        used = [tuple(row[:2]) for row in plan(Augment(cutout=5, flip=flip)).values()]
        assert len(set(used)) == len(COLUMNS)


def test_columns_of_a_purpose_stand_together():
    """So that the kernel makes their words once."""
    for flip in (None, "random", "alternating"):
        drawn = [row[0] for row in plan(Augment(cutout=5, flip=flip)).values() if row[2]]
        changes = sum(a != b for a, b in pairwise(drawn))
        assert changes == len(set(drawn)) - 1
