import hashlib
import os
import resource
import socket
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

import cinicpack
from cinicpack import cinic10
from cinicpack.cli import main
from cinicpack.errors import ArgumentError, DestinationError, SourceError
from cinicpack.store.lock import locked
from cinicpack.study.download import download
from cinicpack.synthetic import write_tree

CONTENT = np.random.default_rng(0).bytes(300_000)


@dataclass
class Server:
    """A file on a web server, and how it behaves.

    ``ends`` has for each request in turn how many bytes come before the connection ends, or a
    status to answer with; after these, everything comes.
    """

    content: bytes = CONTENT
    ranges: bool = True
    length: bool = True
    total: str | None = None
    shift: int = 0
    ends: list[int] = field(default_factory=list)
    requests: list[str | None] = field(default_factory=list)
    url: str = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        asked = handler.headers["Range"]
        self.requests.append(asked)
        end = self.ends.pop(0) if self.ends else len(self.content)
        if 400 <= end < 600:
            handler.send_error(end)
            return
        start = 0
        if asked and self.ranges:
            start = int(asked.removeprefix("bytes=").removesuffix("-")) + self.shift
            handler.send_response(206)
            last, total = len(self.content) - 1, self.total or len(self.content)
            handler.send_header("Content-Range", f"bytes {start}-{last}/{total}")
        else:
            handler.send_response(200)
        if self.length:
            handler.send_header("Content-Length", str(len(self.content) - start))
        handler.end_headers()
        handler.wfile.write(self.content[start : start + end])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    behaviour = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/moved":
                self.send_response(302)
                self.send_header("Location", "/CINIC-10.tar.gz")
                self.end_headers()
            else:
                behaviour.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        behaviour.url = f"http://127.0.0.1:{httpd.server_port}/CINIC-10.tar.gz"
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        yield behaviour
        httpd.shutdown()
        thread.join()


def fetch(server: Server, destination: Path, **options: object) -> Path:
    options = {
        "url": server.url,
        "nbytes": len(CONTENT),
        "md5": hashlib.md5(CONTENT).hexdigest(),
        "pauses": (0, 0),
        "progress": False,
    } | options
    return download(destination, **options)  # type: ignore[arg-type]


def test_whole(server, tmp_path):
    made = fetch(server, tmp_path)
    assert made == tmp_path / "CINIC-10.tar.gz"
    assert made.read_bytes() == CONTENT
    assert os.listdir(tmp_path) == [made.name]
    assert server.requests == [None]


def test_named_and_redirected(server, tmp_path):
    url = server.url.replace("CINIC-10.tar.gz", "moved")
    made = fetch(server, tmp_path / "a.tgz", url=url)
    assert made == tmp_path / "a.tgz"
    assert made.read_bytes() == CONTENT


def test_interrupted_goes_on_from_there(server, tmp_path):
    server.ends = [100_000, 503, 50_000, 0]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.requests == [None, *["bytes=100000-"] * 2, *["bytes=150000-"] * 2]


def test_given_up_and_resumed_by_a_later_call(server, tmp_path):
    server.ends = [100_000, 0, 0]
    with pytest.raises(
        SourceError,
        match=r"expected 300,000 bytes, found 100,000, and then: the connection ended; run again",
    ):
        fetch(server, tmp_path)
    part = tmp_path / "CINIC-10.tar.gz.part"
    assert os.listdir(tmp_path) == [part.name]
    assert part.read_bytes() == CONTENT[:100_000]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.requests[-1] == "bytes=100000-"
    assert os.listdir(tmp_path) == ["CINIC-10.tar.gz"]


def test_a_server_without_ranges_starts_over(server, tmp_path):
    server.ranges = False
    server.ends = [100_000]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.requests == [None, "bytes=100000-"]


def test_a_server_without_ranges_that_breaks_off_again_and_again_is_given_up(server, tmp_path):
    server.ranges = False
    server.ends = [100_000] * 4
    with pytest.raises(SourceError, match="found 100,000"):
        fetch(server, tmp_path)


@pytest.mark.parametrize("total", [None, "*"])
def test_a_server_that_does_not_say_how_much(server, tmp_path, total):
    server.length = False
    server.total = total
    server.ends = [299_999]
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_too_much_is_cut_off(server, tmp_path):
    server.length = False
    server.content = CONTENT + b"more"
    assert fetch(server, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("size", [9, 300_000, 300_001])
def test_what_is_there_of_another_file_is_left_as_it_was(server, tmp_path, size):
    part = tmp_path / "CINIC-10.tar.gz.part"
    part.write_bytes(bytes(size))
    expected = r"first of 300,000 bytes, found 300,001: another file; move or remove it"
    if size <= 300_000:
        expected = (
            rf"part: expected MD5 .* of its {size:,} bytes with .* the first is as it was: move or"
        )
    for _ in range(2):
        with pytest.raises(DestinationError, match=expected):
            fetch(server, tmp_path)
        assert part.read_bytes() == bytes(size)
    part.unlink()
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_what_comes_to_the_same_place_meanwhile_is_kept(server, tmp_path, monkeypatch):
    fsync = os.fsync

    def write_another(descriptor: int) -> None:
        fsync(descriptor)
        (tmp_path / "CINIC-10.tar.gz").write_bytes(b"of another program")

    monkeypatch.setattr(os, "fsync", write_another)
    with pytest.raises(DestinationError, match=r"found what has come meanwhile; .* is whole"):
        fetch(server, tmp_path)
    assert (tmp_path / "CINIC-10.tar.gz").read_bytes() == b"of another program"
    assert (tmp_path / "CINIC-10.tar.gz.part").read_bytes() == CONTENT


def test_what_is_no_file_is_not_written_to(server, tmp_path):
    os.mkfifo(tmp_path / "CINIC-10.tar.gz.part")
    with pytest.raises(DestinationError, match=r"part: expected a file or nothing, found someth"):
        fetch(server, tmp_path)
    assert os.listdir(tmp_path) == ["CINIC-10.tar.gz.part"]


def test_all_is_there_but_the_name(server, tmp_path):
    (tmp_path / "CINIC-10.tar.gz.part").write_bytes(CONTENT)
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.requests == []


def test_another_checksum_is_refused(server, tmp_path):
    server.content = CONTENT[:-1] + b"x"
    found = hashlib.md5(server.content).hexdigest()
    with pytest.raises(SourceError, match=rf"found {found}: .* it is deleted; run again"):
        fetch(server, tmp_path)
    assert os.listdir(tmp_path) == []


def test_another_size_is_refused_at_once(server, tmp_path):
    server.content = b"<html>"
    with pytest.raises(
        SourceError, match=r"300,000 bytes from 0 on, found 6 bytes \(status 200\): another file"
    ):
        fetch(server, tmp_path)
    assert len(server.requests) == 1
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("change", [{"total": "300001"}, {"shift": 1}])
def test_another_part_than_was_asked_for_is_refused(server, tmp_path, change):
    (tmp_path / "CINIC-10.tar.gz.part").write_bytes(CONTENT[:9])
    vars(server).update(change)
    with pytest.raises(SourceError, match=r"300,000 bytes from 9 on, found bytes (9|10)-2999"):
        fetch(server, tmp_path)
    assert (tmp_path / "CINIC-10.tar.gz.part").read_bytes() == CONTENT[:9]


@pytest.mark.parametrize("status", [404, 403, 416])
def test_refusals_are_final(server, tmp_path, status):
    server.ends = [status]
    with pytest.raises(SourceError, match=f"the server answers {status} .* elsewhere with --url"):
        fetch(server, tmp_path)
    assert len(server.requests) == 1
    assert os.listdir(tmp_path) == []


def test_nobody_answers(tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/"
        with pytest.raises(
            SourceError, match=r"found 0, and then: Connection refused; run again, or get it"
        ):
            fetch(Server(url=url), tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def resolve(host: str, *_: object, **__: object) -> NoReturn:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    return lambda: monkeypatch.setattr("socket.getaddrinfo", resolve)


def test_a_name_that_is_not_known_is_not_tried_again(tmp_path, offline, capsys):
    offline()
    part = tmp_path / "CINIC-10.tar.gz.part"
    for there, advice in ((b"", "run again, or get"), (b"some", "run again to go on from there")):
        if there:
            part.write_bytes(there)
        with pytest.raises(
            SourceError,
            match=rf"found {len(there)}, and then: no address is known for nowhere\.invalid "
            rf"\(Name or service not known\); check the network, {advice}",
        ):
            fetch(Server(url="http://nowhere.invalid/a"), tmp_path, pauses=(999,), progress=True)
        assert os.listdir(tmp_path) == ([part.name] if there else [])
    assert capsys.readouterr().err == ""


def test_a_network_that_is_lost_underway_is_waited_for(server, tmp_path, offline, monkeypatch):
    def lose(_: float) -> None:
        offline()

    monkeypatch.setattr("time.sleep", lose)
    server.ends = [100_000]
    with pytest.raises(SourceError, match=r"found 100,000, and then: no address is known for"):
        fetch(server, tmp_path, pauses=(0, 0, 0))
    assert len(server.requests) == 1


def test_every_further_try_is_said(server, tmp_path, capsys):
    server.ends = [0, 100_000, 503]
    fetch(server, tmp_path, pauses=(0, 0), progress=True)
    assert capsys.readouterr().err.splitlines() == [
        f"{server.url}: {problem}; trying again in 0 s"
        for problem in (
            "the connection ended, after 0 bytes",
            "the connection ended, after 100,000 bytes",
            "the server answers 503 Service Unavailable, after 100,000 bytes",
        )
    ]
    (tmp_path / "CINIC-10.tar.gz").unlink()
    server.ends = [0]
    fetch(server, tmp_path)
    assert capsys.readouterr().err == ""


def test_tries_follow_the_pauses(server, tmp_path, monkeypatch):
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    server.ends = [0, 0, 7, 0, 0, 0]
    with pytest.raises(SourceError, match="found 7"):
        fetch(server, tmp_path, pauses=(1, 2, 3))
    assert slept == [1, 2, 1, 2, 3]


# What is in the way


def test_an_archive_that_is_there_is_checked(server, tmp_path):
    path = tmp_path / "CINIC-10.tar.gz"
    path.write_bytes(CONTENT)
    assert fetch(server, tmp_path) == path
    for other in (CONTENT[:-1], CONTENT[:-1] + b"x"):
        path.write_bytes(other)
        with pytest.raises(DestinationError, match=r"expected nothing there, or the archive"):
            fetch(server, tmp_path)
        assert path.read_bytes() == other
    assert server.requests == []


@pytest.fixture
def limit() -> Iterator[Callable[[int], None]]:
    """Limit the size of files: the kernel then writes up to that and refuses more, as when full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda nbytes: resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_keeps_what_came(server, tmp_path, limit):
    limit(100_000)
    with pytest.raises(
        DestinationError, match=r"cannot write more than [0-9,]+ bytes: File too large; .* go on"
    ):
        fetch(server, tmp_path)
    assert len(server.requests) == 1
    assert (tmp_path / "CINIC-10.tar.gz.part").read_bytes() == CONTENT[:100_000]
    limit(resource.RLIM_INFINITY)
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.requests[1] == "bytes=100000-"


def test_a_disk_without_room_is_noticed_before(server, tmp_path, monkeypatch):
    (tmp_path / "CINIC-10.tar.gz.part").write_bytes(CONTENT[:100_000])
    usage = type("Usage", (), {"free": 199_999})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(DestinationError, match=r"room for 200,000 bytes, found 199,999; make more"):
        fetch(server, tmp_path)
    assert server.requests == []
    usage.free = 200_000  # type: ignore[attr-defined]
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_two_do_not_write_at_once(server, tmp_path):
    with (
        locked(tmp_path / "CINIC-10.tar.gz", wait=False),
        pytest.raises(DestinationError, match=r"tar.gz: another process is writing it; wait"),
    ):
        fetch(server, tmp_path)
    assert os.listdir(tmp_path) == []
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_folder_must_be_there(server, tmp_path):
    with pytest.raises(DestinationError, match=r"cannot write in .*none: No such file"):
        fetch(server, tmp_path / "none" / "a.tgz")


@pytest.mark.parametrize("url", ["", "file:///etc/passwd", "ftp://a/b", "http://", "http://[a/b"])
def test_other_addresses_are_refused(tmp_path, url):
    with pytest.raises(ArgumentError, match=r"expected an address like https://datashare"):
        download(tmp_path, url=url)


# The command


@pytest.mark.filterwarnings("ignore:.*like CINIC-10, but")
def test_command_packs_without_unpacking(server, tmp_path, monkeypatch, capsys):
    write_tree(tmp_path / "tree", 2, size=8)
    expected = cinicpack.pack(tmp_path / "tree", tmp_path / "a.pack", progress=False)
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "tree", "CINIC-10")
    server.content = (tmp_path / "a.tar.gz").read_bytes()
    for name, value in {
        "md5": hashlib.md5(server.content).hexdigest(),
        "nbytes": len(server.content),
    }.items():
        monkeypatch.setitem(download.__kwdefaults__, name, value)
    (tmp_path / "made").mkdir()
    assert main(["download", str(tmp_path / "made"), "--url", server.url, "--pack"]) == 0
    assert sorted(os.listdir(tmp_path / "made")) == ["CINIC-10.pack", "CINIC-10.tar.gz"]
    made = cinicpack.open_pack(tmp_path / "made" / "CINIC-10.pack")
    assert made.fingerprint == expected.fingerprint
    assert expected.fingerprint in capsys.readouterr().out


def test_command_wants_the_published_archive(server, tmp_path, capsys):
    assert main(["download", str(tmp_path), "--url", server.url]) == 1
    assert f"expected {cinic10.ARCHIVE_BYTES:,} bytes from 0 on" in capsys.readouterr().err
