import errno
import os
import socket

import pytest

from cinicpack.convert.files import MAX_BYTES, read_files
from cinicpack.convert.tree import Tree
from cinicpack.errors import SourceError
from tests.convert.sources_here import put
from tests.png_images import png, random_samples


def test_files_of_every_size_are_read_whole(tmp_path):
    files = {f"{size}.png": os.urandom(size) for size in (0, 1, 8191, 8192, 8193, 300_000)}
    put(tmp_path, files)
    assert list(read_files(tmp_path, files)) == [*files.values()]
    assert list(read_files(str(tmp_path), iter(["1.png"]))) == [files["1.png"]]


def test_files_are_read_as_they_are_asked_for(tmp_path):
    put(tmp_path, {"a.png": b"1"})
    contents = read_files(tmp_path, ["a.png", "b.png"])
    assert next(contents) == b"1"
    put(tmp_path, {"b.png": b"2"})
    assert next(contents) == b"2"


def test_what_cannot_be_read_gives_its_reason_and_hinders_no_other(tmp_path):
    put(tmp_path, {"a.png": b"1", "z.png": b"2"})
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "null.png").symlink_to("/dev/null")
    (tmp_path / "self.png").symlink_to("self.png")
    (tmp_path / "folder.png").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(tmp_path / "socket.png"))
    reasons = {
        "pipe.png": "expected a regular file, found a named pipe",
        "zero.png": "expected a regular file, found a character device",
        "null.png": "expected a regular file, found a character device",
        "self.png": "Too many levels of symbolic links",
        "folder.png": "expected a regular file, found a directory",
        "socket.png": "expected a regular file, found a socket",
    }
    assert set(reasons) - {"folder.png"} <= set(Tree(tmp_path).paths())
    first, *errors, last = read_files(tmp_path, ["a.png", *reasons, "z.png"])
    assert (first, last) == (b"1", b"2")
    for error, reason in zip(errors, reasons.values(), strict=True):
        assert isinstance(error, OSError)
        assert reason in str(error)


# What says nothing of an image, since it may pass.
SHORTAGES = (
    "EMFILE",
    "ENFILE",
    "ENOMEM",
    "EIO",
    "ESTALE",
    "EACCES",
    "EPERM",
    "ENOSPC",
    "ETIMEDOUT",
)


@pytest.mark.parametrize("call", ["open", "pread"])
@pytest.mark.parametrize("error", [*SHORTAGES, "MemoryError"])
def test_a_file_that_cannot_be_read_is_no_bad_image(tmp_path, monkeypatch, call, error):
    put(tmp_path, {"a.png": b"1", "b.png": b"2"})
    contents = read_files(tmp_path, ["a.png", "b.png"])
    assert next(contents) == b"1"

    def fail(*_: object, **__: object) -> None:
        raise MemoryError if error == "MemoryError" else OSError(getattr(errno, error), "a reason")

    with monkeypatch.context() as patched:
        patched.setattr(os, call, fail)
        with pytest.raises(
            SourceError, match=r"b\.png: could not be read \((a reason|want of mem)"
        ):
            next(contents)


def test_a_file_that_has_gone_is_no_bad_image(tmp_path):
    (tmp_path / "a.png").symlink_to("nowhere")
    for name, reason in (
        ("a.png", r".*a\.png is a symbolic link to 'nowhere', where nothing is\)"),
        ("b.png", "No such file"),
    ):
        with pytest.raises(SourceError, match=rf"{name}: could not be read \({reason}"):
            list(read_files(tmp_path, [name]))


def test_a_file_that_is_read_in_part_is_read_again(tmp_path, monkeypatch):
    # So a disk's error shows itself where something before it could be read.
    content = png(random_samples(2, 8, 30, 30))
    put(tmp_path, {"a.png": content})
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda file, _, start: pread(file, 1000, start))
    assert list(read_files(tmp_path, ["a.png"])) == [content]


def test_a_pipe_with_a_writer_is_no_file_either(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with open(tmp_path / "pipe.png", "r+b", buffering=0) as pipe:
        pipe.write(b"not an image")
        (error,) = read_files(tmp_path, ["pipe.png"])
    assert isinstance(error, OSError)
    assert error.strerror == "expected a regular file, found a named pipe"


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    with open(tmp_path / "a.png", "wb") as file:
        file.truncate(MAX_BYTES + 1)
    (error,) = read_files(tmp_path, ["a.png"])
    assert str(error) == "[Errno 27] expected at most 67108864 bytes, found 67108865: 'a.png'"
