import os
from pathlib import Path

import pytest

import cinicpack
from cinicpack.cli import main
from cinicpack.errors import ArgumentError, DestinationError, SourceError
from cinicpack.formats.cifar10 import read_batches
from cinicpack.paths import why_missing
from cinicpack.study.contributors import read_contributors
from cinicpack.study.jpegs import find_jpegs
from cinicpack.study.synsets import read_synsets

LINK = "a is a symbolic link to 'nowhere', where nothing is"
HOME = "'~' does not stand for the home folder here: write that out"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a").symlink_to("nowhere")
    Path("file").write_text("")


@pytest.mark.parametrize("path", ["a", "a/b/c", Path("a")])
def test_a_link_that_leads_nowhere_is_named(path):
    assert why_missing(path) == LINK


@pytest.mark.parametrize("path", ["b", "file", "file/b", "/b", "", "a~", "./~/b"])
def test_of_other_paths_there_is_no_more_to_say(path):
    assert why_missing(path) == ""


@pytest.mark.parametrize(
    ("path", "why"), [("a", LINK), ("a/b", LINK), ("~", HOME), ("~/b", HOME), ("~me/b", HOME)]
)
def test_whoever_finds_nothing_says_why(npy_pack, path, why):
    with pytest.raises(FileNotFoundError, match=f"there is no such pack; {why}"):
        cinicpack.open_pack(path)
    with pytest.raises(FileNotFoundError, match=f"{path}: expected a directory, .* found {why}"):
        cinicpack.pack(path, "new")
    with pytest.raises(ArgumentError, match=f"to be a CSV file, .* found {why}"):
        cinicpack.open_pack(npy_pack)["train"].select(exclude=path)


@pytest.mark.parametrize(("path", "why"), [("~/b", HOME), ("a/b", "create it first")])
def test_a_folder_that_is_not_there_is_explained(tree, path, why):
    with pytest.raises(DestinationError, match=f"the folder .* does not exist; .*{why}"):
        cinicpack.pack(tree, path)


@pytest.mark.parametrize(("path", "why"), [("a", LINK), ("~/b", HOME)])
def test_commands_explain_files_that_are_not_there(npy_pack, capsys, path, why):
    for command in (["shift", str(npy_pack), path], ["contributors", str(npy_pack), "--synsets"]):
        assert main([*command, *([path] if command[-1] != path else [])]) == 1
        error = capsys.readouterr().err
        assert error.startswith(
            f"cinicpack: error: [Errno 2] No such file or directory: {path!r}; "
        )
        assert why in error


def test_a_jpeg_that_is_a_link_to_nothing_is_named():
    os.mkdir("n00000001")
    os.symlink("nowhere", "n00000001/n00000001_1.JPEG")
    with pytest.raises(SourceError, match=r"could not be read \(n0.* link to 'nowhere', where"):
        find_jpegs(".", [1])


# A file that can be opened, and reading it fails: nothing is mapped at address 0.
UNREADABLE = "/proc/self/mem"


@pytest.mark.skipif(not os.path.exists(UNREADABLE), reason="needs Linux")
def test_a_file_that_cannot_be_read_is_named(npy_pack, capsys):
    train = cinicpack.open_pack(npy_pack)["train"]
    for read in (
        read_synsets,
        read_contributors,
        read_batches,
        lambda path: train.select(exclude=path),
        lambda path: cinicpack.read_partition(path, train),
    ):
        with pytest.raises(OSError, match="Input/output error") as caught:
            read(UNREADABLE)
        assert UNREADABLE in str(caught.value)
    assert main(["shift", str(npy_pack), UNREADABLE]) == 1
    assert UNREADABLE in capsys.readouterr().err
