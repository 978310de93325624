"""The terminal: all that people read goes out here, with control characters escaped."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from cinicpack.errors import DestinationError

__all__ = ["flush", "printable", "progress_bar", "say", "show", "show_json", "tell"]


def printable(text: str) -> str:
    r"""Escape what is neither a line break nor printable, as ``repr`` does.

    Names of files, manifests and servers may have characters in them that clear a screen, ring, or
    turn the order of letters round.

    >>> printable("cat\x1b[2J\u202egnp.exe\nship")
    'cat\\x1b[2J\\u202egnp.exe\nship'
    """
    if text.replace("\n", "").isprintable():
        return text
    return "".join(
        char if char == "\n" or char.isprintable() else char.encode("unicode_escape").decode()
        for char in text
    )


def show(text: str = "", *, end: str = "\n", at_once: bool = False) -> None:
    """Print a result on standard output, if there is one.

    Raises `DestinationError` where it cannot be written, and ``BrokenPipeError`` where its reader
    has gone.
    """
    if (stream := _open_stream(sys.stdout)) is not None:
        with _naming_output():
            print(printable(text), end=end, flush=at_once, file=stream)


def show_json(value: Any, *, indent: int | None = 2) -> None:
    """Print a result as JSON, which has escapes of its own."""
    # The only control character that `json.dumps` leaves as it is.
    show(json.dumps(value, indent=indent).replace("\x7f", "\\u007f"))


def tell(text: str) -> None:
    """Print a line about what happens on standard error, if there is one that takes it.

    What cannot be told must not end what is done.
    """
    if (stream := _open_stream(sys.stderr)) is not None:
        with suppress(OSError):
            print(printable(text), file=stream)


def say(text: str, *, progress: bool) -> None:
    """Do as `tell` does, above a bar, but only where progress is to be shown."""
    from tqdm import tqdm

    if progress and (stream := _open_stream(sys.stderr)) is not None:
        with suppress(OSError):
            tqdm.write(printable(text), file=stream)


def flush() -> None:
    """Write what standard output holds back; raises what `show` does."""
    if (stream := _open_stream(sys.stdout)) is not None:
        with _naming_output():
            stream.flush()


def progress_bar(*, shown: bool, **options: Any) -> Any:
    """Make a bar of tqdm's; one that is shown is seen only if standard error is a terminal."""
    from tqdm import tqdm

    is_seen = shown and _open_stream(sys.stderr) is not None
    return tqdm(**options, disable=None if is_seen else True)


def _open_stream(stream: TextIO | None) -> TextIO | None:
    """Return a stream if it takes something.

    Python has None for one that was closed when the program started, and for both in a window of
    its own.
    """
    return None if stream is None or stream.closed else stream


@contextmanager
def _naming_output() -> Iterator[None]:
    """Name standard output in errors of the system, which do not know the name."""
    try:
        yield
    except OSError as error:
        # Python writes the rest of its buffer when it exits, and would fail again; the null device
        # takes it. A stream in memory has no descriptor.
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise
        raise DestinationError(
            error.errno, f"standard output: it cannot be written: {error.strerror}"
        ) from error
