"""Checks of arguments, and of what the environment says, that every room needs."""

import math
import operator
import os
from numbers import Real
from typing import Any

from cinicpack.errors import ArgumentError

__all__ = ["check_int", "check_number", "read_count"]


def check_int(name: str, value: Any, low: int, stop: int | None = None) -> int:
    """Return ``value`` as an int in [low, stop); raises `ArgumentError` if it is none.

    >>> check_int("seed", 7, 0)
    7
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or number < low or (stop and number >= stop):
        span = f"a whole number of at least {low}" + (f" and below {stop}" if stop else "")
        raise ArgumentError(f"expected {name} to be {span}, found {value!r}")
    return number


def check_number(name: str, value: Any, low: float, high: float, *, ends: bool = False) -> float:
    """Return ``value`` as a float between two others; raises `ArgumentError` if it is none.

    Args:
        name: what the error calls it.
        value: what is checked.
        low: what it is above.
        high: what it is below.
        ends: accept ``low`` and ``high`` too.

    >>> check_number("alpha", 1, 0, float("inf"))
    1.0
    """
    other = isinstance(value, bool) or not isinstance(value, Real)
    number = math.nan if other else float(value)
    if not (low < number < high or (ends and number in (low, high))):
        above = f"above {low}" + (f" and below {high}" if high < math.inf else "")
        span = f"from {low} to {high}" if ends else above
        raise ArgumentError(f"expected {name} to be a number {span}, found {value!r}")
    return number


def read_count(name: str) -> int | None:
    """Return the number that an environment variable says, at least 1; None: unset, or empty.

    Raises `ArgumentError` if it is none.

    >>> import os
    >>> os.environ["WORLD_SIZE"] = " 8 "
    >>> read_count("WORLD_SIZE")
    8
    >>> os.environ["WORLD_SIZE"] = ""
    >>> read_count("WORLD_SIZE")
    >>> del os.environ["WORLD_SIZE"]
    """
    said = os.environ.get(name, "").strip()
    if not said:
        return None
    if not (said.isascii() and said.isdecimal() and int(said) > 0):
        raise ArgumentError(
            f"expected the environment variable {name} to be a whole number of at least 1, found "
            f"{said!r}; correct or unset it"
        )
    return int(said)
