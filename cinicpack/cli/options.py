"""Options that several commands have, and how the text of an option is parsed."""

import argparse
import math
from collections.abc import Callable
from typing import TypeAlias

__all__ = [
    "Command",
    "Run",
    "add_classes",
    "add_json",
    "add_seed",
    "add_selection",
    "add_source",
    "add_split",
    "add_workers",
    "parse_names",
    "parse_share",
    "whole_number",
]

# Runs a command with its parsed arguments and returns the exit status.
Run: TypeAlias = Callable[[argparse.Namespace], int]
# Adds the arguments of a command to its parser and returns what runs the command.
Command: TypeAlias = Callable[[argparse.ArgumentParser], Run]


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add the option that makes a command speak to programs."""
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def add_workers(parser: argparse.ArgumentParser, kind: str = "threads") -> None:
    """Add the option that says how many threads or processes work."""
    parser.add_argument(
        "--workers", type=whole_number(0), metavar="N", help=f"{kind} (default: the cores)"
    )


def add_split(
    parser: argparse.ArgumentParser,
    default: str | None = None,
    text: str = "these splits only: train,valid",
) -> None:
    """Add the option that names splits, which becomes ``"train+valid"``."""
    parser.add_argument(
        "--split",
        "--splits",
        type=lambda names: "+".join(parse_names(names)),
        default=default,
        metavar="SPLITS",
        help=text,
    )


def add_source(parser: argparse.ArgumentParser) -> None:
    """Add the option that names where images were taken from."""
    parser.add_argument("--source", choices=("cifar10", "imagenet"), help="this part only")


def add_selection(parser: argparse.ArgumentParser) -> None:
    """Add the options that name splits and a source."""
    add_split(parser)
    add_source(parser)


def add_classes(parser: argparse.ArgumentParser, name: str, other: str) -> None:
    """Add the option that names classes, in both spellings."""
    parser.add_argument(
        name,
        other,
        dest="classes",
        type=parse_names,
        metavar="CLASSES",
        help="these classes only: cat,dog",
    )


def add_seed(parser: argparse.ArgumentParser, text: str) -> None:
    """Add the option that is a seed, of the same range as a `Loader`'s."""
    parser.add_argument("--seed", type=whole_number(0, 2**64), default=0, metavar="N", help=text)


def parse_names(text: str) -> list[str]:
    """Parse what a comma-separated option lists."""
    return [name for name in text.split(",") if name]


def whole_number(low: int, stop: int | None = None) -> Callable[[str], int]:
    """Make what parses an option that is a whole number in [low, stop)."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = None
        if number is None or number < low or (stop is not None and number >= stop):
            span = f"of at least {low}" + ("" if stop is None else f" and below {stop}")
            raise argparse.ArgumentTypeError(f"expected a whole number {span}, found {text!r}")
        return number

    return parse


def parse_share(text: str) -> float:
    """Parse an option that is between 0 and 1."""
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError(f"expected a number between 0 and 1, found {text!r}")
    return share
