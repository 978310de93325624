"""Other processes, as Linux shows them."""

import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.bench_convert import list_family

__all__ = ["is_there", "list_descendants", "wait_until_gone"]


def list_descendants(pid: int) -> list[int]:
    """List the descendants of a process: in the order of their start, each before its children."""
    return list(list_family(pid))[1:]


def is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def wait_until_gone(pids: Sequence[int]) -> None:
    deadline = time.monotonic() + 30
    while any(map(is_there, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
