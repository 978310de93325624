import os
from pathlib import Path
from typing import Any

import pytest

import cinicpack
from cinicpack import cinic10
from cinicpack.cli import main
from cinicpack.errors import ArgumentError, DestinationError, SourceError
from cinicpack.fetch import mirrors
from cinicpack.fetch.download import download
from cinicpack.fetch.kinds import PARQUET
from cinicpack.fetch.mirrors import Mirror, RemoteFile
from tests.fetch.server import CONTENT, HURRY, Server

PARTS = ("train.parquet", "validation.parquet", "test.parquet")


@pytest.fixture
def two(server: Server) -> list[Mirror]:
    """Mirrors on the server: the archive, and three other files in a folder."""
    for number, name in enumerate(PARTS):
        server.files[name] = b"PAR1" + CONTENT[number * 1000 :]
    files = tuple(RemoteFile(name, (server.at(f"linked/{name}"),), PARQUET) for name in PARTS)
    total = sum(len(server.files[name]) for name in PARTS)
    return [
        Mirror("official", "first.org", (server.remote(),), len(CONTENT)),
        Mirror("hub", "second.org", files, total, folder="CINIC-10-parquet", needs="json"),
    ]


def fetch(two: list[Mirror], destination: Path, **options: Any) -> Path:
    options.setdefault("patience", HURRY)
    options.setdefault("progress", False)
    return download(destination, mirrors=two, **options)


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_the_official_archive_comes_first(server, two, tmp_path):
    made = fetch(two, tmp_path)
    assert made == tmp_path / "CINIC-10.tar.gz"
    assert made.read_bytes() == CONTENT
    assert names(tmp_path) == ["CINIC-10.tar.gz"]
    assert fetch(two, tmp_path / "other.tgz").read_bytes() == CONTENT


def test_what_was_left_beside_a_folder_is_removed(server, two, tmp_path):
    made = fetch(two[1:], tmp_path)
    (tmp_path / f".{made.name}.tmp").mkdir()
    (tmp_path / f".{made.name}.tmp" / "cinicpack.lock").touch()
    assert fetch(two[1:], tmp_path) == made
    assert names(tmp_path) == [made.name]


def test_the_other_has_its_turn_if_the_first_fails(server, two, tmp_path, capsys):
    server.ends = [404]
    made = fetch(two, tmp_path, progress=True)
    assert made == tmp_path / "CINIC-10-parquet"
    assert {name: (made / name).read_bytes() for name in names(made)} == {
        name: server.files[name] for name in PARTS
    }
    assert names(tmp_path) == ["CINIC-10-parquet"]
    assert "answers 404 Not Found; going on with second.org" in capsys.readouterr().err
    # What is there is taken, before another is asked for.
    server.paths.clear()
    assert fetch(two, tmp_path) == made
    assert server.paths == []


def test_one_can_be_chosen(server, two, tmp_path):
    assert fetch(two, tmp_path / "a.tar.gz", mirror="hub") == tmp_path / "a-parquet"
    server.ends = [404]
    with pytest.raises(
        SourceError, match=r"answers 404 Not Found, or get the archive elsewhere wi"
    ):
        fetch(two, tmp_path, mirror="official")
    with pytest.raises(
        ArgumentError, match="expected a mirror out of official, hub, found 'kaggle'"
    ):
        fetch(two, tmp_path, mirror="kaggle")


def test_another_address_is_the_only_one(server, two, tmp_path):
    elsewhere = server.at("elsewhere")
    assert fetch(two, tmp_path, url=elsewhere).read_bytes() == CONTENT
    assert server.paths == ["elsewhere"]
    (tmp_path / "CINIC-10.tar.gz").unlink()
    server.ends = [404]
    with pytest.raises(SourceError, match=f"^{elsewhere}: expected a file, found .* --url"):
        fetch(two, tmp_path, url=elsewhere)
    assert names(tmp_path) == []


@pytest.mark.parametrize("url", ["", "file:///etc/passwd", "ftp://a/b", "http://", "http://[a/b"])
def test_other_addresses_are_refused(tmp_path, url):
    with pytest.raises(ArgumentError, match=r"expected an address like https://datashare"):
        download(tmp_path, url=url)
    with pytest.raises(ArgumentError, match="and a mirror"):
        download(tmp_path, url="https://example.org/a", mirror="hub")


def test_when_none_has_it_all_are_named(server, two, tmp_path):
    server.ends = [404, 403]
    with pytest.raises(
        SourceError, match=r"answers 404 .*; .*linked/train.parquet: .* answers 403"
    ):
        fetch(two, tmp_path)
    assert names(tmp_path) == []


def test_what_breaks_off_goes_on_and_the_folder_appears_when_it_is_whole(server, two, tmp_path):
    # Three answers to questions, then the first file, and a part of the second one.
    server.ends = [*[10**6] * 4, 50_000, 0, 0]
    with pytest.raises(SourceError, match=r"found 50,000, .* go on from there, or get"):
        fetch(two, tmp_path, mirror="hub")
    assert names(tmp_path) == ["CINIC-10-parquet.part"]
    assert names(tmp_path / "CINIC-10-parquet.part") == ["train.parquet", f"{PARTS[1]}.part"]
    server.requests.clear()
    made = fetch(two, tmp_path, mirror="hub")
    assert server.requests == [None, None, None, "bytes=50000-", None]
    assert [(made / name).read_bytes() for name in PARTS] == [*server.files.values()]
    assert names(tmp_path) == ["CINIC-10-parquet"]


def test_files_of_another_size_in_all_are_refused_before_they_come(server, two, tmp_path):
    server.linked_size = 7
    with pytest.raises(
        SourceError, match=r"second.org: expected files of 86[0-9,]+ bytes in all, f"
    ):
        fetch(two, tmp_path, mirror="hub")
    assert len(server.requests) == 3
    assert names(tmp_path) == []


def test_a_folder_that_lacks_files_is_not_taken_for_the_whole(two, tmp_path):
    (tmp_path / "CINIC-10-parquet").mkdir()
    (tmp_path / "CINIC-10-parquet" / PARTS[0]).touch()
    with pytest.raises(DestinationError, match=r"found no validation.parquet, test.parquet; move"):
        fetch(two, tmp_path)


def test_what_cannot_be_packed_is_not_asked_for(server, two, tmp_path):
    two[1] = two[1]._replace(needs="no_such_module")
    server.ends = [404]
    with pytest.raises(
        SourceError, match=r"second.org: its files need no_such_module to be packed"
    ):
        fetch(two, tmp_path, to_pack=True)
    assert len(server.requests) == 1


def test_a_slow_one_offers_the_next(server, two, tmp_path, capsys):
    clock = iter(range(0, 10**6, 10)).__next__
    patience = HURRY._replace(clock=clock, offer_after=15, long=20)
    server.ends = [20_000, 50_000]
    fetch(two, tmp_path, patience=patience, progress=True)
    said = capsys.readouterr().err
    assert "minutes to go; second.org has the same images: to get them from there, stop" in said
    assert "--mirror hub (mirror='hub')" in said


def test_what_is_published():
    official, hub = mirrors.CINIC10
    assert official.nbytes == official.files[0].nbytes == cinic10.ARCHIVE_BYTES == 687_544_992
    assert dict(official.files[0].digests)["md5"] == "6ee4d0c996905fe93221de577967a372"
    assert hub.nbytes == 771_149_160
    assert [file.name.partition("-")[0] for file in hub.files] == ["train", "validation", "test"]
    for mirror in (*mirrors.CINIC10, *mirrors.CIFAR10, *mirrors.CIFAR100):
        for file in mirror.files:
            assert all(url.startswith(f"https://{mirror.host}/") for url in file.urls)
            assert file.urls[0].endswith(file.name)


# The command


@pytest.fixture
def published(server, two, monkeypatch) -> Server:
    """What the command takes for what is published."""
    monkeypatch.setitem(download.__kwdefaults__, "mirrors", two)
    monkeypatch.setitem(download.__kwdefaults__, "patience", HURRY)
    return server  # type: ignore[no-any-return]


def test_command_packs_without_unpacking(published, tmp_path, capsys):
    assert main(["download", str(tmp_path), "--pack"]) == 0
    assert names(tmp_path) == ["CINIC-10.pack", "CINIC-10.tar.gz"]
    made = cinicpack.open_pack(tmp_path / "CINIC-10.pack")
    assert len(made["train"]) == 120
    said = capsys.readouterr().out
    assert made.fingerprint in said
    assert f"CINIC-10.tar.gz: {len(CONTENT):,} bytes, as published, in " in said


def test_command_takes_the_hub(published, tmp_path, capsys):
    assert main(["download", str(tmp_path), "--mirror", "hub"]) == 0
    assert names(tmp_path) == ["CINIC-10-parquet"]
    assert "CINIC-10-parquet: 863,364 bytes, as published" in capsys.readouterr().out


def test_command_wants_the_published_archive(server, tmp_path, capsys):
    assert main(["download", str(tmp_path), "--url", server.url]) == 1
    assert f"expected {cinic10.ARCHIVE_BYTES:,} bytes from 0 on" in capsys.readouterr().err
