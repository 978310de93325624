import io
import random
import tarfile
import zipfile
from typing import Any

import pytest

from cinicpack.errors import SourceError
from cinicpack.formats.bundles import open_bundle, peek_name, reporting_damage

FILES = {f"{number}.bin": random.Random(number).randbytes(30_000) for number in range(5)}
KINDS = ["tar", "tar.gz", "tar.bz2", "tar.xz", "zip"]


def make(kind, files):
    out = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as zipped:
            zipped.writestr("above/", b"")
            for name, content in files.items():
                zipped.writestr(name, content)
        return out.getvalue()
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


def test_a_zip_with_a_password_is_refused(tmp_path):
    content = bytearray(make("zip", FILES))
    content[content.index(b"PK\1\2", content.index(b"PK\1\2") + 1) + 8] |= 1
    (tmp_path / "bundle").write_bytes(content)
    with pytest.raises(
        SourceError, match=r"bundle: expected files without a password, but '0.bin'"
    ):
        read_all(tmp_path / "bundle")


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"\x1f\x8bxxx", bytes(512), b"GIF89a" * 99])
def test_what_is_no_archive_has_no_first_file(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    assert peek_name(tmp_path / "file", content[:512]) == ""
