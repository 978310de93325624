import os

import pytest

from cinicpack.errors import ArgumentError, DestinationError
from cinicpack.study.output import require_suffix, write_file, write_text


def test_suffix_is_required_whatever_its_case():
    assert require_suffix("a/b.PNG", ".png", ".svg") == ".png"
    with pytest.raises(ArgumentError, match=r"cinic10.pack: expected .* ends in .png or .svg"):
        require_suffix("cinic10.pack", ".png", ".svg")
    with pytest.raises(ArgumentError, match=r"ends in .csv"):
        require_suffix("csv", ".csv")


def test_file_is_replaced_without_litter(tmp_path):
    write_file(tmp_path / "a.csv", b"first")
    write_file(tmp_path / "a.csv", b"second")
    assert (tmp_path / "a.csv").read_bytes() == b"second"
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_directory_is_not_replaced(tmp_path):
    (tmp_path / "a.csv").mkdir()
    (tmp_path / "a.csv" / "kept").touch()
    with pytest.raises(DestinationError, match=r"a.csv: expected a file to write, found a dir"):
        write_file(tmp_path / "a.csv", b"")
    assert (tmp_path / "a.csv" / "kept").exists()
    with pytest.raises(DestinationError, match="does not exist; create it first"):
        write_file(tmp_path / "b" / "a.csv", b"")


def test_pipe_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "a.csv")
    with pytest.raises(DestinationError, match=r"a.csv: expected a file to write, found a device"):
        write_file(tmp_path / "a.csv", b"")
    assert (tmp_path / "a.csv").is_fifo()


@pytest.mark.parametrize("name", [".a.csv.tmp", ".a.csv.old", ".a.csv.lock"])
def test_files_of_others_beside_it_are_kept(tmp_path, name):
    (tmp_path / name).write_bytes(b"of another program")
    if name == ".a.csv.tmp":
        with pytest.raises(DestinationError, match=r"a.csv.tmp: expected nothing there, or what"):
            write_file(tmp_path / "a.csv", b"")
    else:
        write_file(tmp_path / "a.csv", b"")
    assert (tmp_path / name).read_bytes() == b"of another program"


def test_text_is_utf8_and_names_that_are_not_are_as_they_were(tmp_path):
    write_text(tmp_path / "a.csv", "é,\udcff\n")
    assert (tmp_path / "a.csv").read_bytes() == b"\xc3\xa9,\xff\n"
