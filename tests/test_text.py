import pytest
from hypothesis import given
from hypothesis import strategies as st

from cinicpack.text import some, table

CELLS = st.text("abcÄ,.1", max_size=9)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, ""),
        (1, "0"),
        (3, "0, 1, 2"),
        (4, "0, 1, 2 and 1 more"),
        (1237, "0, 1, 2 and 1,234 more"),
    ],
)
def test_what_is_not_shown_is_counted(count, text):
    assert some(range(count), 3) == text


def test_names_that_cannot_be_printed_are_quoted():
    assert some(["a\udcff", "b'"], quoted=True) == "'a\\udcff', \"b'\""


@given(
    st.integers(1, 4).flatmap(
        lambda n: st.tuples(
            st.lists(st.lists(CELLS, min_size=n, max_size=n), min_size=1, max_size=4),
            st.lists(st.integers(0, 12), max_size=n),
            st.sets(st.integers(0, n - 1)),
        )
    )
)
def test_every_cell_stands_in_its_column(table_of):
    rows, widths, left = table_of
    lines = table(rows, widths, left)
    assert len(lines) == len(rows)
    start = 0
    for number, column in enumerate(zip(*rows, strict=True)):
        width = max(map(len, column), default=0)
        if number < len(widths):
            width = max(width, widths[number])
        for cell, line in zip(column, lines, strict=True):
            assert line == line.rstrip()
            assert line.ljust(99)[start : start + width] == (
                cell.ljust(width) if number in left else cell.rjust(width)
            )
            assert line.ljust(99)[start + width : start + width + 2].strip() == ""
        start += width + 2
