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
import errno
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

from cinicpack.errors import DestinationError
from cinicpack.store.lock import LOCK, locked, work_of
from cinicpack.store.replacing import check_place, check_replaceable, replace
from cinicpack.text import some

__all__ = ["check_free", "publishing", "recover", "sync", "tidy"]

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

    What goes wrong after the renaming is a warning, since ``destination`` is there by then: it may
    not be on the disk yet, or something may be left beside it. What goes wrong in clearing up after
    an error is a note to that error.

    Raises `DestinationError` if ``destination`` exists and is not to be replaced, or cannot be by a
    renaming; if its folder does not exist, cannot be written, or has something else under the name
    of our own; and if another process is writing it.
    """
    refuse_existing = partial(_refuse_existing, overwrite, find_other, empty_folder)
    if empty_folder and destination.is_symlink():
        refuse_existing(destination)
    # What a link leads to is replaced, since a rename onto the link would replace the link.
    destination = Path(os.path.realpath(destination))
    check_place(destination)
    work = work_of(destination)
    with locked(destination, wait=False), _clearing(destination), _naming(destination):
        _put_back(destination)
        if problems := _sweep(work):
            raise DestinationError(
                f"{work}: cannot be cleared: {some(problems)}; remove it yourself"
            )
        refuse_existing(destination)
        if overwrite:
            check_replaceable(destination, work)
        yield work / "new"
        if sync:
            _sync_all(work / "new")
        # Another program may have put something there while the block ran.
        refuse_existing(destination)
        replace(work / "new", destination, overwrite=overwrite, aside=work / "old")
        if sync:
            _sync_renaming(destination)


@contextlib.contextmanager
def _clearing(destination: Path) -> Iterator[None]:
    """Clear up after a writer, whatever happens; no error of that hides one of the block."""
    try:
        try:
            yield
        finally:
            problems = _clear(destination)
    except BaseException as error:
        # Once more, since Ctrl-C may have ended the first time; else there is nothing left to do.
        for problem in _clear(destination):
            error.add_note(problem)
        raise
    # Once more, since what fails once may succeed the second time.
    for problem in problems and _clear(destination):
        warnings.warn(f"{destination} was made, but {problem}", stacklevel=2)


def _clear(destination: Path) -> list[str]:
    """Put the former destination back if there is none, and sweep; say what could not be done."""
    work = work_of(destination)
    try:
        # Without an atomic exchange the destination is gone if the second rename has failed.
        _put_back(destination)
    except OSError as error:
        return [f"what was at {destination} is at {work / 'old'} now: {error.strerror}"]
    # After an exchange the former destination lies in the folder, and goes with it.
    problems = _sweep(work)
    return [f"{work} stays: {some(problems)}; remove it yourself"] if problems else []


def _sync_renaming(destination: Path) -> None:
    try:
        _sync_path(destination.parent)
    except OSError as error:
        warnings.warn(
            f"{destination} was made, but may be gone after a power failure: its folder could not "
            f"be synced to disk ({error.strerror})",
            stacklevel=2,
        )


@contextlib.contextmanager
def _naming(destination: Path) -> Iterator[None]:
    """Name the destination in errors that name no file, or one in the folder of its writer."""
    work = work_of(destination)
    try:
        yield
    except DestinationError as error:
        if error.strerror and str(work / "new") in error.strerror:
            error.strerror = error.strerror.replace(str(work / "new"), str(destination))
        raise
    except OSError as error:
        if error.errno in _FULL:
            raise DestinationError(
                error.errno,
                f"{destination}: no more can be written in its folder "
                f"({os.strerror(error.errno)}); make room for twice the size of the pack",
            ) from error
        # A call that was given a descriptor does not know the name of the file.
        names = [Path(name) for name in (error.filename, error.filename2) if name is not None]
        if error.errno is None or (names and not any(work in name.parents for name in names)):
            raise
        raise DestinationError(
            error.errno, f"{destination}: it could not be made: {error.strerror}"
        ) from error


def recover(destination: Path) -> bool:
    """Put the former ``destination`` back if a writer died between its two renames.

    A living writer is waited for: it is about to do the second. Says whether ``destination`` is
    there now.
    """
    work = work_of(destination)
    if not os.path.lexists(destination) and all(
        os.path.lexists(work / name) for name in ("old", LOCK)
    ):
        with locked(destination, wait=True):
            _put_back(destination)
    return os.path.lexists(destination)


def tidy(destination: Path) -> None:
    """Remove what a writer of ``destination`` has left that died when all was done.

    For whoever finds ``destination`` there and does not write it. Another process that writes it
    removes all that by itself.
    """
    work = work_of(destination)
    if os.path.lexists(work):
        with contextlib.suppress(DestinationError), locked(destination, wait=False):
            _sweep(work)


def _put_back(destination: Path) -> None:
    old = work_of(destination) / "old"
    if os.path.lexists(old) and not os.path.lexists(destination):
        with contextlib.suppress(FileNotFoundError):
            os.rename(old, destination)


def _sweep(work: Path) -> list[str]:
    """Remove everything from the folder of a writer but the lock file; say what stays, and why."""
    try:
        names = os.listdir(work)
    except FileNotFoundError:
        return []
    except OSError as error:
        return [f"{work}: {error.strerror}"]
    return [problem for name in names if name != LOCK and (problem := _remove(work / name))]


def _remove(path: Path) -> str | None:
    """Remove a file, or a directory and all in it that can be removed; say what stays, and why."""
    is_folder = path.is_dir() and not path.is_symlink()
    if is_folder:
        shutil.rmtree(path, ignore_errors=True)
    try:
        # Of a folder that is still there the second try tells what is wrong.
        if not is_folder:
            path.unlink(missing_ok=True)
        elif path.exists():
            shutil.rmtree(path)
    except OSError as error:
        return f"{path}: {error.strerror}"
    return None


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


def check_free(destination: Path) -> None:
    """Raise `DestinationError` before the work where `publishing` without ``overwrite`` would."""
    destination = Path(os.path.realpath(destination))
    check_place(destination)
    _refuse_existing(False, None, False, destination)


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
