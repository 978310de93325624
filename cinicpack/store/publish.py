"""Publishing: what is written becomes visible by one rename, or not at all.

A destination NAME has a neighbour for a while, the folder .NAME.tmp, and in it are

    cinicpack.lock   held with flock by the one process that writes NAME
    new              what NAME is to be
    old              the former NAME, while a file system without atomic exchange swaps the two

and what else the writer needs. A process that dies leaves the folder behind without the lock; the
next writer of NAME sweeps it, and the next reader of NAME puts ``old`` back if NAME itself is gone.
The lock file is the first file in the folder and the last: in a folder without one, all files are
of other programs, and stay.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

from cinicpack.errors import DestinationError

__all__ = ["locked", "publishing", "recover", "sync"]

_LOCK: Final = "cinicpack.lock"
_PATIENCE_SECONDS: Final = 0.5

_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2
# The errors of a full disk, a full quota and a file that has reached the largest size allowed.
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def publishing(
    destination: Path,
    *,
    overwrite: bool,
    find_other: Callable[[Path], str | None] | None = None,
    sync: bool = True,
    empty_folder: bool = False,
) -> Iterator[Path]:
    """Give a path at which to make what ``destination`` is to be, and publish it at the end.

    The block creates a file or a directory there. When it ends, that is synced to disk and renamed
    to ``destination``. If it raises, ``destination`` stays as it was. Either way the folder of that
    path is removed, with all else that the block has put into it.

    Args:
        destination: where it is to appear; of a link, where the link leads.
        overwrite: replace what is there.
        find_other: describes what is there and must not be lost; None: nothing is.
        sync: False: files are not synced to disk, which takes minutes for 270,000 of them.
        empty_folder: an empty directory at ``destination``, and no link, is replaced in any case.

    Raises `DestinationError` if ``destination`` exists and is not to be replaced; if it is a mount
    point; if its folder does not exist, cannot be written, or has something else under the name of
    our own; and if another process is writing it.
    """
    refuse_existing = partial(_refuse_existing, overwrite, find_other, empty_folder)
    if empty_folder and destination.is_symlink():
        refuse_existing(destination)
    # What a link leads to is replaced, since a rename onto the link would replace the link.
    destination = Path(os.path.realpath(destination))
    _check_place(destination)
    with locked(destination, wait=False), _naming(destination):
        work = _work_of(destination)
        _put_back(destination)
        _sweep(work)
        refuse_existing(destination)
        try:
            yield work / "new"
            if sync:
                _sync_all(work / "new")
            # Another program may have put something there while the block ran.
            refuse_existing(destination)
            _replace(work / "new", destination, overwrite=overwrite)
            if sync:
                _sync_path(destination.parent)
        finally:
            # Without an atomic exchange the destination is gone if the second rename has failed.
            _put_back(destination)
            # After an exchange the former destination lies in the folder, and goes with it.
            _sweep(work)


def _check_place(destination: Path) -> None:
    """Raise `DestinationError` where nothing can appear by a rename."""
    if not destination.name:
        raise DestinationError(f"{destination}: expected the name of a new pack, found a root")
    if not destination.parent.is_dir():
        raise DestinationError(
            f"{destination}: the folder {destination.parent} does not exist; create it first"
        )
    if os.path.ismount(destination):
        raise DestinationError(
            f"{destination}: expected what a rename can replace, found a mount point; choose a "
            "name within it"
        )


@contextlib.contextmanager
def _naming(destination: Path) -> Iterator[None]:
    """Name the destination in errors of the system that say too little."""
    try:
        yield
    except DestinationError:
        raise
    except OSError as error:
        if error.errno in _FULL:
            raise DestinationError(
                error.errno,
                f"{destination}: no more can be written in its folder "
                f"({os.strerror(error.errno)}); make room for twice the size of the pack",
            ) from error
        if error.errno is None or error.filename is not None:
            raise
        # A call that was given a descriptor does not know the name of the file.
        raise DestinationError(
            error.errno, f"{destination}: it could not be made: {error.strerror}"
        ) from error


def recover(destination: Path) -> bool:
    """Put the former ``destination`` back if a writer died between its two renames.

    A living writer is waited for: it is about to do the second. Says whether ``destination`` is
    there now.
    """
    work = _work_of(destination)
    if not os.path.lexists(destination) and all(
        os.path.lexists(work / name) for name in ("old", _LOCK)
    ):
        with locked(destination, wait=True):
            _put_back(destination)
    return os.path.lexists(destination)


def _put_back(destination: Path) -> None:
    if not os.path.lexists(destination):
        with contextlib.suppress(FileNotFoundError):
            os.rename(_work_of(destination) / "old", destination)


def _work_of(destination: Path) -> Path:
    return destination.with_name(f".{destination.name}.tmp")


@contextlib.contextmanager
def locked(destination: Path, *, wait: bool) -> Iterator[None]:
    """Be the one writer of ``destination`` for the time of the block.

    Raises `DestinationError` where its folder cannot be written or locked and, unless it is to
    ``wait``, if another process writes ``destination``.
    """
    work = _work_of(destination)
    # Even without another writer the lock may be taken for a moment: by a reader in `recover`.
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        _make_folder(work)
        lock = work / _LOCK
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        except FileNotFoundError:
            # The former holder of the lock has removed the folder that `_make_folder` has found.
            continue
        except OSError as error:
            raise DestinationError(error.errno, f"cannot write {lock}: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(descriptor)
            if time.monotonic() < deadline:
                time.sleep(0.01)
                continue
            raise DestinationError(
                f"{destination}: another process is writing it; wait for it to end"
            ) from None
        except OSError as error:
            _leave_folder(work, descriptor)
            raise DestinationError(
                error.errno,
                f"cannot lock {lock}: {error.strerror}; choose a folder on a file system that can",
            ) from None
        # A lock on a removed file locks nothing: the former holder may have removed this one after
        # it was opened here and before it was locked.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(lock), os.fstat(descriptor)):
                break
        os.close(descriptor)
    try:
        yield
    finally:
        _leave_folder(work, descriptor)


def _make_folder(work: Path) -> None:
    """Make the folder of a writer, if it is not there; refuse what is not a writer's."""
    try:
        work.mkdir()
    except FileExistsError:
        if not _is_ours(work):
            raise DestinationError(
                f"{work}: expected nothing there, or what cinicpack left there, found something "
                "else; move it elsewhere, or choose another name for what is to be written"
            ) from None
    except OSError as error:
        raise DestinationError(
            error.errno, f"cannot write in {work.parent}: {error.strerror}"
        ) from None


def _is_ours(work: Path) -> bool:
    """Tell whether a folder is that of a writer, alive or dead, or empty, or gone by now."""
    try:
        names = os.listdir(work)
    except FileNotFoundError:
        return not work.is_symlink()
    except NotADirectoryError:
        return False
    return not work.is_symlink() and (not names or _LOCK in names)


def _leave_folder(work: Path, descriptor: int) -> None:
    """Give the lock back; remove the lock file and the folder unless something is left in it."""
    with contextlib.suppress(FileNotFoundError):
        if os.listdir(work) == [_LOCK]:
            (work / _LOCK).unlink()
    os.close(descriptor)
    # Another writer may have put its lock into the folder by now, so a full folder is no error.
    with contextlib.suppress(OSError):
        work.rmdir()


def _sweep(work: Path) -> None:
    """Remove everything from the folder of a writer but the lock file."""
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(work):
            if name != _LOCK:
                _remove(work / name)


def _refuse_existing(
    overwrite: bool,
    find_other: Callable[[Path], str | None] | None,
    empty_folder: bool,
    destination: Path,
) -> None:
    if not os.path.lexists(destination):
        return
    if empty_folder:
        if destination.is_dir() and not destination.is_symlink() and not os.listdir(destination):
            return
        if not overwrite:
            raise DestinationError(
                f"{destination}: expected nothing there, or an empty directory; choose another "
                "name, or remove it yourself"
            )
    if find_other is not None and (other := find_other(destination)):
        raise DestinationError(
            f"{destination}: already exists and is not a pack and nothing else: found {other}; it "
            "is not overwritten: choose another name, or move or remove that yourself"
        )
    if not overwrite:
        raise DestinationError(
            f"{destination}: already exists; choose another name, or "
            "pass --overwrite (overwrite=True)"
        )


def _replace(temporary: Path, destination: Path, *, overwrite: bool) -> None:
    """Move ``temporary`` to ``destination``; what was there ends up under a temporary's name."""
    try:
        # A rename replaces a file or an empty directory, but no other directory.
        os.rename(temporary, destination)
        return
    except OSError as error:
        in_the_way = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.EISDIR)
        if not overwrite or error.errno not in in_the_way:
            raise
    if not _exchange(temporary, destination):
        os.rename(destination, temporary.with_name("old"))
        os.rename(temporary, destination)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two paths atomically; False where the system or the file system has no such call."""
    if not sys.platform.startswith("linux"):
        return False
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE):
        code = ctypes.get_errno()
        if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            return False
        raise OSError(code, os.strerror(code), str(first), None, str(second))
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Flush a file, or a directory and everything in it, to disk."""
    if path.is_dir():
        for folder, _, files in os.walk(path):
            for name in files:
                _sync_path(Path(folder, name))
            _sync_path(Path(folder))
    else:
        _sync_path(path)


# A second name, since an argument of `publishing` hides the first.
_sync_all = sync


def _sync_path(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
