"""A transfer: one file comes over HTTP, in as many requests as it takes, and is checked."""

import http.client
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple

from cinicpack.errors import DestinationError, SourceError
from cinicpack.fetch.http import ask_size, put_in_words, read_blocks, request
from cinicpack.fetch.mirrors import RemoteFile
from cinicpack.fetch.partial import PartialFile, find_differences, opening
from cinicpack.store.lock import locked
from cinicpack.store.publish import tidy
from cinicpack.terminal import progress_bar, say

__all__ = ["Patience", "learn", "transfer"]


class Patience(NamedTuple):
    """How long a transfer waits.

    Attributes:
        pauses: seconds before each further try, while not a byte comes. A server whose name is not
            known is not tried again, unless something has come from it.
        timeout: seconds without a byte after which a connection is given up.
        offer_after: seconds after which it is said how long the rest will take, and what else there
            is, if that is longer than ``long``.
        long: seconds.
        clock: gives the time in seconds.
    """

    pauses: Sequence[float] = (1, 3, 10, 30)
    timeout: float = 60.0
    offer_after: float = 10.0
    long: float = 300.0
    clock: Callable[[], float] = time.monotonic


def transfer(
    remote: RemoteFile,
    destination: Path,
    patience: Patience,
    *,
    offer: str = "",
    progress: bool = True,
) -> Path:
    """Fetch a file, and check it; one that is there already is checked.

    What has come is kept in ``NAME.part``: when a connection breaks, and in a later call, it goes
    on from there. A server that can only begin at the start is listened to, and what it sends is
    compared with what is there. What cannot be the start of the file is not kept; and where the
    digest of the whole is wrong, what is known to be right is.

    Raises:
        SourceError: no address has the file.
        DestinationError: another file is there, the disk is full or cannot be written, or another
            process is downloading to the same place.
    """
    assert remote.nbytes is not None
    if os.path.lexists(destination):
        if differs := find_differences(destination, remote):
            raise DestinationError(
                f"{destination}: expected nothing there, or the file of {remote.nbytes:,} bytes, "
                f"found something else ({differs}); choose another name, or remove it yourself"
            )
        tidy(destination)
        return destination
    with locked(destination, wait=False), opening(destination, remote) as part:
        part.check_room(remote.nbytes)
        with progress_bar(
            shown=progress,
            total=remote.nbytes,
            initial=part.size,
            unit="B",
            unit_scale=True,
            desc=remote.name,
        ) as bar:
            _Transfer(remote, part, patience, bar, offer, progress).run()
        part.move(destination)
    return destination


def learn(remote: RemoteFile, patience: Patience, *, progress: bool = True) -> RemoteFile:
    """Ask the server how large a file is and, if it is the hub, for its digest."""
    tries = _Tries(remote, patience, progress)
    while True:
        try:
            nbytes, digest = ask_size(tries.url, patience.timeout)
        except SourceError as error:
            tries.drop(error)
        except (OSError, http.client.HTTPException) as error:
            tries.wait(error, 0)
        else:
            digests = () if digest is None else (("sha256", digest),)
            return remote._replace(nbytes=nbytes, digests=digests)


class _Transfer:
    """One file on its way, from whichever of its addresses."""

    def __init__(
        self,
        remote: RemoteFile,
        part: PartialFile,
        patience: Patience,
        bar: Any,  # a tqdm, which has no types
        offer: str,
        progress: bool,
    ) -> None:
        self._remote = remote
        self._nbytes: int = remote.nbytes or 0
        self._part = part
        self._patience = patience
        self._bar = bar
        self._offer = offer
        self._progress = progress
        self._began = patience.clock(), part.size

    def run(self) -> None:
        """Fetch what is lacking, and check the whole; once, what is wrong is fetched anew."""
        self._fill()
        if not self._part.find_differences():
            return
        sound = self._remote.kind.count_sound(self._part.path)
        if sound:
            self._part.cut(sound)
            say(f"{self._remote.name}: damaged after {sound:,} bytes", progress=self._progress)
            self._fill()
        if differs := self._part.find_differences():
            self._give_up(differs)

    def _fill(self) -> None:
        tries = _Tries(self._remote, self._patience, self._progress)
        while self._part.size < self._nbytes:
            before = self._part.size
            try:
                error = self._fetch(tries.url)
            except SourceError as refusal:
                tries.drop(refusal)
                continue
            if self._part.size > before:
                tries.restart()
            if self._part.size < self._nbytes:
                tries.wait(error, self._part.size)

    def _fetch(self, url: str) -> Exception | None:
        """Append what one request gives; return the error that ended it, if there was one."""
        part = self._part
        try:
            with request(url, part.size, self._nbytes, self._patience.timeout) as response:
                # Status 200 is the whole file, even if the rest was asked for.
                position = 0 if response.status == HTTPStatus.OK else part.size
                for block in read_blocks(response, url, self._remote, position):
                    position = part.take(position, block, url)
                    self._bar.update(part.size - self._bar.n)
                    self._offer_another()
        except DestinationError:
            raise
        except (OSError, http.client.HTTPException) as error:
            return error
        return None

    def _offer_another(self) -> None:
        """Say once how long it will take, if that is long, and what else there is."""
        (start, size), now = self._began, self._patience.clock()
        if not self._offer or now - start < self._patience.offer_after:
            return
        rate = (self._part.size - size) / (now - start)
        left = (self._nbytes - self._part.size) / max(rate, 1.0)
        if left > self._patience.long:
            say(
                f"{self._remote.name}: {rate / 1e6:.1f} MB/s, so {left / 60:,.0f} minutes to go; "
                f"{self._offer}",
                progress=self._progress,
            )
            self._offer = ""

    def _give_up(self, differs: str) -> None:
        """Keep what is right, and say that the whole is wrong."""
        part, remote = self._part, self._remote
        if sound := remote.kind.count_sound(part.path):
            part.cut(sound)
            raise SourceError(
                f"{remote.urls[0]}: expected the file as published, found {differs}; its first "
                f"{sound:,} bytes are kept in {part.path}: run again to go on from there"
            )
        if part.found:
            part.cut(part.found)
            raise DestinationError(
                f"{part.path}: expected the start of the file as published, found with the rest "
                f"from {remote.urls[0]} {differs}: one of the two is another file, or damaged; "
                f"the first {part.found:,} bytes are as they were: move or remove it, and run again"
            )
        part.cut(0)
        raise SourceError(
            f"{remote.urls[0]}: expected the file as published, found {differs}: another file, or "
            "damaged on the way; it is deleted; run again"
        )


class _Tries:
    """Which address is next, and how long to wait before."""

    def __init__(self, remote: RemoteFile, patience: Patience, progress: bool) -> None:
        self._urls = deque(remote.urls)
        self._nbytes = remote.nbytes
        self._patience = patience
        self._progress = progress
        self._refusals: list[str] = []
        self._any_came = False
        self._waiting = iter(patience.pauses)

    @property
    def url(self) -> str:
        """The address whose turn it is."""
        return self._urls[0]

    def restart(self) -> None:
        """Begin with the first pause again, because something has come."""
        self._any_came, self._waiting = True, iter(self._patience.pauses)

    def drop(self, refusal: SourceError) -> None:
        """Take the address out that has something else; raise what all said if it was the last."""
        self._urls.popleft()
        self._refusals.append(str(refusal))
        if not self._urls:
            raise SourceError("; ".join(self._refusals)) from None
        say(f"{refusal}; trying {self.url}", progress=self._progress)

    def wait(self, error: Exception | None, size: int) -> None:
        """Wait, and let the next address have its turn; raise `SourceError` after the last try."""
        # urllib wraps the error of the socket in an URLError; only the former says what is wrong.
        reason = getattr(error, "reason", None)
        error = reason if isinstance(reason, Exception) else error
        is_unknown = isinstance(error, socket.gaierror)
        problem = put_in_words(error, self.url, self._patience.timeout)
        pause = next(self._waiting, None)
        # Do not wait for an unknown name: a typing error, or a machine without a network, does not
        # come right in a minute.
        if pause is None or (is_unknown and not self._any_came):
            advice = "check the network, run again" if is_unknown else "run again"
            if size:
                expected = "a file" if self._nbytes is None else f"{self._nbytes:,} bytes"
                problem = f"expected {expected}, found {size:,}, and then: {problem}"
                advice += " to go on from there"
            raise SourceError(f"{self.url}: {problem}; {advice}")
        say(
            f"{self.url}: {problem}, after {size:,} bytes; trying again in {pause:g} s",
            progress=self._progress,
        )
        time.sleep(pause)
        self._urls.rotate(-1)
