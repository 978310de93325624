import os
import sys
from pathlib import Path

import pytest

import cinicpack
from cinicpack.cores import usable_cores
from cinicpack.errors import ArgumentError

SIXTEEN = frozenset(range(16))


@pytest.fixture(autouse=True)
def many_cores(monkeypatch):
    """A machine of 16 cores, whose environment says nothing."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: SIXTEEN)
    monkeypatch.setattr(os, "process_cpu_count", lambda: 16, raising=False)
    monkeypatch.delenv("PYTHON_CPU_COUNT", raising=False)


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """What Linux says of a process in control groups, of either version or of both."""
    process = tmp_path / "proc"
    process.mkdir()
    (process / "cgroup").write_text("")
    (process / "mountinfo").write_text("")
    monkeypatch.setattr("cinicpack.cores._PROC", process)
    return tmp_path


def mount(folder: Path, version: int, path: str, root: str = "/") -> Path:
    """Mount the groups of a version, in which the process is at ``path``."""
    point = folder / f"cgroup{version}"
    point.mkdir()
    name, kind, options = {
        1: ("4:cpu,cpuacct:", "cgroup", "rw,cpu,cpuacct"),
        2: ("0::", "cgroup2", "rw,nsdelegate"),
    }[version]
    with open(folder / "proc" / "cgroup", "a") as file:
        file.write(f"5:memory:/other\n{name}{path}\n")
    with open(folder / "proc" / "mountinfo", "a") as file:
        file.write("22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda rw\n")
        file.write(f"31 22 0:28 {root} {point} rw,nosuid shared:9 master:4 - {kind} x {options}\n")
    return point


def limit(group: Path, quota: str) -> None:
    """Give a group so many microseconds in each tenth of a second."""
    group.mkdir(parents=True, exist_ok=True)
    if "cgroup2" in str(group):
        (group / "cpu.max").write_text(f"{quota} 100000\n")
    else:
        (group / "cpu.cfs_quota_us").write_text(f"{quota.replace('max', '-1')}\n")
        (group / "cpu.cfs_period_us").write_text("100000\n")


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("quota", "cores"),
    [("200000", 2), ("150000", 2), ("1000", 1), ("1600001", 16), ("9900000", 16), ("max", 16)],
)
def test_the_quota_of_a_container_counts_rounded_up(groups, version, quota, cores):
    limit(mount(groups, version, "/"), quota)
    assert usable_cores() == cores


@pytest.mark.parametrize("version", [1, 2])
def test_a_group_has_no_more_than_those_above_it(groups, version):
    point = mount(groups, version, "/pods/mine")
    limit(point, "max")
    limit(point / "pods", "300000")
    limit(point / "pods" / "mine", "500000")
    limit(point / "pods" / "other", "100000")
    assert usable_cores() == 3


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("root", ["/", "/docker/8f3a"])
def test_a_container_sees_its_own_group_alone(groups, version, root):
    limit(mount(groups, version, "/docker/8f3a", root), "400000")
    assert usable_cores() == 4


def test_both_versions_may_be_there(groups):
    limit(mount(groups, 2, "/"), "500000")
    limit(mount(groups, 1, "/"), "300000")
    assert usable_cores() == 3


@pytest.mark.parametrize("name", ["cgroup", "mountinfo"])
@pytest.mark.parametrize("text", [None, "nothing that is known\n"])
def test_what_cannot_be_read_is_no_quota(groups, name, text):
    limit(mount(groups, 2, "/"), "200000")
    file = groups / "proc" / name
    file.unlink()
    if text is not None:
        file.write_text(text)
    assert usable_cores() == 16


@pytest.mark.parametrize(("said", "cores"), [("3", 3), (" 40 ", 40), ("", 2), ("  ", 2)])
def test_what_the_environment_says_comes_first(groups, monkeypatch, said, cores):
    limit(mount(groups, 2, "/"), "200000")
    monkeypatch.setenv("PYTHON_CPU_COUNT", said)
    assert usable_cores() == cores


@pytest.mark.parametrize("said", ["0", "-2", "two", "1.5", "²"])
def test_what_is_no_number_of_cores_is_refused(monkeypatch, said):
    monkeypatch.setenv("PYTHON_CPU_COUNT", said)
    with pytest.raises(ArgumentError, match=f"PYTHON_CPU_COUNT to be a whole .* found '{said}'"):
        usable_cores()


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="Python has this function")
def test_python_counts_for_itself_where_it_can(groups, monkeypatch):
    monkeypatch.setattr(os, "process_cpu_count", lambda: 5, raising=False)
    assert usable_cores() == 5


def test_a_loader_takes_as_many_threads(groups, npy_pack, monkeypatch):
    limit(mount(groups, 2, "/"), "600000")
    assert cinicpack.Loader(npy_pack).num_workers == 6
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert cinicpack.Loader(npy_pack).num_workers == 2
    monkeypatch.setenv("PYTHON_CPU_COUNT", "9")
    assert cinicpack.Loader(npy_pack).num_workers == 3


def test_empty_variables_of_ranks_count_as_unset(npy_pack, monkeypatch):
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "PYTHON_CPU_COUNT"):
        monkeypatch.setenv(name, "")
    loader = cinicpack.Loader(npy_pack, seed=None, batch_size=12)
    assert len(list(loader)) == 1
    assert loader.num_workers == 16


@pytest.mark.parametrize("name", ["WORLD_SIZE", "LOCAL_WORLD_SIZE", "PYTHON_CPU_COUNT"])
def test_variables_that_are_no_numbers_are_named(npy_pack, monkeypatch, name):
    monkeypatch.setenv(name, "many")
    with pytest.raises(ArgumentError, match=f"variable {name} to be a whole number"):
        len(cinicpack.Loader(npy_pack))
