"""Downloading the archive of CINIC-10: what breaks off goes on later, and the MD5 is checked.

Address, size and MD5 are those of https://datashare.ed.ac.uk/handle/10283/3192 (README of
BayesWatch/cinic-10, "Download").
"""

import contextlib
import hashlib
import http.client
import os
import re
import shutil
import socket
import stat
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

from tqdm import tqdm

import cinicpack
from cinicpack.cinic10 import ARCHIVE_BYTES, ARCHIVE_MD5, ARCHIVE_URL
from cinicpack.errors import ArgumentError, DestinationError, SourceError
from cinicpack.store.lock import locked
from cinicpack.store.region import write_all

__all__ = ["download"]

_BLOCK: Final = 1 << 20
_TIMEOUT: Final = 60.0
_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]+)-[0-9]+/([0-9]+|\*)")
# Statuses of HTTP after which another try may succeed.
_PASSING: Final = (408, 429, 500, 502, 503, 504)

Bar: TypeAlias = Any  # a tqdm, which has no types


def download(
    destination: str | os.PathLike[str] = ".",
    *,
    url: str = ARCHIVE_URL,
    nbytes: int = ARCHIVE_BYTES,
    md5: str = ARCHIVE_MD5,
    pauses: Sequence[float] = (1, 3, 10, 30),
    progress: bool = True,
) -> Path:
    """Fetch the archive of CINIC-10 and check it, as an alternative to the authors' wget.

    What has come is kept in ``NAME.part``: when a connection breaks, and in a later call, the
    download goes on from there, or from the start where the server cannot do that. An archive that
    is there already is checked. A ``NAME.part`` of another file is refused and left as it was,
    unless the server can only begin at the start.

    Args:
        destination: the file to write, or a directory to write ``CINIC-10.tar.gz`` in.
        url: where to get it; at another place has to be the same file.
        nbytes: its size.
        md5: its MD5.
        pauses: seconds to wait before each further try, while not a byte comes. A server whose name
            is not known is not tried again, unless something has come from it.
        progress: say on standard error why and when it tries again, and show a bar if that is a
            terminal.

    Returns:
        Where it is.

    Raises:
        SourceError: the server does not answer, or has not the file.
        DestinationError: another file is there, the disk is full or cannot be written, or another
            process is downloading to the same place.
        ArgumentError: ``url`` is no http or https address.

    >>> download("data")  # doctest: +SKIP
    PosixPath('data/CINIC-10.tar.gz')
    """
    if not _is_web_address(url):
        raise ArgumentError(f"expected an address like {ARCHIVE_URL}, found {url!r}")
    destination = Path(destination)
    if destination.is_dir():
        destination /= ARCHIVE_URL.rpartition("/")[2]
    if os.path.lexists(destination):
        _check_existing(destination, nbytes, md5)
        return destination
    with locked(destination, wait=False), _opening(destination) as part:
        _check_space(part, nbytes)
        bar = tqdm(
            total=nbytes,
            initial=part.size,
            unit="B",
            unit_scale=True,
            desc=destination.name,
            disable=None if progress else True,
        )
        with bar:
            _fill(part, url, nbytes, pauses, bar, print_tries=progress)
        _finish(part, destination, url, md5)
    return destination


@dataclass
class _PartialFile:
    """The file that a download goes into; its first ``found`` bytes are of an earlier call."""

    path: Path
    descriptor: int
    size: int
    found: int
    digest: "hashlib._Hash"

    def append(self, block: bytes) -> None:
        try:
            write_all(self.descriptor, memoryview(block), self.size)
        except OSError as error:
            # A full disk may have taken the first bytes of the block.
            self.size = os.fstat(self.descriptor).st_size
            raise DestinationError(
                error.errno,
                f"{self.path}: cannot write more than {self.size:,} bytes: {error.strerror}; make "
                "room and run again to go on from there",
            ) from None
        self.digest.update(block)
        self.size += len(block)

    def clear(self) -> None:
        os.truncate(self.descriptor, 0)
        self.size = self.found = 0
        self.digest = _md5()


@contextlib.contextmanager
def _opening(destination: Path) -> Iterator[_PartialFile]:
    """Open ``NAME.part``, and read what is in it; leave none that is empty."""
    path = destination.with_name(f"{destination.name}.part")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise DestinationError(error.errno, f"cannot write {path}: {error.strerror}") from None
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise DestinationError(f"{path}: expected a file or nothing, found something else")
        digest = hashlib.file_digest(file, _md5)
        part = _PartialFile(path, descriptor, file.tell(), file.tell(), digest)
        try:
            yield part
        finally:
            if not part.size:
                os.unlink(path)


def _fill(
    part: _PartialFile,
    url: str,
    nbytes: int,
    pauses: Sequence[float],
    bar: Bar,
    *,
    print_tries: bool,
) -> None:
    """Fetch what is lacking, in as many requests as it takes while something comes."""
    waiting = iter(pauses)
    any_came = False
    while part.size < nbytes:
        before = part.size
        error = _fetch(part, url, nbytes, bar)
        if part.size > before:
            waiting, any_came = iter(pauses), True
        if part.size < nbytes:
            problem = _put_in_words(error, url)
            pause = next(waiting, None)
            # Do not wait for an unknown name: a typing error, or a machine without a network, does
            # not come right in a minute.
            if pause is None or (_is_unknown_name(error) and not any_came):
                advice = "check the network, run again" if _is_unknown_name(error) else "run again"
                raise SourceError(
                    f"{url}: expected {nbytes:,} bytes, found {part.size:,}, and then: {problem}; "
                    f"{advice}{' to go on from there' if part.size else ''}, or get it elsewhere "
                    "with --url (url=)"
                )
            if print_tries:
                # tqdm writes the line above the bar, which print() would break.
                tqdm.write(
                    f"{url}: {problem}, after {part.size:,} bytes; trying again in {pause:g} s",
                    file=sys.stderr,
                )
            time.sleep(pause)


def _fetch(part: _PartialFile, url: str, nbytes: int, bar: Bar) -> Exception | None:
    """Append what one request gives; return the error that ended it, if there was one."""
    try:
        with _request(url, part.size, nbytes) as response:
            if response.status == HTTPStatus.OK:
                # Status 200 is the whole file, even if the rest was asked for: a server without
                # ranges.
                part.clear()
                bar.reset()
            while part.size < nbytes and (block := response.read1(_BLOCK)):
                part.append(block[: nbytes - part.size])
                bar.update(len(block))
    except DestinationError:
        raise
    except (OSError, http.client.HTTPException) as error:
        # urllib wraps the error of the socket in an URLError; only the former says what is wrong.
        reason = getattr(error, "reason", None)
        return reason if isinstance(reason, Exception) else error
    return None


def _is_unknown_name(error: Exception | None) -> bool:
    return isinstance(error, socket.gaierror)


def _put_in_words(error: Exception | None, url: str) -> str:
    """Say in words why a request ended before the file did."""
    if error is None:
        return "the connection ended"
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answers {error.code} {error.reason}"
    # strerror is the text alone, without "[Errno 111]".
    text = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
    if _is_unknown_name(error):
        return f"no address is known for {urlsplit(url).hostname} ({text})"
    return text


def _request(url: str, start: int, nbytes: int) -> http.client.HTTPResponse:
    """Ask for the file from ``start`` on; refuse an answer that is something else."""
    headers = {"User-Agent": f"cinicpack/{cinicpack.__version__}", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    request = urllib.request.Request(url, headers=headers)
    try:
        response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        with error:
            if error.code in _PASSING:
                raise
            raise SourceError(
                f"{url}: expected the archive, found that the server answers {error.code} "
                f"{error.reason}; get it elsewhere with --url (url=)"
            ) from None
    length = response.headers["Content-Length"]
    if response.status == HTTPStatus.OK and length in (None, str(nbytes)):
        return response
    span = _CONTENT_RANGE.fullmatch(response.headers["Content-Range"] or "")
    if response.status == HTTPStatus.PARTIAL_CONTENT and span:
        first, total = span.groups()
        if first == str(start) and total in ("*", str(nbytes)):
            return response
    response.close()
    found = span[0] if span else f"{length} bytes (status {response.status})"
    raise SourceError(
        f"{url}: expected {nbytes:,} bytes from {start:,} on, found {found}: another file; get it "
        "elsewhere with --url (url=)"
    )


def _finish(part: _PartialFile, destination: Path, url: str, md5: str) -> None:
    """Give the file its name, if it is the right one."""
    if (found := part.digest.hexdigest()) != md5:
        if part.found:
            os.truncate(part.descriptor, part.found)
            raise DestinationError(
                f"{part.path}: expected MD5 {md5} of its {part.found:,} bytes with the rest "
                f"from {url}, found {found}: one of the two is another file, or damaged; the "
                "first is as it was: move or remove it, and run again"
            )
        os.unlink(part.path)
        raise SourceError(
            f"{url}: expected MD5 {md5}, found {found}: another file, or damaged on the way; "
            f"it is deleted; run again, or get it elsewhere with --url (url=)"
        )
    os.fsync(part.descriptor)
    if os.path.lexists(destination):
        raise DestinationError(
            f"{destination}: expected nothing there, found what has come meanwhile; move or "
            f"remove it, and run again: {part.path} is whole"
        )
    os.rename(part.path, destination)


def _check_existing(path: Path, nbytes: int, md5: str) -> None:
    if not path.is_file() or path.stat().st_size != nbytes or _hash_file(path) != md5:
        raise DestinationError(
            f"{path}: expected nothing there, or the archive ({nbytes:,} bytes, MD5 {md5}), found "
            "something else; choose another name, or remove it yourself"
        )


def _check_space(part: _PartialFile, nbytes: int) -> None:
    if part.size > nbytes:
        raise DestinationError(
            f"{part.path}: expected the first of {nbytes:,} bytes, found {part.size:,}: "
            "another file; move or remove it, and run again"
        )
    free = shutil.disk_usage(part.path.parent).free
    if free < nbytes - part.size:
        raise DestinationError(
            f"{part.path}: expected room for {nbytes - part.size:,} bytes, found {free:,}; make "
            "more, or choose another place"
        )


def _hash_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, _md5).hexdigest()


def _md5() -> "hashlib._Hash":
    # Not for security: the published MD5 shows a damaged file, and no forged one.
    return hashlib.md5(usedforsecurity=False)


def _is_web_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)
