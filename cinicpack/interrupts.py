"""Interrupts: Ctrl-C waits for what must not be left half done, such as an import."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["holding_interrupts"]


@contextmanager
def holding_interrupts() -> Iterator[None]:
    """Let an interrupt that comes within the block take effect at its end.

    A module whose import was broken off stays partially initialised: torch cannot be imported again
    in that process.

    >>> with holding_interrupts():
    ...     import json
    """
    previous: Any = signal.getsignal(signal.SIGINT)
    # Only the main thread gets interrupts and may say who handles them; a handler that is not
    # Python's own (None) could not be put back.
    if threading.current_thread() is not threading.main_thread() or previous is None:
        yield
        return
    came: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        came.append(number)

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
        if came:
            signal.raise_signal(signal.SIGINT)
