import sys

import pytest

from tests.load.pieces import engine_for
from tests.load.stress import Stress


@pytest.mark.parametrize("cores", [2, 5])
def test_loaders_that_are_used_in_every_way_at_once_give_exactly_what_they_have_to(pack, cores):
    """In short; `python -m tests.load.stress` does the same with 10,000 epochs."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        with engine_for(cores):
            stress = Stress(pack, cores)
            stress.run(1500)
    finally:
        sys.setswitchinterval(before)
    assert stress.batches > 5000
