from pathlib import Path

import pytest

from cinicpack.memory import find_available

GB = 2**30


def make(root: Path, own: str, mounts: str, files: dict[str, str]) -> Path:
    """Make a system of 8 GB that are available, with cgroups."""
    everything = {
        "proc/meminfo": f"MemTotal: 9 kB\nMemAvailable: {8 * GB // 1024} kB\nHugePages_Total: 0\n",
        "proc/self/cgroup": own,
        "proc/self/mountinfo": f"31 23 0:28 / /proc rw - proc proc rw\n{mounts}",
        **files,
    }
    for path, text in everything.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def version_2(limit: int | str, used: int, cached: int) -> dict[str, str]:
    return {
        "memory.max": f"{limit}\n",
        "memory.current": f"{used}\n",
        "memory.stat": f"anon 5\ninactive_file {cached}\nactive_file 7\nshmem 3\n",
    }


def version_1(limit: int, used: int, cached: int) -> dict[str, str]:
    return {
        "memory.limit_in_bytes": f"{limit}\n",
        "memory.usage_in_bytes": f"{used}\n",
        "memory.stat": f"inactive_file 1\ntotal_inactive_file {cached}\ntotal_active_file 7\n",
    }


def at(folder: str, files: dict[str, str]) -> dict[str, str]:
    return {f"{folder}/{name}": text for name, text in files.items()}


UNIFIED = "35 31 0:32 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n"
MEMORY = "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"


@pytest.mark.parametrize(
    ("own", "mounts", "files", "expected"),
    [
        ("", "", {}, 8 * GB),
        # The page cache of a group counts as free.
        (
            "0::/user/job\n",
            UNIFIED,
            at("sys/fs/cgroup/user/job", version_2(4 * GB, 3 * GB, GB)),
            2 * GB + 7,
        ),
        # The narrowest limit is that of a group around it.
        (
            "0::/user/job\n",
            UNIFIED,
            at("sys/fs/cgroup/user/job", version_2("max", GB, 0))
            | at("sys/fs/cgroup/user", version_2(2 * GB, GB, 0)),
            GB + 7,
        ),
        ("0::/\n", UNIFIED, at("sys/fs/cgroup", version_2(GB, GB + 9, 0)), 0),
        (
            "4:memory:/job\n3:cpu:/\n",
            MEMORY,
            at("sys/fs/cgroup/memory/job", version_1(4 * GB, 3 * GB, GB))
            | at("sys/fs/cgroup/memory", version_1(2**63 - 4096, 5 * GB, 0)),
            2 * GB + 7,
        ),
        # A container, whose mount shows its own group of the host as the root.
        (
            "4:memory:/docker/123\n0::/docker/123\n",
            MEMORY.replace(" / ", " /docker/123 "),
            at("sys/fs/cgroup/memory", version_1(GB, 0, 0)),
            GB + 7,
        ),
        # Another controller of version 1 says nothing about memory.
        ("3:cpu:/job\n", MEMORY, at("sys/fs/cgroup/memory/job", version_1(GB, 0, 0)), 8 * GB),
    ],
)  # fmt: skip
def test_the_narrowest_limit_counts(tmp_path, own, mounts, files, expected):
    assert find_available(make(tmp_path, own, mounts, files)) == expected


def test_a_system_that_says_nothing_has_no_known_memory(tmp_path):
    assert find_available(tmp_path) is None
