"""The loaders' threads, as tests look at them."""

import threading
import time

__all__ = ["threads", "wait_for_no_threads"]


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "cinicpack"]


def wait_for_no_threads() -> None:
    """Give threads that nobody waited for the time to end."""
    deadline = time.monotonic() + 5
    while threads() and time.monotonic() < deadline:
        time.sleep(0.001)
    assert not threads()
