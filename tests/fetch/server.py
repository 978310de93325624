"""A web server that has one file, and behaves as it is told to."""

import gzip
import io
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import md5, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import numpy as np

from cinicpack.fetch.kinds import TAR_GZ
from cinicpack.fetch.mirrors import RemoteFile
from cinicpack.fetch.transfer import Patience
from cinicpack.formats.png import encode_pngs

__all__ = ["CONTENT", "HURRY", "PAGE", "Server", "serving"]

PAGE = b"<html>Log in to this network</html>" * 300
#: Without any waiting, but for a server that stalls.
HURRY = Patience(pauses=(0, 0), timeout=0.2)


def _make_archive() -> bytes:
    """Make a tar.gz of 120 images of noise, 310 kB: the same in all processes, at all times."""
    out = io.BytesIO()
    images = np.random.default_rng(0).integers(0, 256, (120, 28, 28, 3), np.uint8)
    with tarfile.open(fileobj=out, mode="w") as archive:
        for number, content in enumerate(encode_pngs(images)):
            member = tarfile.TarInfo(f"CINIC-10/train/cat/{number:08d}.png")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return gzip.compress(out.getvalue(), mtime=0)


CONTENT = _make_archive()


@dataclass
class Server:
    """A file on a web server, and how it behaves.

    ``ends`` has for each request in turn after how many bytes the connection ends, or a status to
    answer with (400 to 599), or minus the number of bytes after which nothing comes any more; after
    these, everything comes. Some paths behave in their own way: ``/moved`` and ``/round`` lead
    elsewhere, ``/page`` is a web page for every request, ``/begins`` gives the file from its start
    whatever range it says, ``/linked/...`` does as the hub does.
    """

    content: bytes = CONTENT
    ranges: bool = True
    length: bool = True
    total: str | None = None
    shift: int = 0
    ends: list[int] = field(default_factory=list)
    requests: list[str | None] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    linked_size: int | None = None
    url: str = ""
    released: threading.Event = field(default_factory=threading.Event)

    def at(self, path: str) -> str:
        return f"http://{urlsplit(self.url).netloc}/{path}"

    def remote(self, *paths: str, **changes: object) -> RemoteFile:
        """Say what is published of the file at these paths."""
        digests = (("md5", md5(CONTENT).hexdigest()), ("sha256", sha256(CONTENT).hexdigest()))
        urls = tuple(self.at(path) for path in paths) or (self.url,)
        file = RemoteFile("CINIC-10.tar.gz", urls, TAR_GZ, len(CONTENT), digests)
        return file._replace(**changes)  # type: ignore[arg-type]

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = handler.path.lstrip("/")
        self.paths.append(path)
        if path.startswith("linked/"):
            self.lead_on(handler, path.removeprefix("linked/"))
        elif path in ("moved", "round"):
            handler.send_response(302)
            handler.send_header("Location", "/round" if path == "round" else "/CINIC-10.tar.gz")
            handler.end_headers()
        elif path == "page":
            self.requests.append(handler.headers["Range"])
            handler.send_response(200)
            handler.end_headers()
            handler.wfile.write(PAGE)
        else:
            self.send(handler, self.files.get(path, self.content), begins=path == "begins")

    def lead_on(self, handler: BaseHTTPRequestHandler, path: str) -> None:
        content = self.files[path]
        handler.send_response(302)
        handler.send_header("Location", f"/{path}")
        handler.send_header("X-Linked-Size", str(self.linked_size or len(content)))
        handler.send_header("X-Linked-ETag", f'"{sha256(content).hexdigest()}"')
        handler.end_headers()

    def send(self, handler: BaseHTTPRequestHandler, content: bytes, *, begins: bool) -> None:
        asked = handler.headers["Range"]
        self.requests.append(asked)
        end = self.ends.pop(0) if self.ends else len(content)
        if 400 <= end < 600:
            handler.send_error(end)
            return
        start = 0
        if asked and self.ranges:
            start = int(asked.removeprefix("bytes=").removesuffix("-")) + self.shift
            handler.send_response(206)
            last, total = len(content) - 1, self.total or len(content)
            handler.send_header("Content-Range", f"bytes {start}-{last}/{total}")
        else:
            handler.send_response(200)
        if self.length:
            handler.send_header("Content-Length", str(len(content) - start))
        handler.end_headers()
        first = 0 if begins else start
        handler.wfile.write(content[first : first + min(abs(end), len(content) - start)])
        if end < 0:
            handler.wfile.flush()
            self.released.wait()


@contextmanager
def serving() -> Iterator[Server]:
    behaviour = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            behaviour.answer(self)

        def log_message(self, *_: object) -> None:
            pass

        def handle(self) -> None:
            # An error means that the other side has given up.
            with suppress(ConnectionError):
                super().handle()

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        behaviour.url = f"http://127.0.0.1:{httpd.server_port}/CINIC-10.tar.gz"
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield behaviour
        finally:
            behaviour.released.set()
            httpd.shutdown()
            thread.join()
