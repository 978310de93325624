import contextlib
import ctypes
import errno
import fcntl
import io
import itertools
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import cinicpack
from cinicpack.errors import DestinationError
from cinicpack.store import lock as lock_module
from cinicpack.store import publish as publish_module
from cinicpack.store import replacing as replacing_module
from cinicpack.store.lock import locked
from cinicpack.store.publish import publishing, recover, tidy
from cinicpack.study.tree import write_files
from tests.png_images import png


def put(path: Path, text: str, *, folder: bool = True) -> None:
    if folder:
        path.mkdir()
        (path / "text").write_text(text)
    else:
        path.write_text(text)


def leave(work: Path, **folders: str) -> None:
    """Leave what a writer does that dies."""
    work.mkdir()
    (work / "cinicpack.lock").touch()
    for name, text in folders.items():
        put(work / name, text)


def read(path: Path) -> str:
    return (path / "text" if path.is_dir() else path).read_text()


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def library(**functions: Callable[..., int]) -> Callable[..., Any]:
    """Make what opens a C library in which a call to swap paths is one of these, or missing."""
    whole = ctypes.CDLL(None, use_errno=True)
    others = {name: getattr(whole, name) for name in ("mmap", "munmap", "madvise")}
    return lambda *_, **__: SimpleNamespace(**others, **functions)


def failing(code: int) -> Callable[..., int]:
    """Make a function of a C library that fails."""

    def fail(*_: object) -> int:
        ctypes.set_errno(code)
        return -1

    return fail


@pytest.fixture(params=[True, False], ids=["exchange", "no exchange"])
def exchange(request, monkeypatch) -> None:
    if not request.param:
        monkeypatch.setattr(ctypes, "CDLL", library())


@pytest.mark.parametrize("folder", [True, False])
def test_it_appears_at_the_end_with_nothing_beside_it(tmp_path, folder):
    target = tmp_path / "x.pack"
    with publishing(target, overwrite=False) as new:
        assert new.parent.parent == tmp_path
        put(new, "new", folder=folder)
        (new.parent / "scratch").write_text("more")
        assert not target.exists()
    assert read(target) == "new"
    assert names(tmp_path) == ["x.pack"]


@pytest.mark.parametrize("old", [True, False], ids=["old folder", "old file"])
@pytest.mark.parametrize("new", [True, False], ids=["new folder", "new file"])
def test_overwriting_replaces_anything(tmp_path, exchange, old, new):
    target = tmp_path / "x"
    put(tmp_path / "x", "old", folder=old)
    with publishing(target, overwrite=True) as path:
        put(path, "new", folder=new)
        assert read(target) == "old"
    assert read(target) == "new"
    assert target.is_dir() == new
    assert names(tmp_path) == ["x"]


def _fail(target: Path, error: BaseException) -> None:
    with publishing(target, overwrite=True) as new:
        put(new, "new")
        raise error


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, OSError])
def test_after_an_error_all_is_as_it_was(tmp_path, error):
    put(tmp_path / "x", "old")
    for target in (tmp_path / "x", tmp_path / "y"):
        with pytest.raises(error):
            _fail(target, error())
        assert names(tmp_path) == ["x"]
        assert read(tmp_path / "x") == "old"


def test_an_error_while_it_is_renamed_leaves_all_as_it_was(tmp_path, monkeypatch):
    put(tmp_path / "x", "old")
    monkeypatch.setattr(ctypes, "CDLL", library(renameat2=failing(errno.EIO)))
    with (
        pytest.raises(OSError, match=r"x") as caught,
        publishing(tmp_path / "x", overwrite=True) as new,
    ):
        put(new, "new")
    assert caught.value.errno == errno.EIO
    assert names(tmp_path) == ["x"]
    assert read(tmp_path / "x") == "old"


def test_an_error_of_a_descriptor_says_where(tmp_path, monkeypatch):
    def fail(descriptor):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    expected = r"x: it could not be made: Input/output error"
    with (
        pytest.raises(DestinationError, match=expected),
        publishing(tmp_path / "x", overwrite=True) as new,
    ):
        put(new, "new")
    assert names(tmp_path) == []


def test_an_error_of_a_file_of_ours_names_the_destination(tmp_path):
    """Nobody knows the folder of a writer, which is gone when the error is read."""

    def link(new):
        new.symlink_to("nowhere")
        new.symlink_to("elsewhere")

    def write(new):
        put(new, "new")
        write_files(new, ["text"], [b"new"])

    for fail, expected in (
        (lambda new: (new / "a" / "b").write_text("new"), "No such file or directory"),
        (lambda new: (new.parent / "scratch").rmdir(), "No such file or directory"),
        (link, "File exists"),
        (write, "cannot write 1 file in .*"),
    ):
        with (
            pytest.raises(DestinationError, match=rf"{expected}") as caught,
            publishing(tmp_path / "x", overwrite=False) as new,
        ):
            fail(new)
        assert str(tmp_path / "x") in str(caught.value)
        assert ".tmp" not in str(caught.value)
        assert names(tmp_path) == []


def test_an_error_of_another_file_is_left_as_it_is(tmp_path):
    with (
        pytest.raises(FileNotFoundError) as caught,
        publishing(tmp_path / "x", overwrite=False),
    ):
        (tmp_path / "source").read_bytes()
    assert caught.value.filename == str(tmp_path / "source")


def test_a_folder_that_cannot_lock_is_named(tmp_path, monkeypatch):
    def fail(descriptor, operation):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", fail)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for _ in range(3):
        with (
            pytest.raises(
                DestinationError, match=rf"cannot lock a file in {tmp_path}: Function not"
            ),
            publishing(tmp_path / "x", overwrite=True),
        ):
            pass
    assert names(tmp_path) == []
    assert not before or len(os.listdir("/proc/self/fd")) == before


def test_what_is_of_another_kind_is_refused_in_the_end_too(tmp_path):
    def find_other(path):
        return None if path.read_text() == "pack" else "years of work"

    put(tmp_path / "x", "pack", folder=False)
    with publishing(tmp_path / "x", overwrite=True, find_other=find_other) as new:
        put(new, "new", folder=False)
    expected = r"already exists and is not a pack and nothing else: found years of work; it is not"
    for overwrite in (False, True):
        with (
            pytest.raises(DestinationError, match=expected),
            publishing(tmp_path / "x", overwrite=overwrite, find_other=find_other),
        ):
            pass

    def make() -> None:
        with publishing(tmp_path / "y", overwrite=True, find_other=find_other) as new:
            put(new, "new", folder=False)
            put(tmp_path / "y", "thesis", folder=False)

    with pytest.raises(DestinationError, match=expected):
        make()
    assert (tmp_path / "y").read_text() == "thesis"
    assert names(tmp_path) == ["x", "y"]


def test_what_exists_is_refused(tmp_path):
    put(tmp_path / "folder", "old")
    put(tmp_path / "file", "old", folder=False)
    (tmp_path / "empty").mkdir()
    before = names(tmp_path)
    for name in before:
        with (
            pytest.raises(DestinationError, match=r"already exists; choose another name, or pass"),
            publishing(tmp_path / name, overwrite=False),
        ):
            raise AssertionError
    assert names(tmp_path) == before


def _meet_another(target: Path) -> None:
    with publishing(target, overwrite=False) as new:
        put(new, "new")
        put(target, "of another program")


def test_what_appears_meanwhile_is_refused(tmp_path):
    with pytest.raises(DestinationError, match=r"already exists"):
        _meet_another(tmp_path / "x")
    assert names(tmp_path) == ["x"]
    assert read(tmp_path / "x") == "of another program"


@pytest.mark.parametrize("parent", ["missing", "missing/twice", "file"])
def test_a_parent_that_is_no_folder_is_refused(tmp_path, parent):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(DestinationError, match=r"the folder .* does not exist; create it first"),
        publishing(tmp_path / parent / "x", overwrite=False),
    ):
        raise AssertionError
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("target", ["/proc/x.pack", "/", "x" * 300])
def test_where_nothing_can_be_written(tmp_path, monkeypatch, target):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DestinationError), publishing(Path(target), overwrite=False):
        raise AssertionError
    assert not names(tmp_path)


def test_a_link_is_kept_and_what_it_leads_to_replaced(tmp_path):
    (tmp_path / "disk").mkdir()
    put(tmp_path / "disk" / "x", "old")
    for name, leads_to in [("link", "disk/x"), ("dangling", "disk/y")]:
        link = tmp_path / name
        link.symlink_to(leads_to)
        with publishing(link, overwrite=True) as new:
            assert new.parent.parent == tmp_path / "disk"
            put(new, "new")
        assert link.is_symlink()
        assert read(link) == "new"
    assert names(tmp_path) == ["dangling", "disk", "link"]
    assert names(tmp_path / "disk") == ["x", "y"]


@pytest.fixture
def no_file_left_open() -> Iterator[None]:
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_second_of_two_is_told(tmp_path, no_file_left_open):
    with publishing(tmp_path / "x", overwrite=True) as new:
        put(new, "first")
        with (
            pytest.raises(DestinationError, match=r"another process is writing it; wait for it"),
            publishing(tmp_path / "x", overwrite=True),
        ):
            raise AssertionError
        with publishing(tmp_path / "y", overwrite=True) as other:
            put(other, "another name")
    assert read(tmp_path / "x") == "first"
    assert names(tmp_path) == ["x", "y"]


def _race(target: Path, text: str, start: threading.Barrier, won: list[str]) -> None:
    start.wait()
    try:
        with publishing(target, overwrite=False) as new:
            put(new, text)
            time.sleep(0.001)
    except DestinationError:
        return
    won.append(text)


def test_of_many_at_once_exactly_one_wins(tmp_path):
    for turn in range(20):
        target, won = tmp_path / f"x{turn}", list[str]()
        start = threading.Barrier(5)
        threads = [
            threading.Thread(target=_race, args=(target, str(n), start, won)) for n in range(5)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert won == [read(target)]
    assert names(tmp_path) == sorted(f"x{turn}" for turn in range(20))


def test_a_lock_file_that_is_removed_meanwhile_locks_nothing(
    tmp_path, monkeypatch, no_file_left_open
):
    flock, calls = fcntl.flock, list[int]()

    def lose_first(descriptor: int, operation: int) -> None:
        calls.append(operation)
        if len(calls) == 1:
            # What the former holder does at its end.
            shutil.rmtree(tmp_path / ".x.tmp")
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", lose_first)
    with publishing(tmp_path / "x", overwrite=False) as new:
        put(new, "new")
        assert (tmp_path / ".x.tmp/cinicpack.lock").exists()
        assert len(calls) > 1
    assert names(tmp_path) == ["x"]


def test_a_lock_is_removed_before_it_is_released(tmp_path, monkeypatch):
    # Else another could lock that file in between, and a third one make and lock another.
    unlink, locked_then = os.unlink, list[bool]()

    def try_first(path: Path) -> None:
        with open(path) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                locked_then.append(True)
        unlink(path)

    monkeypatch.setattr(os, "unlink", try_first)
    with publishing(tmp_path / "x", overwrite=False) as new:
        put(new, "new")
    assert locked_then == [True]
    assert names(tmp_path) == ["x"]


def test_a_lock_file_is_no_link(tmp_path):
    (tmp_path / "mine").write_text("mine")
    leave(tmp_path / ".x.tmp")
    lock = tmp_path / ".x.tmp/cinicpack.lock"
    for put_there in (lambda: lock.symlink_to(tmp_path / "mine"), lambda: lock.symlink_to(lock)):
        lock.unlink()
        put_there()
        with (
            pytest.raises(DestinationError, match=r"cannot write .*\.lock: .* links; remove what"),
            publishing(tmp_path / "x", overwrite=True),
        ):
            raise AssertionError
    assert (tmp_path / "mine").read_text() == "mine"


@contextlib.contextmanager
def interrupting(number: int) -> Iterator[list[str]]:
    """Raise KeyboardInterrupt before a line of our modules, as Ctrl-C does; say where it came."""
    files = {module.__file__ for module in (lock_module, publish_module, replacing_module)}
    count, where = 0, list[str]()

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        if frame.f_code.co_filename not in files:
            return None
        if event == "line":
            count += 1
            if count == number:
                where.append(f"{frame.f_code.co_name}:{frame.f_lineno}")
                raise KeyboardInterrupt
        return trace

    former = sys.gettrace()
    sys.settrace(trace)
    try:
        yield where
    finally:
        sys.settrace(former)


def test_an_interrupt_at_any_line_leaves_nothing_and_no_lock(tmp_path):
    target = tmp_path / "x"
    for number in itertools.count(1):
        put(target, "old")
        with (
            contextlib.suppress(KeyboardInterrupt),
            interrupting(number) as where,
            publishing(target, overwrite=True, sync=False) as new,
        ):
            put(new, "new")
        if not where:
            break
        assert read(target) in ("old", "new"), where
        assert names(tmp_path) == ["x"], where
        with publishing(target, overwrite=True, sync=False) as new:
            put(new, "next")
        shutil.rmtree(target)
    assert number > 80


@pytest.mark.parametrize("code", [None, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP])
def test_a_file_system_that_cannot_exchange(tmp_path, monkeypatch, code):
    put(tmp_path / "x", "old")
    found = library() if code is None else library(renameat2=failing(code))
    monkeypatch.setattr(ctypes, "CDLL", found)
    with publishing(tmp_path / "x", overwrite=True) as new:
        put(new, "new")
    assert read(tmp_path / "x") == "new"
    assert names(tmp_path) == ["x"]


def test_an_empty_folder_gives_way_to_a_tree_and_nothing_else_does(tmp_path):
    def write(target: Path, overwrite: bool = False) -> None:
        with publishing(target, overwrite=overwrite, empty_folder=True) as new:
            put(new, "new")

    (tmp_path / "empty").mkdir()
    for name in ("x", "empty"):
        write(tmp_path / name)
        assert read(tmp_path / name) == "new"
    put(tmp_path / "file", "mine", folder=False)
    (tmp_path / "free").mkdir()
    (tmp_path / "link").symlink_to("free")
    (tmp_path / "dangling").symlink_to("nowhere")
    before = names(tmp_path)
    for name in ("x", "file", "link", "dangling"):
        with pytest.raises(DestinationError, match=r"expected nothing there, or an empty direct"):
            write(tmp_path / name)
    assert names(tmp_path) == before
    assert not names(tmp_path / "free")
    write(tmp_path / "file", overwrite=True)
    assert read(tmp_path / "file") == "new"


def test_an_empty_folder_that_is_filled_meanwhile_is_kept(tmp_path, monkeypatch):
    (tmp_path / "x").mkdir()
    rename = os.rename

    def fill_first(first: Path, second: Path) -> None:
        (tmp_path / "x" / "text").write_text("mine")
        rename(first, second)

    monkeypatch.setattr(os, "rename", fill_first)
    with (
        pytest.raises(OSError, match=r"not empty"),
        publishing(tmp_path / "x", overwrite=False, empty_folder=True) as new,
    ):
        put(new, "new")
    assert read(tmp_path / "x") == "mine"
    assert names(tmp_path) == ["x"]


def test_what_is_not_synced_is_only_renamed(tmp_path, monkeypatch):
    def fail(descriptor: int) -> None:
        raise AssertionError(descriptor)

    monkeypatch.setattr(os, "fsync", fail)
    with publishing(tmp_path / "x", overwrite=False, sync=False) as new:
        put(new, "new")
    assert read(tmp_path / "x") == "new"


def test_what_is_locked_is_not_published(tmp_path):
    with locked(tmp_path / "x", wait=False):
        with (
            pytest.raises(DestinationError, match=r"x: another process is writing it; wait for"),
            publishing(tmp_path / "x", overwrite=True),
        ):
            raise AssertionError
        assert names(tmp_path) == [".x.tmp"]
    assert not names(tmp_path)


def test_an_error_that_says_all_stays_as_it_is(tmp_path):
    error = DestinationError(errno.ENOSPC, "x: cannot write 7 files")
    with pytest.raises(DestinationError) as caught:
        _fail(tmp_path / "x", error)
    assert caught.value is error


def test_litter_of_the_dead_is_swept(tmp_path):
    put(tmp_path / "x", "old")
    leave(tmp_path / ".x.tmp", new="half of it", old="the one before", scratch="planes")
    put(tmp_path / ".y.tmp", "someone else's")
    with publishing(tmp_path / "x", overwrite=True) as new:
        assert names(new.parent) == ["cinicpack.lock"]
        put(new, "new")
    assert read(tmp_path / "x") == "new"
    assert names(tmp_path) == [".y.tmp", "x"]


def test_litter_is_swept_where_it_is_refused_too(tmp_path):
    put(tmp_path / "x", "old")
    leave(tmp_path / ".x.tmp", new="half of it")
    with pytest.raises(DestinationError), publishing(tmp_path / "x", overwrite=False):
        raise AssertionError
    assert names(tmp_path) == ["x"]


def test_a_writer_that_died_between_two_renames(tmp_path):
    leave(tmp_path / ".x.tmp", old="old")
    recover(tmp_path / "x")
    assert read(tmp_path / "x") == "old"
    assert names(tmp_path) == ["x"]
    leave(tmp_path / ".y.tmp", old="old", new="half of it")
    with pytest.raises(DestinationError), publishing(tmp_path / "y", overwrite=False):
        raise AssertionError
    assert read(tmp_path / "y") == "old"


@pytest.mark.parametrize("place", [".x.tmp", ".x.old", ".x.lock"])
@pytest.mark.parametrize("folder", [True, False])
def test_what_is_not_ours_is_neither_swept_nor_put_back(tmp_path, place, folder):
    put(tmp_path / place, "of another program", folder=folder)
    if folder:
        put(tmp_path / place / "old", "of another program")
    assert not recover(tmp_path / "x")
    assert names(tmp_path) == [place]
    refused: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
    if place == ".x.tmp":
        expected = r"\.x\.tmp: expected nothing there, or what cinicpack left there, found someth"
        refused = pytest.raises(DestinationError, match=expected)
    for _ in range(2):
        with refused, publishing(tmp_path / "x", overwrite=True) as new:
            put(new, "new")
    assert read(tmp_path / place) == "of another program"
    assert names(tmp_path) == ([place] if place == ".x.tmp" else [place, "x"])


def test_a_link_in_the_place_of_our_folder_is_not_followed(tmp_path):
    leave(tmp_path / "elsewhere", old="old")
    for leads_to in ("elsewhere", "nowhere"):
        (tmp_path / ".x.tmp").symlink_to(leads_to)
        with (
            pytest.raises(DestinationError, match=r"x\.tmp: expected nothing there, or what cinic"),
            publishing(tmp_path / "x", overwrite=True),
        ):
            raise AssertionError
        (tmp_path / ".x.tmp").unlink()
    assert names(tmp_path / "elsewhere") == ["cinicpack.lock", "old"]


def test_an_empty_folder_in_the_place_of_ours_is_taken(tmp_path):
    # As one is left by a writer that dies at once.
    (tmp_path / ".x.tmp").mkdir()
    with publishing(tmp_path / "x", overwrite=False) as new:
        put(new, "new")
    assert names(tmp_path) == ["x"]


def test_a_mount_point_is_refused_before_anything_is_done():
    with (
        pytest.raises(DestinationError, match=r"/proc: expected .*, found a mount point; choose a"),
        publishing(Path("/proc"), overwrite=True),
    ):
        raise AssertionError


def test_the_former_one_is_put_back_if_the_second_rename_fails(tmp_path, monkeypatch):
    put(tmp_path / "x", "old")
    rename = os.rename

    def fail_second(first: Path, second: Path) -> None:
        if Path(first).name == "new" and not (tmp_path / "x").exists():
            raise OSError(errno.EIO, "the disk is gone")
        rename(first, second)

    monkeypatch.setattr(ctypes, "CDLL", library())
    monkeypatch.setattr(os, "rename", fail_second)
    with pytest.raises(OSError, match=r"gone"), publishing(tmp_path / "x", overwrite=True) as new:
        put(new, "new")
    assert read(tmp_path / "x") == "old"
    assert names(tmp_path) == ["x"]


def test_a_writer_between_two_renames_is_waited_for(tmp_path, monkeypatch):
    put(tmp_path / "x", "old")
    between, finish = threading.Event(), threading.Event()
    rename = os.rename

    def rename_slowly(first: Path, second: Path) -> None:
        rename(first, second)
        if Path(second).name == "old":
            between.set()
            finish.wait(10)

    def write() -> None:
        with publishing(tmp_path / "x", overwrite=True) as new:
            put(new, "new")

    monkeypatch.setattr(ctypes, "CDLL", library())
    monkeypatch.setattr(os, "rename", rename_slowly)
    writer = threading.Thread(target=write)
    writer.start()
    assert between.wait(10)
    assert not (tmp_path / "x").exists()
    reader = threading.Thread(target=recover, args=(tmp_path / "x",))
    reader.start()
    reader.join(0.05)
    assert reader.is_alive()
    finish.set()
    writer.join()
    reader.join()
    assert read(tmp_path / "x") == "new"
    assert names(tmp_path) == ["x"]


def test_it_is_on_disk_before_it_is_renamed(tmp_path, monkeypatch):
    events: list[str] = []
    fsync, rename = os.fsync, os.rename

    def note_sync(descriptor: int) -> None:
        events.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    def note_rename(first: Path, second: Path) -> None:
        rename(first, second)
        events.append("rename")

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "rename", note_rename)
    with publishing(tmp_path / "x", overwrite=False) as new:
        put(new, "new")
        (new / "sub").mkdir()
        (new / "sub" / "more").write_text("")
    assert sorted(events[:4]) == ["more", "new", "sub", "text"]
    assert events[4:] == ["rename", tmp_path.name]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_one_clear_error(tmp_path, code):
    message = r"x: no more can be written in its folder \(.*\); make room for twice the size"
    with pytest.raises(DestinationError, match=message) as caught:
        _fail(tmp_path / "x", OSError(code, os.strerror(code)))
    assert caught.value.errno == code
    assert os.strerror(code) in str(caught.value)
    assert not names(tmp_path)


KILLED = """
import os, signal, sys
from pathlib import Path
from cinicpack.store.publish import publishing
with publishing(Path(sys.argv[1]), overwrite=True) as new:
    (new.parent / "scratch").write_text("x" * 1000)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_writer_leaves_the_old_one_and_the_next_sweeps(tmp_path):
    put(tmp_path / "x", "old")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "x")], check=False)
    assert killed.returncode == -9
    assert names(tmp_path) == [".x.tmp", "x"]
    assert read(tmp_path / "x") == "old"
    with publishing(tmp_path / "x", overwrite=True) as new:
        put(new, "new")
    assert names(tmp_path) == ["x"]


def _open_again_and_again(
    path: Path, stop: threading.Event, seen: set[str], bad: list[str]
) -> None:
    while not stop.is_set():
        try:
            split = cinicpack.open_pack(path)["train"]
            if split.images[0, 0, 0, 0] != split.names[0][0]:
                bad.append(f"{split!r} mixes two packs")
            seen.add(split.fingerprint)
        except Exception as error:
            bad.append(repr(error))


@pytest.mark.parametrize("container", ["npy", "hdf5"])
def test_readers_see_one_pack_or_the_other(tmp_path, exchange, container):
    # Two packs of equal shape, of which each image begins with the first letter of its file name.
    path, fingerprints = tmp_path / "x.pack", set()
    options = {"format": container, "overwrite": True, "progress": False}
    for letter in "ab":
        folder = tmp_path / letter / "class"
        folder.mkdir(parents=True)
        pixels = np.full((4, 4, 3), ord(letter), np.uint16)
        (folder / f"{letter}.png").write_bytes(png(pixels))
        pack = cinicpack.pack(tmp_path / letter, path, **options)
        fingerprints.add(pack["train"].fingerprint)
    stop, seen, bad = threading.Event(), set[str](), list[str]()
    arguments = (path, stop, seen, bad)
    readers = [threading.Thread(target=_open_again_and_again, args=arguments) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        for turn in range(12):
            cinicpack.pack(tmp_path / "ab"[turn % 2], path, **options)
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    assert not bad
    assert seen == fingerprints


def test_what_goes_wrong_after_the_renaming_is_a_warning(tmp_path, monkeypatch):
    put(tmp_path / "x", "old")
    fsync, rmtree = os.fsync, shutil.rmtree

    def fail_for_folder(descriptor: int) -> None:
        if os.readlink(f"/proc/self/fd/{descriptor}") == str(tmp_path):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(descriptor)

    def fail(path: Path, *, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "fsync", fail_for_folder)
    with (
        pytest.warns(
            UserWarning, match=r"x was made, but may be gone after a power .* \(Input/out"
        ),
        publishing(tmp_path / "x", overwrite=True) as new,
    ):
        put(new, "new")
    assert read(tmp_path / "x") == "new"
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(shutil, "rmtree", fail)
    with (
        pytest.warns(UserWarning, match=r"x was made, but .*x\.tmp stays: .*new: Permission den"),
        publishing(tmp_path / "x", overwrite=True) as new,
    ):
        put(new, "newer")
    assert read(tmp_path / "x") == "newer"
    with (
        pytest.raises(DestinationError, match=r"x\.tmp: cannot be cleared: .*new: Permission deni"),
        publishing(tmp_path / "x", overwrite=True),
    ):
        raise AssertionError
    monkeypatch.setattr(shutil, "rmtree", rmtree)
    with publishing(tmp_path / "x", overwrite=True) as new:
        put(new, "last")
    assert names(tmp_path) == ["x"]


def test_what_goes_wrong_in_clearing_up_does_not_hide_the_cause(tmp_path, monkeypatch):
    def fail(path: Path, *, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(shutil, "rmtree", fail)
    with pytest.raises(RuntimeError, match="the cause") as caught:
        _fail(tmp_path / "x", RuntimeError("the cause"))
    [note] = caught.value.__notes__
    assert "x.tmp stays: " in note
    assert "Input/output error; remove it yourself" in note


def test_a_lock_file_that_cannot_be_closed_was_given_back(tmp_path, monkeypatch):
    class Failing(io.FileIO):
        def close(self) -> None:
            is_open = not self.closed
            super().close()
            if is_open:
                raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(io, "FileIO", Failing)
    for text in ("new", "newer"):
        with publishing(tmp_path / "x", overwrite=True) as new:
            put(new, text)
        assert read(tmp_path / "x") == text
    with pytest.raises(RuntimeError, match="the cause"), locked(tmp_path / "x", wait=False):
        raise RuntimeError("the cause")
    assert names(tmp_path) == ["x"]


@pytest.mark.parametrize("name", ["listdir", "unlink"])
def test_a_lock_file_that_cannot_be_removed_at_first_is_removed(tmp_path, monkeypatch, name):
    real, failed = getattr(os, name), list[str]()

    def fail_once(path: Path, *arguments: Any, **options: Any) -> Any:
        if (tmp_path / "x").exists() and not failed and ".x.tmp" in str(path):
            failed.append(name)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path, *arguments, **options)

    with locked(tmp_path / "x", wait=False):
        (tmp_path / "x").touch()
        monkeypatch.setattr(os, name, fail_once)
    assert failed == [name]
    assert names(tmp_path) == ["x"]


def test_an_interrupt_while_the_lock_file_is_opened_leaves_none(tmp_path, monkeypatch):
    real, opened = os.open, list[int]()

    def interrupt(path: Any, *arguments: Any, **options: Any) -> int:
        descriptor = real(path, *arguments, **options)
        if str(path).endswith("cinicpack.lock") and not opened:
            opened.append(descriptor)
            raise KeyboardInterrupt
        return descriptor

    monkeypatch.setattr(os, "open", interrupt)
    with pytest.raises(KeyboardInterrupt), locked(tmp_path / "x", wait=False):
        raise AssertionError
    [descriptor] = opened
    os.close(descriptor)
    assert names(tmp_path) == []


def test_a_former_one_is_not_spoken_of_where_there_was_none(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(RuntimeError, match="the cause") as caught:
        _fail(tmp_path / "x", RuntimeError("the cause"))
    assert not hasattr(caught.value, "__notes__")


def test_what_a_writer_left_that_died_when_all_was_done_is_removed(tmp_path):
    put(tmp_path / "x", "new")
    leave(tmp_path / ".x.tmp", old="the one before", scratch="planes")
    tidy(tmp_path / "x")
    assert names(tmp_path) == ["x"]
    with locked(tmp_path / "x", wait=False):
        tidy(tmp_path / "x")
        assert names(tmp_path) == [".x.tmp", "x"]
    put(tmp_path / ".x.tmp", "someone else's")
    tidy(tmp_path / "x")
    assert names(tmp_path) == [".x.tmp", "x"]


def test_a_directory_that_cannot_be_renamed_is_refused_before_the_work(tmp_path, monkeypatch):
    put(tmp_path / "x", "old")

    def fail(first: Path, second: Path) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(first))

    monkeypatch.setattr(os, "rename", fail)
    with (
        pytest.raises(DestinationError, match=r"x: cannot be replaced: it is part of a container"),
        publishing(tmp_path / "x", overwrite=True),
    ):
        raise AssertionError
    assert read(tmp_path / "x") == "old"
    assert names(tmp_path) == ["x"]


MOUNTS = """
set -e
mount -t tmpfs none "$1"
cd "$1"
mkdir lower upper work merged lower/x.pack
echo old > lower/x.pack/text
echo old > lower/x.h5
mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work none merged
touch merged/mounted merged/file
mount --bind merged/file merged/mounted
echo mounts
exec "$2" - merged <<END
import sys
from pathlib import Path
from cinicpack.errors import DestinationError
from cinicpack.store.publish import publishing
for name in ("x.pack", "x.h5", "mounted"):
    try:
        with publishing(Path(sys.argv[1], name), overwrite=True) as new:
            print("begun")
            new.write_text("new")
        print(Path(sys.argv[1], name).read_text())
    except DestinationError as error:
        print(error)
END
"""


def test_packs_in_a_lower_layer_and_under_a_mount(tmp_path):
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    command = [*unshare, "sh", "-c", MOUNTS, "sh", str(tmp_path), sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not done.stdout:
        pytest.skip(f"needs to mount in a namespace of its own: {done.stderr.strip()}")
    assert not done.stderr
    _, first, *others, last = done.stdout.splitlines()
    assert re.search(r"x\.pack: cannot be replaced: it is part of a container's image, of", first)
    assert others == ["begun", "new"]
    assert re.search(r"mounted: expected what a rename can replace, found a mount point", last)
