"""HTTP: a file is asked for, or the rest of one, and what comes is checked as far as it can be."""

import http.client
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlsplit

import cinicpack
from cinicpack.errors import SourceError
from cinicpack.fetch.kinds import START_BYTES
from cinicpack.fetch.mirrors import RemoteFile

__all__ = ["ask_size", "put_in_words", "read_blocks", "request"]

_BLOCK: Final = 1 << 20
_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]+)-[0-9]+/([0-9]+|\*)")
_SHA256: Final = re.compile(r'(?:W/)?"?([0-9a-f]{64})"?')
# Statuses of HTTP after which another try may succeed.
_PASSING: Final = (408, 429, 500, 502, 503, 504)
# Headers in which the hub describes a file while it leads to the server that has the file.
_LINKED: Final = ("X-Linked-Size", "X-Linked-ETag")


def request(url: str, start: int, nbytes: int, timeout: float) -> http.client.HTTPResponse:
    """Ask for the file from ``start`` on; refuse an answer that is something else."""
    headers = {"Range": f"bytes={start}-"} if start else {}
    response = _open(url, headers, timeout, _Redirects())
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
        f"{url}: expected {nbytes:,} bytes from {start:,} on, found {found}: another file"
    )


def ask_size(url: str, timeout: float) -> tuple[int, str | None]:
    """Return the size of a file, and its SHA-256 if the server is the hub, which says it.

    Raises `SourceError` if the server does not say the size.
    """
    # The request is a GET, since the hub leads to addresses that are signed for GET alone.
    redirects = _Redirects()
    with _open(url, {}, timeout, redirects) as response:
        said = {name: response.headers[name] or redirects.said.get(name) for name in _LINKED}
        size = said["X-Linked-Size"] or response.headers["Content-Length"]
    if size is None or not size.isdigit():
        raise SourceError(f"{url}: expected the size of a file, found none")
    digest = _SHA256.fullmatch(said["X-Linked-ETag"] or "")
    return int(size), digest[1] if digest else None


def read_blocks(
    response: http.client.HTTPResponse, url: str, remote: RemoteFile, position: int
) -> Iterator[bytes]:
    """Give what comes from ``position`` on; what is more than the file is cut off.

    The first bytes of a file are given together, if a file of its kind can begin so; else this
    raises `SourceError`.
    """
    left = (remote.nbytes or 0) - position
    start = b""
    is_checked = position > 0
    while left and (block := response.read1(min(_BLOCK, left))):
        left -= len(block)
        if not is_checked:
            start += block
            if left and len(start) < START_BYTES:
                continue
            block, start, is_checked = _check_start(start, url, remote), b"", True
        yield block
    if start:
        yield _check_start(start, url, remote)


def _check_start(start: bytes, url: str, remote: RemoteFile) -> bytes:
    if not remote.kind.can_begin(start):
        raise SourceError(
            f"{url}: expected {remote.kind.name}, found what starts with {start[:16]!r}"
        )
    return start


def put_in_words(error: Exception | None, url: str, timeout: float) -> str:
    """Say in words why a request ended before the file did."""
    if error is None:
        return "the connection ended"
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answers {error.code} {error.reason}"
    if isinstance(error, TimeoutError):
        return f"nothing came for {timeout:g} s"
    # strerror is the text alone, without "[Errno 111]".
    text = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
    if isinstance(error, socket.gaierror):
        return f"no address is known for {urlsplit(url).hostname} ({text})"
    return text


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, and notes in ``said`` what the hub says on the way."""

    def __init__(self) -> None:
        self.said: dict[str, str] = {}

    def redirect_request(
        self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, url: Any
    ) -> Any:
        self.said |= {name: headers[name] for name in _LINKED if headers[name]}
        return super().redirect_request(req, fp, code, msg, headers, url)


def _open(
    url: str,
    headers: dict[str, str],
    timeout: float,
    redirects: _Redirects,
) -> http.client.HTTPResponse:
    """Send a request; raises `SourceError` for an answer after which no other try can succeed."""
    agent = f"cinicpack/{cinicpack.__version__}"
    headers = {"User-Agent": agent, "Accept-Encoding": "identity", **headers}
    asked = urllib.request.Request(url, headers=headers)
    opener = urllib.request.build_opener(redirects)
    try:
        response: http.client.HTTPResponse = opener.open(asked, timeout=timeout)
    except urllib.error.HTTPError as error:
        with error:
            if error.code in _PASSING:
                raise
            raise SourceError(
                f"{url}: expected a file, found that the server answers {error.code} {error.reason}"
            ) from None
    return response
