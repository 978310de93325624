import io
import os
import random
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from zlib_ng import gzip_ng

from cinicpack.errors import SourceError
from cinicpack.formats.bundles import open_bundle, peek_name, reporting_damage

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

FILES = {f"{number}.bin": random.Random(number).randbytes(30_000) for number in range(5)}
KINDS = ["tar", "tar.gz", "tar.bz2", "tar.xz", "tar.zst", "zip"]


def make(kind, files):
    out = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as zipped:
            zipped.writestr("above/", b"")
            for name, content in files.items():
                zipped.writestr(name, content)
        return out.getvalue()
    if kind == "tar.zst":
        return zstd.compress(
            make("tar", files), options={zstd.CompressionParameter.checksum_flag: 1}
        )
    mode: Any = f"w:{kind[4:]}"
    with tarfile.open(fileobj=out, mode=mode) as archive:
        folder = tarfile.TarInfo("./above")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


@pytest.mark.parametrize("kind", [*KINDS, "folder"])
def test_files_are_opened_in_any_order(tmp_path, kind):
    path = tmp_path / "bundle"
    if kind == "folder":
        (path / "above").mkdir(parents=True)
        for name, content in FILES.items():
            (path / name).write_bytes(content)
    else:
        path.write_bytes(make(kind, {f"above/{name}": FILES[name] for name in FILES}))
    with open_bundle(path) as bundle:
        assert {name: entry.nbytes for name, entry in bundle.items()} == dict.fromkeys(
            FILES, 30_000
        )
        # Back and forth, also from the middle of a file.
        for name in random.Random(0).choices([*FILES], k=20):
            with bundle[name].open() as file:
                assert file.read(1000) == FILES[name][:1000]
        for name, content in reversed(FILES.items()):
            with bundle[name].open() as file:
                assert file.read() == content
    if kind != "folder":
        assert bundle.folder == "above"
        assert peek_name(path, path.read_bytes()[:512]) == "above/0.bin"


def read_all(path):
    with reporting_damage(path), open_bundle(path) as bundle:
        for entry in bundle.values():
            with entry.open() as file:
                file.read()


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_that_is_cut_off_or_damaged_is_named(tmp_path, kind):
    whole = make(kind, FILES)
    # Of a tar a header is damaged, since its data have no checksum.
    place = whole.index(b"2.bin") if kind == "tar" else len(whole) // 2
    for damaged in (whole[: len(whole) // 2], whole[:place] + bytes(9) + whole[place + 9 :]):
        (tmp_path / "bundle").write_bytes(damaged)
        with pytest.raises(
            SourceError, match=r"bundle: expected a whole archive, found it damaged"
        ):
            read_all(tmp_path / "bundle")
    (tmp_path / "bundle").write_bytes(whole)
    read_all(tmp_path / "bundle")


@pytest.mark.parametrize("kind", KINDS)
def test_two_files_of_one_name_are_refused(tmp_path, kind):
    (tmp_path / "bundle").write_bytes(make(kind, {"a/x": b"1", "b/x": b"2"}))
    with pytest.raises(SourceError, match="bundle: expected one file x, found another"):
        read_all(tmp_path / "bundle")


@pytest.mark.parametrize(
    ("flag", "what"),
    [(0x1, "is encrypted"), (0x40, "is encrypted"), (0x2000, "is encrypted"), (0x20, "is a patch")],
)
def test_a_zip_with_a_password_or_a_patch_is_refused(tmp_path, flag, what):
    content = bytearray(make("zip", FILES))
    place = content.index(b"PK\1\2", content.index(b"PK\1\2") + 1) + 8
    content[place : place + 2] = flag.to_bytes(2, "little")
    (tmp_path / "bundle").write_bytes(content)
    with pytest.raises(SourceError, match=rf"bundle: expected members .*, but '0\.bin' {what}"):
        read_all(tmp_path / "bundle")


def test_a_zip_whose_members_lie_within_each_other_is_refused(tmp_path):
    content = bytearray(make("zip", FILES))
    place = content.rindex(b"PK\1\2") + 42
    content[place : place + 4] = bytes(4)
    (tmp_path / "bundle").write_bytes(content)
    with pytest.raises(SourceError, match=r"bundle: expected members one after the other"):
        read_all(tmp_path / "bundle")


def test_a_compressed_tar_is_decompressed_once_and_leaves_nothing(tmp_path, monkeypatch):
    path = tmp_path / "bundle"
    path.write_bytes(make("tar.gz", FILES))
    opens = Mock(wraps=gzip_ng.open)
    monkeypatch.setattr(gzip_ng, "open", opens)
    with open_bundle(path) as bundle:
        for name in (*FILES, *reversed(FILES)):
            with bundle[name].open() as file:
                assert file.read() == FILES[name]
        assert [*tmp_path.iterdir()] == [path]
    assert opens.call_count == 1


def test_beside_what_cannot_be_written_the_systems_folder_is_used(tmp_path, monkeypatch):
    (tmp_path / "bundle").write_bytes(make("tar.gz", FILES))
    make_file = tempfile.TemporaryFile
    folders = []

    def refuse(*, dir: Path | None = None) -> Any:  # noqa: A002  tempfile's name for it
        folders.append(dir)
        if dir is not None:
            raise PermissionError(13, "Permission denied", str(dir))
        return make_file()

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    read_all(tmp_path / "bundle")
    assert folders == [tmp_path, None]


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    (tmp_path / "bundle").write_bytes(make("tar.xz", FILES))

    class Full(io.BytesIO):
        def write(self, _: Any) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: Full())
    with pytest.raises(SourceError, match=r"bundle: expected room .*, found No space left"):
        read_all(tmp_path / "bundle")


def test_a_pipe_is_refused_before_it_is_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with (
        pytest.raises(SourceError, match="pipe: expected a folder or a regular file, found a pipe"),
        open_bundle(tmp_path / "pipe"),
    ):
        pass


@pytest.mark.parametrize("kind", ["tar.gz", "tar.bz2", "tar.xz", "tar.zst"])
def test_a_tar_that_would_become_immense_is_refused(tmp_path, kind):
    (tmp_path / "bundle").write_bytes(make(kind, {"a": bytes(40 << 20)}))
    with pytest.raises(SourceError, match=r"bundle: expected images, found .* to become more than"):
        read_all(tmp_path / "bundle")


def test_a_compression_whose_module_is_not_there_is_named(tmp_path, monkeypatch):
    content = make("tar.zst", FILES)
    (tmp_path / "bundle").write_bytes(content)
    monkeypatch.setitem(sys.modules, zstd.__name__, None)
    assert peek_name(tmp_path / "bundle", content[:512]) == ""
    with pytest.raises(
        SourceError, match=r"bundle: expected .*zstd, .*pip install 'cinicpack\[zstd\]'"
    ):
        read_all(tmp_path / "bundle")


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"\x1f\x8bxxx", bytes(512), b"GIF89a" * 99])
def test_what_is_no_archive_has_no_first_file(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    assert peek_name(tmp_path / "file", content[:512]) == ""
