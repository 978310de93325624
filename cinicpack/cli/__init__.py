"""The command line: one thin function per command, in `packs`, `making` and `looking`.

Each function adds the arguments of its command to a parser and returns what runs it. Its docstring
is the help text; what it needs is imported when it runs, so that ``--help`` answers at once.
"""

import argparse
import io
import os
import sys
import warnings
from collections.abc import Sequence
from textwrap import dedent
from typing import Any, Final, NoReturn

from cinicpack import __version__
from cinicpack.cli import looking, making, packs
from cinicpack.cli.options import Command
from cinicpack.errors import BadImagesError, CinicPackError
from cinicpack.paths import why_missing
from cinicpack.terminal import flush, printable, tell

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return 0 on success, 1 on an error, 2 on wrong usage, 130 on Ctrl-C."""
    _fill_standard_numbers()
    try:
        return _run(_make_parser().parse_args(argv))
    except KeyboardInterrupt as interrupt:
        tell("\n".join(["cinicpack: interrupted", *_notes_of(interrupt)]))
        return 130


def _fill_standard_numbers() -> None:
    """Open the null device where a standard stream was closed when the program started.

    Otherwise the next file to be opened would get that number: libraries would write their messages
    into it, and a worker process take it for its own standard error.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number, which is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


class _Parser(argparse.ArgumentParser):
    """A parser that repeats nothing of the arguments as it is."""

    def error(self, message: str) -> NoReturn:
        super().error(printable(message))


def _make_parser() -> _Parser:
    parser = _Parser(
        prog="cinicpack",
        description="Convert CINIC-10 once, then train on it as fast as memory allows.",
        allow_abbrev=False,
        epilog="'cinicpack COMMAND --help' shows an example of each.",
    )
    parser.add_argument("--version", action="version", version=f"cinicpack {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in _COMMANDS:
        summary, _, details = dedent(" " * 4 + (command.__doc__ or "")).partition("\n\n")
        subparser = commands.add_parser(
            command.__name__.rstrip("_"),
            help=summary[0].lower() + summary[1:].rstrip("."),
            description=summary,
            epilog=details,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            # No abbreviations: an option added later must not break a script.
            allow_abbrev=False,
        )
        subparser.set_defaults(run=command(subparser))
    return parser


def _run(arguments: argparse.Namespace) -> int:
    """Run the command that was chosen, and say on standard error what goes wrong."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Escape what cannot be encoded, as Python does on standard error: file names may be any
        # bytes.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            status: int = arguments.run(arguments)
        flush()
    except BrokenPipeError:
        # The reader of standard output had enough.
        return 1
    except (CinicPackError, OSError, MemoryError, Warning) as error:
        text = "\n".join([_text_of(error), *_notes_of(error)])
        tell(f"cinicpack: error: {text}")
        return 1
    return status


def _text_of(error: Exception) -> str:
    if isinstance(error, BadImagesError):
        # List all images that are bad: the text of the exception has only the first few.
        lines = [str(error).partition("\n")[0]]
        return "\n".join(lines + [f"  {path}: {reason}" for path, reason in error.images])
    if isinstance(error, FileNotFoundError) and isinstance(error.filename, str):
        return "; ".join(filter(None, [str(error), why_missing(error.filename)]))
    return str(error) or "not enough memory"


def _notes_of(error: BaseException) -> list[str]:
    """Return what was added to an error on its way, such as what could not be cleared up."""
    return getattr(error, "__notes__", [])


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    tell(f"cinicpack: warning: {message}")


# All commands, in the order in which the help lists them.
_COMMANDS: Final[tuple[Command, ...]] = (
    packs.pack,
    packs.info,
    packs.verify,
    packs.bench,
    packs.demo,
    making.unpack,
    making.cifar10,
    looking.shift,
    making.compile_,
    packs.download,
    looking.stats,
    looking.contributors,
    looking.sheet,
    looking.histogram,
    looking.audit,
)
