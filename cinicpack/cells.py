"""Cells of CSV files: quoted, and such that no spreadsheet takes one for a formula."""

from typing import Final

__all__ = ["format_cell", "shield", "unshield"]

# A spreadsheet reckons with what starts with one of these, or leaves out the last three first.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")
_SHIELD: Final = "'"


def format_cell(value: str | int) -> str:
    r"""Write a cell: text shielded, and in quotes if it has a comma, a quote or a line break.

    >>> format_cell(3), format_cell("cat"), format_cell("=1,2"), format_cell("a\rb")
    ('3', 'cat', '"\'=1,2"', '"a\rb"')
    """
    text = shield(value) if isinstance(value, str) else str(value)
    return '"' + text.replace('"', '""') + '"' if set(text) & set(',"\r\n') else text


def shield(text: str) -> str:
    """Put an apostrophe before what a spreadsheet would take for a formula.

    >>> shield("=A1.png"), shield("-"), shield("cat.png")
    ("'=A1.png", "'-", 'cat.png')
    """
    return _SHIELD + text if _is_formula(text) else text


def unshield(text: str) -> str:
    """Return what was given to `shield`.

    >>> unshield("'=A1.png"), unshield(shield("'=")), unshield("'cat'.png")
    ('=A1.png', "'=", "'cat'.png")
    """
    return text[1:] if text.startswith(_SHIELD) and _is_formula(text) else text


def _is_formula(text: str) -> bool:
    # With apostrophes before it, too: otherwise one that a name begins with would be lost.
    return text.lstrip(_SHIELD).startswith(_FORMULA)
