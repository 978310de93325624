"""The lock of a writer: of one destination there is one writer at a time, and it has a folder.

What the folder is for, and what else is in it, says `store.publish`.
"""

import contextlib
import fcntl
import io
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cinicpack.errors import DestinationError

__all__ = ["LOCK", "locked", "work_of"]

#: The name of the lock file in the folder.
LOCK: Final = "cinicpack.lock"
_PATIENCE_SECONDS: Final = 0.5
# A link in the place of the lock file is refused, and a pipe or a device is not waited for.
_FLAGS: Final = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def work_of(destination: Path) -> Path:
    """Return the folder of the writer of ``destination``."""
    return destination.with_name(f".{destination.name}.tmp")


@contextlib.contextmanager
def locked(destination: Path, *, wait: bool) -> Iterator[None]:
    """Be the one writer of ``destination`` for the time of the block.

    Raises `DestinationError` where its folder cannot be written or locked and, unless it is to
    ``wait``, if another process writes ``destination``.
    """
    work = work_of(destination)
    # A file and no number: a file is closed, and so unlocked, wherever Ctrl-C comes.
    held: list[io.FileIO] = []
    try:
        try:
            # Even without another writer it may be locked for a moment: by a reader in `recover`.
            deadline = time.monotonic() + _PATIENCE_SECONDS
            while not _try_to_lock(work, held, wait=wait):
                if time.monotonic() >= deadline:
                    raise DestinationError(
                        f"{destination}: another process is writing it; wait for it to end"
                    )
                time.sleep(0.01)
            yield
        finally:
            _leave_folder(work, held)
    finally:
        # Once more, since Ctrl-C may have ended the first time; else there is nothing left to do.
        _leave_folder(work, held)


def _try_to_lock(work: Path, held: list[io.FileIO], *, wait: bool) -> bool:
    """Open the lock file, which is in ``held`` then, and lock it; False: another has locked it."""
    lock = work / LOCK
    while True:
        _make_folder(work)
        try:
            held.append(io.FileIO(lock, "r+", opener=_open_lock))
            fcntl.flock(held[0], fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except FileNotFoundError:
            # The former holder of the lock has removed the folder that `_make_folder` has found.
            continue
        except BlockingIOError:
            _close(held)
            return False
        except OSError as error:
            what, advice = f"write in {work.parent}", ""
            if held:
                what = f"lock a file in {work.parent}"
                advice = "; choose a folder on a file system that can"
            elif os.path.lexists(lock):
                what, advice = f"write {lock}", "; remove what is there"
            text = f"cannot {what}: {error.strerror}{advice}"
            raise DestinationError(error.errno, text) from None
        if _is_mine(held[0], lock):
            return True
        _close(held)


def _is_mine(file: io.FileIO, lock: Path) -> bool:
    """Tell whether an open lock file can be locked, or is, and is still there.

    A lock on a removed file locks nothing: the former holder may have removed it after it was
    opened here and before it was locked.
    """
    try:
        # For a file that is locked by way of the same opening this does nothing.
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        # On a file system that cannot lock nobody else has locked it either.
        pass
    try:
        return os.path.samestat(os.stat(lock), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _open_lock(lock: str, _: int) -> int:
    return os.open(lock, _FLAGS | os.O_CREAT, 0o666)


def _open_lock_there(lock: str, _: int) -> int:
    return os.open(lock, _FLAGS)


def _close(held: list[io.FileIO]) -> None:
    """Close the lock file, which gives the lock back also where the system returns an error."""
    while held:
        with contextlib.suppress(OSError):
            held.pop().close()


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
    return not work.is_symlink() and (not names or LOCK in names)


def _leave_folder(work: Path, held: list[io.FileIO]) -> None:
    """Give the lock back; remove the lock file and the folder unless something is left in it."""
    # What cannot be removed is swept by the next writer.
    with contextlib.suppress(OSError):
        if not held:
            # A lock file that nobody has locked stays if Ctrl-C comes while it is opened, or if the
            # first try to remove it has failed.
            held.append(io.FileIO(work / LOCK, "r+", opener=_open_lock_there))
        if os.listdir(work) == [LOCK] and _is_mine(held[0], work / LOCK):
            (work / LOCK).unlink()
    _close(held)
    # Another writer may have put its lock into the folder by now, so a full folder is no error.
    with contextlib.suppress(OSError):
        work.rmdir()
