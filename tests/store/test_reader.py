import os
import shutil
import socket
from pathlib import Path

import pytest

import cinicpack
from cinicpack.errors import PackError
from cinicpack.store.reader import find_other, locate_pack
from cinicpack.store.verify import verify_pack
from tests.packs import copy_pack


def test_there_is_nothing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no such pack; make one with"):
        cinicpack.open_pack(tmp_path / "no.pack")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("alive", [True, False])
def test_a_pack_between_the_two_renames_of_a_writer_is_there(
    npy_pack, tmp_path, monkeypatch, alive
):
    copy_pack(npy_pack, tmp_path / "a")
    opened: list[Path] = []
    real_open = os.open

    def open_in_between(path: Path, *arguments: int, **options: int) -> int:
        if path != tmp_path / "a" or opened:
            return real_open(path, *arguments, **options)
        opened.append(path)
        (tmp_path / ".a.tmp").mkdir()
        (tmp_path / ".a.tmp/cinicpack.lock").touch()
        os.rename(path, tmp_path / ".a.tmp/old")
        try:
            return real_open(path, *arguments, **options)
        finally:
            if alive:
                os.rename(tmp_path / ".a.tmp/old", path)
                shutil.rmtree(tmp_path / ".a.tmp")

    monkeypatch.setattr(os, "open", open_in_between)
    assert len(cinicpack.open_pack(tmp_path / "a")["train"]) == 12
    assert opened
    assert os.listdir(tmp_path) == ["a"]


def test_what_is_no_pack_is_refused(tree, tmp_path, monkeypatch):
    (tmp_path / "x.pack").write_text("hello")
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.chdir(tmp_path)
    paths = (tree, tmp_path / "x.pack", tmp_path / "pipe", tmp_path / "socket", Path("/dev/null"))
    with socket.socket(socket.AF_UNIX) as listening:
        # By a short name, for the name of a socket is limited.
        listening.bind("socket")
        for path in paths:
            with pytest.raises(PackError) as caught:
                cinicpack.open_pack(path)
            assert str(caught.value).startswith(f"{path}: ")
            assert find_other(path) is not None


def test_a_label_of_no_class_is_refused(any_pack, tmp_path):
    path = tmp_path / any_pack.name
    copy_pack(any_pack, path)
    [region] = [r for r in locate_pack(path)[2] if r.spec.name == "valid/labels"]
    with open(region.file, "r+b") as stream:
        stream.seek(region.offset + 7)
        stream.write(bytes([2]))
    place = region.file if path.is_dir() else f"{path}:valid/labels"
    with pytest.raises(PackError) as caught:
        cinicpack.open_pack(path)
    assert str(caught.value) == (
        f"{place}: expected labels below 2, found 2 in row 7; restore the file or pack again"
    )


def test_only_a_pack_is_nothing_else(any_pack, tmp_path):
    assert find_other(any_pack) is None
    assert find_other(tmp_path) == "no pack.json in it"
    (tmp_path / "pack.json").write_bytes(b'{"format": "cinicpack"}')
    assert find_other(tmp_path) is None
    for number in range(7):
        (tmp_path / f"{number}.txt").touch()
    assert find_other(tmp_path) == "0.txt, 1.txt, 2.txt, 3.txt, 4.txt and 2 more"


def test_paths_can_be_of_any_kind(npy_pack, tmp_path, monkeypatch):
    link = tmp_path / "link"
    link.symlink_to(npy_pack)
    monkeypatch.chdir(npy_pack)
    for path in (str(npy_pack), f"{npy_pack}/", link, "."):
        assert len(cinicpack.open_pack(path)["test"]) == 12


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_loop(path: Path) -> None:
    path.symlink_to(path.name)


def make_endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def make_huge(path: Path) -> None:
    with open(path, "wb") as stream:
        stream.truncate(1 << 40)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("make", [make_pipe, make_loop, make_endless, make_huge])
@pytest.mark.parametrize("name", ["pack.json", "train/labels.npy", "valid/images-00000.npy", ""])
def test_special_and_endless_files_in_a_pack_are_refused_at_once(npy_pack, tmp_path, make, name):
    path = tmp_path / "a.pack"
    if name:
        copy_pack(npy_pack, path)
        (path / name).unlink()
    make(path / name)
    for read in (cinicpack.open_pack, verify_pack):
        with pytest.raises(PackError) as caught:
            read(path)
        assert str(caught.value).startswith(str(path / name))
    assert find_other(path) is not None or name


@pytest.mark.timeout(20)
def test_a_file_that_is_nearly_all_hole_is_refused_at_once(hdf5_pack, tmp_path):
    content = bytearray(hdf5_pack.read_bytes())
    footer = content[-72:]
    size = 1 << 40
    footer[16:24] = size.to_bytes(8, "little")
    path = tmp_path / "a.h5"
    with open(path, "wb") as stream:
        stream.write(content)
        stream.truncate(size)
        stream.seek(size - 72)
        stream.write(footer)
    with pytest.raises(PackError, match=r"a\.h5: expected at most \d+ bytes outside of the arrays"):
        cinicpack.open_pack(path)
    footer[32:40] = (1 << 38).to_bytes(8, "little")
    with open(path, "r+b") as stream:
        stream.seek(size - 72)
        stream.write(footer)
    with pytest.raises(PackError, match=r"a\.h5: expected a manifest of at most 67108864 bytes"):
        cinicpack.open_pack(path)
