"""The cores that this process may use: its affinity, the quota of its container, Python's word."""

import math
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

from cinicpack.arguments import read_count

__all__ = ["usable_cores"]

# What Linux says of this process.
_PROC: Final = Path("/proc/self")


def usable_cores() -> int:
    """Count the cores that this process may use.

    ``PYTHON_CPU_COUNT`` says how many, which Python by itself knows from version 3.13 on.
    Otherwise they are those of its affinity, but no more than its control groups have time for: the
    quota of a container, rounded up.

    Raises `ArgumentError` if ``PYTHON_CPU_COUNT`` is no number of cores.
    """
    if (said := read_count("PYTHON_CPU_COUNT")) is not None:
        return said
    system: Any = os  # not every system and version has these functions
    if hasattr(os, "process_cpu_count"):
        cores = system.process_cpu_count() or 1
    elif hasattr(os, "sched_getaffinity"):
        cores = len(system.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, math.ceil(min(cores, _read_quota(_PROC))))


@cache
def _read_quota(process: Path) -> float:
    """Read how many cores' time the control groups of a process have; infinity: any."""
    try:
        return min(_list_quotas(process), default=math.inf)
    except (OSError, ValueError):
        # No Linux, or one that shows this otherwise.
        return math.inf


def _list_quotas(process: Path) -> Iterator[float]:
    """Give the quota of each group that the process is in, and of each group above that."""
    # A line is "ID:CONTROLLERS:PATH"; that of version 2 has no controllers.
    paths: dict[str, str] = {}
    for line in (process / "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        paths |= dict.fromkeys(controllers.split(","), path)
    for line in (process / "mountinfo").read_text().splitlines():
        mount, _, rest = line.partition(" - ")
        kind, *_, options = rest.split(" ")
        controller = {"cgroup": "cpu", "cgroup2": ""}.get(kind)
        if controller not in paths or (controller and controller not in options.split(",")):
            continue
        root, point = mount.split(" ")[3:5]
        folder = Path(point)
        # In a container the path may be the host's, of which the container's file system has no
        # more than the last group.
        inner = os.path.relpath(paths[controller], root)
        yield from _quota_of(folder)
        for part in Path(inner).parts:
            folder /= part
            yield from _quota_of(folder)


def _quota_of(folder: Path) -> Iterator[float]:
    """Give the quota of one group, if it has one."""
    if (version2 := folder / "cpu.max").is_file():
        quota, period = version2.read_text().split()
    elif (version1 := folder / "cpu.cfs_quota_us").is_file():
        quota, period = version1.read_text(), (folder / "cpu.cfs_period_us").read_text()
    else:
        return
    if quota != "max" and int(quota) > 0:
        yield int(quota) / int(period)
