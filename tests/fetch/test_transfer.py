import errno
import gzip
import hashlib
import io
import itertools
import os
import re
import resource
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cinicpack.errors import DestinationError, SourceError
from cinicpack.fetch import partial
from cinicpack.fetch.kinds import PARQUET
from cinicpack.fetch.mirrors import RemoteFile
from cinicpack.fetch.transfer import learn, transfer
from cinicpack.store.lock import locked
from tests.fetch.server import CONTENT, HURRY, PAGE, Server

SIZE = len(CONTENT)
PART = "CINIC-10.tar.gz.part"


def fetch(server: Server, folder: Path, *paths: str, **options: Any) -> Path:
    remote = options.pop("remote", None) or server.remote(*paths)
    patience = HURRY._replace(**options.pop("patience", {}))
    options.setdefault("progress", False)
    return transfer(remote, folder / "CINIC-10.tar.gz", patience, **options)


def test_whole(server, tmp_path):
    made = fetch(server, tmp_path)
    assert made.read_bytes() == CONTENT
    assert os.listdir(tmp_path) == [made.name]
    assert server.requests == [None]


def test_redirected(server, tmp_path):
    assert fetch(server, tmp_path, "moved").read_bytes() == CONTENT
    with pytest.raises(SourceError, match=r"/round: expected a file, found that the server answ"):
        fetch(server, tmp_path / "..", "round")


# A disk that fails


@pytest.mark.parametrize("name", ["fsync", "pread"])
def test_an_error_of_the_disk_names_the_file(server, tmp_path, monkeypatch, name):
    (tmp_path / PART).write_bytes(CONTENT[:100_000])
    # What is there is read again where the server begins at the start.
    server.ranges = False

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(os, name, fail)
        with pytest.raises(DestinationError, match=rf"{PART}: cannot be read or written: Input/"):
            fetch(server, tmp_path)
    assert os.listdir(tmp_path) == [PART]
    assert fetch(server, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("whole", [True, False])
def test_what_cannot_be_read_is_named(server, tmp_path, monkeypatch, whole):
    class Failing(io.FileIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    name = "CINIC-10.tar.gz" if whole else PART
    (tmp_path / name).write_bytes(CONTENT)
    monkeypatch.setattr(partial, "open", Failing, raising=False)
    with pytest.raises(DestinationError, match=rf"{name}: cannot be read or written: Input/output"):
        fetch(server, tmp_path)
    assert os.listdir(tmp_path) == [name]


def test_a_file_that_has_its_name_cannot_be_lost_by_closing_it(server, tmp_path, monkeypatch):
    class Failing(io.FileIO):
        def close(self) -> None:
            is_last = self.closefd and not self.closed
            super().close()
            if is_last:
                raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(partial, "open", Failing, raising=False)
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_what_a_download_left_that_was_killed_at_its_end_is_removed(server, tmp_path):
    fetch(server, tmp_path)
    (tmp_path / ".CINIC-10.tar.gz.tmp").mkdir()
    (tmp_path / ".CINIC-10.tar.gz.tmp" / "cinicpack.lock").touch()
    fetch(server, tmp_path)
    assert os.listdir(tmp_path) == ["CINIC-10.tar.gz"]


# A connection that ends, or over which nothing comes


def test_what_breaks_off_goes_on_from_there(server, tmp_path):
    server.ends = [100_000, 503, 50_000, 0]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.requests == [None, *["bytes=100000-"] * 2, *["bytes=150000-"] * 2]


def test_given_up_and_resumed_by_a_later_call(server, tmp_path):
    server.ends = [100_000, 0, 0]
    with pytest.raises(
        SourceError,
        match=rf"expected {SIZE:,} bytes, found 100,000, and then: the connection ended; run again "
        r"to go on from there$",
    ):
        fetch(server, tmp_path)
    assert os.listdir(tmp_path) == [PART]
    assert (tmp_path / PART).read_bytes() == CONTENT[:100_000]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.requests[-1] == "bytes=100000-"
    assert os.listdir(tmp_path) == ["CINIC-10.tar.gz"]


def test_a_server_that_stalls_is_asked_again(server, tmp_path, capsys):
    server.ends = [-100_000]
    made = fetch(server, tmp_path, patience={"timeout": 0.05}, progress=True)
    assert made.read_bytes() == CONTENT
    assert server.requests == [None, "bytes=100000-"]
    assert "nothing came for 0.05 s, after 100,000 bytes; trying again" in capsys.readouterr().err


def test_tries_follow_the_pauses(server, tmp_path, monkeypatch):
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    server.ends = [0, 0, 7, 0, 0, 0]
    with pytest.raises(SourceError, match="found 7"):
        fetch(server, tmp_path, patience={"pauses": (1, 2, 3)})
    assert slept == [1, 2, 1, 2, 3]


def test_every_further_try_is_said(server, tmp_path, capsys):
    server.ends = [0, 100_000, 503]
    fetch(server, tmp_path, progress=True)
    assert capsys.readouterr().err.splitlines() == [
        f"{server.url}: {problem}; trying again in 0 s"
        for problem in (
            "the connection ended, after 0 bytes",
            "the connection ended, after 100,000 bytes",
            "the server answers 503 Service Unavailable, after 100,000 bytes",
        )
    ]


# A server that lies, or cannot do everything


def test_a_server_without_ranges_is_compared_with_what_is_there(server, tmp_path):
    server.ranges = False
    server.ends = [100_000, 60_000, 200_000]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.requests == [None, *["bytes=100000-"] * 2, "bytes=200000-"]


def test_a_server_without_ranges_that_breaks_off_early_takes_nothing_away(server, tmp_path):
    server.ranges = False
    server.ends = [100_000, 50_000, 0, 70_000]
    with pytest.raises(SourceError, match="found 100,000"):
        fetch(server, tmp_path)
    assert (tmp_path / PART).read_bytes() == CONTENT[:100_000]


def test_another_archive_from_its_start_takes_nothing_away(server, tmp_path):
    (tmp_path / PART).write_bytes(CONTENT[:100_000])
    server.ranges = False
    server.content = CONTENT[:90_000] + bytes(SIZE - 90_000)
    with pytest.raises(
        SourceError,
        match=rf"expected what {tmp_path / PART} begins with, found something else with",
    ):
        fetch(server, tmp_path)
    assert (tmp_path / PART).read_bytes() == CONTENT[:100_000]


@pytest.mark.parametrize("total", [None, "*"])
def test_a_server_that_does_not_say_how_much(server, tmp_path, total):
    server.length = False
    server.total = total
    server.ends = [SIZE - 1]
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_too_much_is_cut_off(server, tmp_path):
    server.length = False
    server.content = CONTENT + b"more"
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_another_size_is_refused_at_once(server, tmp_path):
    server.content = b"<html>"
    with pytest.raises(
        SourceError, match=rf"{SIZE:,} bytes from 0 on, found 6 bytes \(status 200\): another file"
    ):
        fetch(server, tmp_path)
    assert len(server.requests) == 1
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("change", [{"total": str(SIZE + 1)}, {"shift": 1}])
def test_another_part_than_was_asked_for_is_refused(server, tmp_path, change):
    (tmp_path / PART).write_bytes(CONTENT[:9])
    vars(server).update(change)
    with pytest.raises(SourceError, match=rf"{SIZE:,} bytes from 9 on, found bytes (9|10)-2887"):
        fetch(server, tmp_path)
    assert (tmp_path / PART).read_bytes() == CONTENT[:9]


@pytest.mark.parametrize("there", [0, 100_000])
def test_a_web_page_is_never_kept_and_takes_nothing_away(server, tmp_path, there):
    if there:
        (tmp_path / PART).write_bytes(CONTENT[:there])
    with pytest.raises(
        SourceError, match=r"/page: expected an archive, found what starts with b'<"
    ):
        fetch(server, tmp_path, "page")
    assert len(server.requests) == 1
    assert os.listdir(tmp_path) == ([PART] if there else [])
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.requests[-1] == ("bytes=100000-" if there else None)


def test_an_address_that_has_something_else_is_left_out(server, tmp_path, capsys):
    server.ends = [100_000, 404]
    made = fetch(server, tmp_path, "a", "page", "b", "c", progress=True)
    assert made.read_bytes() == CONTENT
    assert server.paths == ["a", "page", "b", "c"]
    said = capsys.readouterr().err
    assert f"/page: expected an archive, found what starts with {PAGE[:16]!r}; trying" in said
    assert "/b: expected a file, found that the server answers 404 Not Found; trying" in said


def test_addresses_take_turns(server, tmp_path):
    server.ends = [503, 100_000, 0]
    assert fetch(server, tmp_path, "a", "b", "c").read_bytes() == CONTENT
    assert server.paths == ["a", "b", "c", "a"]


def test_when_all_have_something_else_all_are_named(server, tmp_path):
    server.ends = [404]
    with pytest.raises(SourceError, match=r"/a: expected a file, .*; .*/page: expected an archive"):
        fetch(server, tmp_path, "a", "page")


def test_a_page_that_comes_compressed_is_no_archive(server, tmp_path):
    server.files["packed"] = gzip.compress(PAGE, mtime=0)
    server.length = False
    with pytest.raises(SourceError, match="expected an archive, found what starts with"):
        fetch(server, tmp_path, "packed")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("status", [404, 403, 416])
def test_refusals_are_final(server, tmp_path, status):
    server.ends = [status]
    with pytest.raises(SourceError, match=f"the server answers {status} "):
        fetch(server, tmp_path)
    assert len(server.requests) == 1
    assert os.listdir(tmp_path) == []


# A file whose digest is wrong in the end


def test_what_is_right_is_kept_of_a_file_with_another_digest(server, tmp_path, capsys):
    """A server lies about the range: it begins at the start again, after the first 200,000."""
    server.ends = [200_000]
    made = fetch(server, tmp_path, "a", "begins", progress=True)
    assert made.read_bytes() == CONTENT
    assert server.paths == ["a", "begins", "a"]
    [_, said] = capsys.readouterr().err.splitlines()
    damaged = re.fullmatch(r"CINIC-10.tar.gz: damaged after ([0-9,]+) bytes", said)
    assert damaged
    sound = int(damaged[1].replace(",", ""))
    assert 150_000 < sound <= 200_000
    assert server.requests[-1] == f"bytes={sound}-"


def test_what_is_right_stays_for_the_next_call(server, tmp_path):
    server.content = CONTENT[:250_000] + bytes(SIZE - 250_000)
    with pytest.raises(
        SourceError, match=r"found MD5 \w+ and not \w+, SHA256 .*; its first [0-9,]+ bytes are kept"
    ):
        fetch(server, tmp_path)
    kept = (tmp_path / PART).read_bytes()
    assert 200_000 < len(kept) <= 250_000
    assert CONTENT.startswith(kept)
    server.content = CONTENT
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.requests[-1] == f"bytes={len(kept)}-"


def test_a_part_that_is_damaged_is_mended(server, tmp_path):
    damaged = bytearray(CONTENT[:200_000])
    damaged[120_000] ^= 1
    (tmp_path / PART).write_bytes(damaged)
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_a_file_of_which_nothing_is_known_to_be_right_is_deleted(server, tmp_path):
    server.content = CONTENT[:9000] + bytes(SIZE - 9000)
    with pytest.raises(SourceError, match=r"found MD5 .*: another file, or damaged .* is deleted"):
        fetch(server, tmp_path)
    assert os.listdir(tmp_path) == []


def test_what_another_call_has_left_stays_if_nothing_is_known_of_either(server, tmp_path):
    start = CONTENT[:5000] + bytes(4000)
    (tmp_path / PART).write_bytes(start)
    with pytest.raises(DestinationError, match=r"the first 9,000 bytes are as they were: move or"):
        fetch(server, tmp_path)
    assert (tmp_path / PART).read_bytes() == start


# What is in the way


@pytest.mark.parametrize("start", [b"<html>", bytes(9), PAGE, b"\x1f\x8b\x08" + bytes(600)])
def test_what_cannot_be_the_start_is_refused_and_left_as_it_was(server, tmp_path, start):
    (tmp_path / PART).write_bytes(start)
    with pytest.raises(DestinationError, match=r"part: expected the start of an archive, found b'"):
        fetch(server, tmp_path)
    assert (tmp_path / PART).read_bytes() == start
    assert server.requests == []


def test_more_than_the_file_is_refused(server, tmp_path):
    (tmp_path / PART).write_bytes(CONTENT + b"x")
    with pytest.raises(DestinationError, match=rf"first of {SIZE:,} bytes, found {SIZE + 1:,}"):
        fetch(server, tmp_path)
    assert (tmp_path / PART).read_bytes() == CONTENT + b"x"


def test_what_comes_to_the_same_place_meanwhile_is_kept(server, tmp_path, monkeypatch):
    fsync = os.fsync

    def write_another(descriptor: int) -> None:
        fsync(descriptor)
        (tmp_path / "CINIC-10.tar.gz").write_bytes(b"of another program")

    monkeypatch.setattr(os, "fsync", write_another)
    with pytest.raises(DestinationError, match=r"found what has come meanwhile; .* is whole"):
        fetch(server, tmp_path)
    assert (tmp_path / "CINIC-10.tar.gz").read_bytes() == b"of another program"
    assert (tmp_path / PART).read_bytes() == CONTENT


def test_what_is_no_file_is_not_written_to(server, tmp_path):
    os.mkfifo(tmp_path / PART)
    with pytest.raises(DestinationError, match=r"part: expected a file or nothing, found someth"):
        fetch(server, tmp_path)
    assert os.listdir(tmp_path) == [PART]


def test_all_is_there_but_the_name(server, tmp_path):
    (tmp_path / PART).write_bytes(CONTENT)
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.requests == []


def test_a_file_that_is_there_is_checked(server, tmp_path):
    path = tmp_path / "CINIC-10.tar.gz"
    path.write_bytes(CONTENT)
    assert fetch(server, tmp_path) == path
    for other in (CONTENT[:-1], CONTENT[:-1] + b"x"):
        path.write_bytes(other)
        with pytest.raises(DestinationError, match=r"expected nothing there, or the file of 288,7"):
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
    assert (tmp_path / PART).read_bytes() == CONTENT[:100_000]
    limit(resource.RLIM_INFINITY)
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.requests[1] == "bytes=100000-"


def test_a_disk_without_room_is_noticed_before(server, tmp_path, monkeypatch):
    (tmp_path / PART).write_bytes(CONTENT[: SIZE - 200_000])
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


def test_folder_must_be_there(server, tmp_path):
    with pytest.raises(DestinationError, match=r"cannot write in .*none: No such file"):
        fetch(server, tmp_path / "none")


# Nobody answers


def test_nobody_answers(tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/"
        with pytest.raises(SourceError, match=r"/[^ ]*: Connection refused; run again$"):
            fetch(Server(url=url), tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_name_that_is_not_known_is_not_tried_again(tmp_path, offline, capsys):
    offline()
    nowhere = Server(url="http://nowhere.invalid/a")
    for there, told, advice in (
        (0, r"invalid/a: ", "run again$"),
        (99, "found 99, and then: ", "run again to go on from there$"),
    ):
        if there:
            (tmp_path / PART).write_bytes(CONTENT[:there])
        with pytest.raises(
            SourceError,
            match=rf"{told}no address is known for nowhere\.invalid "
            rf"\(Name or service not known\); check the network, {advice}",
        ):
            fetch(nowhere, tmp_path, patience={"pauses": (999,)}, progress=True)
        assert os.listdir(tmp_path) == ([PART] if there else [])
    assert capsys.readouterr().err == ""


def test_a_network_that_is_lost_underway_is_waited_for(server, tmp_path, offline, monkeypatch):
    def lose(_: float) -> None:
        offline()

    monkeypatch.setattr("time.sleep", lose)
    server.ends = [100_000]
    with pytest.raises(SourceError, match=r"found 100,000, and then: no address is known for"):
        fetch(server, tmp_path, patience={"pauses": (0, 0, 0)})
    assert len(server.requests) == 1


# A server that is slow


def test_where_it_takes_long_that_is_said_once_and_what_else_there_is(server, tmp_path, capsys):
    # Every look at this clock takes ten seconds.
    clock = itertools.count(0, 10).__next__
    server.ends = [20_000, 50_000, 100_000]
    patience = {"clock": clock, "offer_after": 15, "long": 20, "pauses": (0,)}
    fetch(server, tmp_path, patience=patience, offer="ask another", progress=True)
    said = [line for line in capsys.readouterr().err.splitlines() if "another" in line]
    assert len(said) == 1
    assert re.fullmatch(r"CINIC-10.tar.gz: 0.0 MB/s, so [1-9] minutes to go; ask another", said[0])


def test_where_it_is_fast_nothing_is_said(server, tmp_path, capsys):
    fetch(server, tmp_path, patience={"offer_after": 0}, offer="ask another", progress=True)
    assert capsys.readouterr().err == ""


# A file of which the server knows more


def hub_file(server: Server, **changes: Any) -> RemoteFile:
    return RemoteFile("a.parquet", (server.at("linked/a.parquet"),), PARQUET)._replace(**changes)


def test_the_hub_says_size_and_digest(server, tmp_path):
    server.files["a.parquet"] = content = b"PAR1" + CONTENT
    learned = learn(hub_file(server), HURRY)
    assert learned.nbytes == len(content)
    assert learned.digests == (("sha256", hashlib.sha256(content).hexdigest()),)
    server.ends = [70_000]
    assert fetch(server, tmp_path, remote=learned).read_bytes() == content
    assert server.requests[-2:] == [None, "bytes=70000-"]


def test_what_is_not_said_is_not_known(server):
    server.files["a.parquet"] = b"PAR1" + CONTENT
    plain = hub_file(server, urls=(server.at("a.parquet"),))
    assert learn(plain, HURRY) == plain._replace(nbytes=SIZE + 4)
    server.length = False
    with pytest.raises(SourceError, match="expected the size of a file, found none"):
        learn(plain, HURRY)


def test_asking_is_tried_again_too(server):
    server.files["a.parquet"] = b"PAR1"
    server.ends = [503, 503]
    assert learn(hub_file(server), HURRY).nbytes == 4
    server.ends = [503, 503, 503]
    with pytest.raises(SourceError, match=": the server answers"):
        learn(hub_file(server), HURRY)


def test_a_page_is_no_parquet_file(server, tmp_path):
    server.files["a.parquet"] = PAGE
    with pytest.raises(SourceError, match="expected a parquet file, found what starts with b'<ht"):
        fetch(server, tmp_path, remote=learn(hub_file(server), HURRY))
