"""Text for people: lists that end in "and 7 more", and tables."""

import unicodedata
from collections.abc import Collection, Sequence

__all__ = ["counted", "one_line", "some", "table"]


def counted(number: int, one: str, several: str | None = None) -> str:
    """Write a number with what is counted, ``several`` of it (by default with an s) unless one.

    >>> counted(1, "image"), counted(1200, "image"), counted(2, "image is", "images are")
    ('1 image', '1,200 images', '2 images are')
    """
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def one_line(error: BaseException) -> str:
    r"""Write what a library says of an error in one line, or its type where it says nothing.

    >>> one_line(OSError("Invalid data\nDeserializing page header failed.\n")), one_line(EOFError())
    ('Invalid data Deserializing page header failed.', 'EOFError')
    """
    return " ".join(str(error).split()) or type(error).__name__


def some(items: Sequence[object], shown: int = 5, *, quoted: bool = False) -> str:
    r"""List the first items, and say how many more there are.

    Args:
        items: what is listed, by its ``str``.
        shown: how many at most.
        quoted: write literals instead, which can be printed whatever is in them: names of files
            may be no UTF-8.

    >>> some(["a", "b", "c"], 2)
    'a, b and 1 more'
    >>> some(["cafe\N{COMBINING ACUTE ACCENT}"])
    'cafe\\u0301'
    """
    more = f" and {len(items) - shown:,} more" if len(items) > shown else ""
    return ", ".join(_tell_apart(repr(i) if quoted else str(i)) for i in items[:shown]) + more


def _tell_apart(text: str) -> str:
    """Escape letters with the accents apart from them, which look as those that are one."""
    if unicodedata.is_normalized("NFC", text):
        return text
    return text.encode("ascii", "backslashreplace").decode()


def table(
    rows: Sequence[Sequence[str]], widths: Sequence[int] = (), left: Collection[int] = (0,)
) -> list[str]:
    """Lay out rows of cells as lines, columns two spaces apart, without trailing blanks.

    Args:
        rows: cells, as many in every row.
        widths: of the first columns at least, in characters; the widest cell may be wider.
        left: numbers of the columns whose cells begin at the left; all others end at the right.

    >>> table([("", "images"), ("train", "90,000")], widths=(6,))
    ['        images', 'train   90,000']
    """
    columns = list(zip(*rows, strict=True))
    spans = [max(map(len, column)) for column in columns]
    spans[: len(widths)] = map(max, spans, widths)
    pads = [str.ljust if number in left else str.rjust for number in range(len(columns))]
    return [
        "  ".join(
            pad(cell, span) for pad, cell, span in zip(pads, row, spans, strict=True)
        ).rstrip()
        for row in rows
    ]
