import os
import socket
from pathlib import Path

import numpy as np
import pytest

from cinicpack.errors import PackError
from cinicpack.store.format import ArraySpec
from cinicpack.store.region import (
    Region,
    name_place,
    open_file,
    reserve_space,
    write_all,
)


def test_everything_is_written_though_the_kernel_takes_little(tmp_path, monkeypatch):
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, bytes(data[:3]), at))
    file = tmp_path / "data"
    file.write_bytes(bytes(20))
    with open(file, "r+b") as stream:
        write_all(stream.fileno(), memoryview(bytes(range(1, 11))), 5)
    assert file.read_bytes() == bytes(5) + bytes(range(1, 11)) + bytes(5)


@pytest.mark.parametrize("there", [True, False])
def test_files_get_their_size(tmp_path, monkeypatch, there):
    if not there:
        monkeypatch.delattr(os, "posix_fallocate")
    file = tmp_path / "data"
    file.write_bytes(b"x")
    with open(file, "r+b") as stream:
        reserve_space(stream.fileno(), 10_000)
    assert file.read_bytes() == b"x" + bytes(9_999)


@pytest.mark.timeout(20)
def test_what_is_no_regular_file_is_refused_at_once(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listening:
        # By a short name, for the name of a socket is limited.
        listening.bind("socket")
        for path in (tmp_path / "pipe", tmp_path / "socket", Path("/dev/zero")):
            with pytest.raises(PackError, match=r"expected a regular file, found a pipe, a socke"):
                open_file(path)
    with pytest.raises(FileNotFoundError):
        open_file(tmp_path / "none")
    with pytest.raises(IsADirectoryError):
        open_file(tmp_path)
    (tmp_path / "file").write_bytes(b"text")
    with open_file(tmp_path / "file") as stream:
        assert stream.read() == b"text"


def test_an_array_is_called_by_its_file_and_by_its_name_where_it_shares_one(tmp_path):
    specs = [ArraySpec(name, np.dtype("u1"), (1,)) for name in ("a/labels", "a/names")]
    apart = [Region(spec, tmp_path / f"{spec.name}.x", 0) for spec in specs]
    assert name_place(apart[0], apart) == f"{tmp_path}/a/labels.x"
    together = [Region(spec, tmp_path / "x", at) for at, spec in enumerate(specs)]
    assert name_place(together[0], together) == f"{tmp_path}/x:a/labels"
