"""A memory cgroup for a test, where this process may make one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ["Group", "making_group"]

_ROOTS = {
    Path("/sys/fs/cgroup/memory"): "memory.limit_in_bytes",
    Path("/sys/fs/cgroup"): "memory.max",
}


class Group:
    """A group, whose limit a process sets that has entered it.

    Attributes:
        entry: the file to which a process writes its number to enter.
        limit: the file to which the limit is written, in bytes.
    """

    def __init__(self, folder: Path, limit: str) -> None:
        self.entry = folder / "cgroup.procs"
        self.limit = folder / limit


@contextmanager
def making_group() -> Iterator[Group]:
    """Make a group, and remove it at the end; skip the test with the reason where none can be."""
    for root, limit in _ROOTS.items():
        folder = root / f"cinicpack-test-{os.getpid()}"
        try:
            folder.mkdir()
        except OSError as error:
            reason = str(error)
            continue
        try:
            if (folder / limit).exists():
                yield Group(folder, limit)
                return
            reason = f"{folder} has no {limit}"
        finally:
            folder.rmdir()
    pytest.skip(f"no memory cgroup can be made here: {reason}")
