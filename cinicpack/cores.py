"""The cores that this process may use."""

import os

__all__ = ["usable_cores"]


def usable_cores() -> int:
    """Count the cores that this process may run on: its affinity, where the system has one."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
