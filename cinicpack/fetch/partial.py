"""Partial files: what has come of a download, and is kept until the rest comes."""

import contextlib
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cinicpack.errors import DestinationError, SourceError
from cinicpack.fetch.kinds import START_BYTES
from cinicpack.fetch.mirrors import RemoteFile
from cinicpack.store.region import write_all

__all__ = ["PartialFile", "find_differences", "opening"]

_BLOCK: Final = 1 << 20


class PartialFile:
    """``NAME.part``, the first bytes of a file.

    Attributes:
        path: where it is.
        size: how many bytes it has.
        found: how many of them were there before this call.
        is_moved: whether it has its final name.
    """

    def __init__(self, path: Path, descriptor: int, remote: RemoteFile) -> None:
        self.path = path
        self._descriptor = descriptor
        self._remote = remote
        self.is_moved = False
        self._read()
        self.found = self.size

    def take(self, position: int, block: bytes, url: str) -> int:
        """Append what comes at a position, and return the next; what is there already is compared.

        Raises `SourceError` if it is not what is there, and `DestinationError` if the disk is full.
        """
        with _naming(self.path):
            known = os.pread(self._descriptor, min(len(block), self.size - position), position)
        if not block.startswith(known):
            raise SourceError(
                f"{url}: expected what {self.path} begins with, found something else within the "
                f"bytes from {position:,} on: another file; remove that one if it is not the right "
                "one"
            )
        self._append(block[len(known) :])
        return position + len(block)

    def cut(self, size: int) -> None:
        """Keep only the first bytes."""
        with _naming(self.path):
            os.truncate(self._descriptor, size)
            self._read()
        self.found = min(self.found, size)

    def find_differences(self) -> str:
        """Say in what the whole file differs from what is published; "" if in nothing."""
        return _compare(self._digests, self._remote)

    def move(self, destination: Path) -> None:
        """Give the whole file its name."""
        with _naming(self.path):
            os.fsync(self._descriptor)
        if os.path.lexists(destination):
            raise DestinationError(
                f"{destination}: expected nothing there, found what has come meanwhile; move or "
                f"remove it, and run again: {self.path} is whole"
            )
        os.rename(self.path, destination)
        self.is_moved = True

    def check_room(self, nbytes: int) -> None:
        """Raise `DestinationError` if it has more than so many bytes, or the disk has no room."""
        if self.size > nbytes:
            raise DestinationError(
                f"{self.path}: expected the first of {nbytes:,} bytes, found {self.size:,}: "
                "another file; move or remove it, and run again"
            )
        free = shutil.disk_usage(self.path.parent).free
        if free < nbytes - self.size:
            raise DestinationError(
                f"{self.path}: expected room for {nbytes - self.size:,} bytes, found {free:,}; "
                "make more, or choose another place"
            )

    def _append(self, block: bytes) -> None:
        try:
            write_all(self._descriptor, memoryview(block), self.size)
        except OSError as error:
            # A full disk may have taken the first bytes of the block.
            self._read()
            raise DestinationError(
                error.errno,
                f"{self.path}: cannot write more than {self.size:,} bytes: {error.strerror}; make "
                "room and run again to go on from there",
            ) from None
        for digest in self._digests.values():
            digest.update(block)
        self.size += len(block)

    def _read(self) -> None:
        """Find out what is there: how much, and the digests of it."""
        with open(self._descriptor, "rb", closefd=False) as file:
            file.seek(0)
            self._digests = _digest(file, self._remote)
            self.size = file.tell()


def find_differences(path: Path, remote: RemoteFile) -> str:
    """Say in what a file differs from what is published of it; "" if in nothing."""
    if not path.is_file() or path.stat().st_size != remote.nbytes:
        return "another size"
    with _naming(path), open(path, "rb") as file:
        return _compare(_digest(file, remote), remote)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Name the file in errors of the system, which do not know it: calls are given a descriptor."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or isinstance(error, DestinationError):
            raise
        raise DestinationError(
            error.errno, f"{path}: cannot be read or written: {error.strerror}; run again"
        ) from None


@contextlib.contextmanager
def opening(destination: Path, remote: RemoteFile) -> Iterator[PartialFile]:
    """Open ``NAME.part``, and leave none that is empty.

    Raises `DestinationError` if it cannot be the start of the file: then it is left as it was.
    """
    path = destination.with_name(f"{destination.name}.part")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
    except OSError as error:
        raise DestinationError(error.errno, f"cannot write {path}: {error.strerror}") from None
    with _naming(path), open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise DestinationError(f"{path}: expected a file or nothing, found something else")
        start = file.read(START_BYTES)
        if not remote.kind.can_begin(start):
            raise DestinationError(
                f"{path}: expected the start of {remote.kind.name}, found {start[:8]!r}: another "
                "file; move or remove it, and run again"
            )
        part = PartialFile(path, descriptor, remote)
        try:
            yield part
        finally:
            if not part.size:
                os.unlink(path)
            if part.is_moved:
                # All of it was synced before it got its name, so closing it cannot lose anything.
                with contextlib.suppress(OSError):
                    file.close()


def _digest(file: object, remote: RemoteFile) -> dict[str, "hashlib._Hash"]:
    # The published digests show a damaged file; nobody's security rests on them.
    digests = {name: hashlib.new(name, usedforsecurity=False) for name, _ in remote.digests}
    while block := file.read(_BLOCK):  # type: ignore[attr-defined]
        for digest in digests.values():
            digest.update(block)
    return digests


def _compare(digests: dict[str, "hashlib._Hash"], remote: RemoteFile) -> str:
    return ", ".join(
        f"{name.upper()} {digests[name].hexdigest()} and not {expected}"
        for name, expected in remote.digests
        if digests[name].hexdigest() != expected
    )
