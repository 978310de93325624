"""The commands that study a pack: one thin function per command, as in `cinicpack.cli`."""

import argparse
from collections.abc import Callable
from typing import Final

__all__ = ["COMMANDS", "Command", "Run", "add_json", "split_names"]

Run = Callable[[argparse.Namespace], int]
Command = Callable[[argparse.ArgumentParser], Run]


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add the option that makes a command speak to programs."""
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def split_names(text: str) -> list[str]:
    """Split what a comma-separated option lists."""
    return [name for name in text.split(",") if name]


COMMANDS: Final[tuple[Command, ...]] = ()
