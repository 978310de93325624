"""The memory that this process may still use: that of the machine, within the limits of cgroups."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["find_available"]

# By type of file system: the limit, what is used of it, and what of that is the page cache, which
# gives way when memory is needed. Version 1 counts what is in groups below by names of its own.
_NAMES: Final = {
    "cgroup2": ("memory.max", "memory.current", ("inactive_file", "active_file")),
    "cgroup": (
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        ("total_inactive_file", "total_active_file"),
    ),
}
_NO_LIMIT: Final = 2**60


class _Group(NamedTuple):
    """A cgroup that this process is in, or one around it."""

    folder: Path
    kind: str


def find_available(root: Path = Path("/")) -> int | None:
    """Say how many bytes this process may still use, files in the page cache among them.

    That is what the machine has left, or what the narrowest limit of the cgroups leaves that the
    process is in, of version 1 or 2. None: the system does not say.

    Args:
        root: where ``proc`` and ``sys`` are.

    >>> import sys
    >>> sys.platform != "linux" or find_available() > 0
    True
    """
    groups = _find_groups(root, _read(root / "proc/self/cgroup"))
    found = [left for group in groups if (left := _read_left(group)) is not None]
    # Kernels before 3.14 do not say what is available.
    _, is_said, after = _read(root / "proc/meminfo").partition("MemAvailable:")
    if is_said:
        found.append(int(after.split(maxsplit=1)[0]) * 1024)
    return min(found, default=None)


def _read_left(group: _Group) -> int | None:
    """Say what the limit of a group leaves; None: it has no limit."""
    limit, used, cached = _NAMES[group.kind]
    # Version 2 says "max" where there is no limit, version 1 a number of 63 bits.
    found = _read(group.folder / limit).strip()
    if not found.isdigit() or int(found) >= _NO_LIMIT:
        return None
    lines = _read(group.folder / "memory.stat").splitlines()
    fields = {name: int(value) for name, value in map(str.split, lines)}
    left = int(found) - int(_read(group.folder / used) or 0)
    return max(0, left + sum(fields.get(name, 0) for name in cached))


def _read(file: Path) -> str:
    """Read a file of the system; one that is not there, or not for us to read, is empty."""
    try:
        return file.read_text()
    except OSError:
        return ""


@cache
def _find_groups(root: Path, own: str) -> tuple[_Group, ...]:
    """Find the groups that may limit a process, by what its ``/proc/self/cgroup`` says."""
    mounts = _read(root / "proc/self/mountinfo").splitlines()
    # ID:CONTROLLERS:PATH, where version 2 has no controllers.
    entries = [line.split(":", 2) for line in own.splitlines()]
    paths = {
        "cgroup" if names else "cgroup2": path
        for _, names, path in entries
        if not names or "memory" in names.split(",")
    }
    return tuple(group for line in mounts for group in _list_groups(root, line, paths))


def _list_groups(root: Path, mount: str, paths: dict[str, str]) -> Iterator[_Group]:
    """List the groups of this process from its own up to the root of a mount."""
    before, _, after = mount.partition(" - ")
    shown, place = before.split()[3:5]
    kind, _, options = after.split()[:3]
    if kind not in paths or (kind == "cgroup" and "memory" not in options.split(",")):
        return
    # In a container the mount may show a group of the host as its root, under whose path the
    # process is listed; or one that the path does not lie in, and then the process is in the root.
    path = Path(paths[kind])
    inside = path.relative_to(shown) if path.is_relative_to(shown) else Path()
    top = root / place.lstrip("/")
    for part in (inside, *inside.parents):
        yield _Group(top / part, kind)
