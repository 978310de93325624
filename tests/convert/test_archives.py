import bz2
import errno
import gzip
import io
import lzma
import os
import random
import stat
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cinicpack.convert.archives import recognise
from cinicpack.errors import SourceError
from tests.convert.sources_here import (
    FILES,
    MAKERS,
    OTHERS,
    opened,
    pack,
    read,
    tar_bytes,
    zip_bytes,
)

FOLDERS = {"./": b"", "train/": b"", "train/cat.png/": b"", "./train/dog.png/": b""}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_an_archive_gives_its_images_in_order_and_counts_the_rest(tmp_path, make):
    archive = opened(tmp_path / "archive", make({**FOLDERS, **FILES, **OTHERS}))
    for _ in range(2):
        assert list(archive.stream()) == [*FILES.items()]
        assert archive.remarks.ignored == len(OTHERS)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_the_fraction_grows_from_0_to_1(tmp_path, make):
    archive = opened(
        tmp_path / "archive", make({f"{n}.png": os.urandom(20_000) for n in range(200)})
    )
    fractions = [archive.fraction, *(archive.fraction for _ in archive.stream()), archive.fraction]
    assert fractions == sorted(fractions)
    assert fractions[0] == 0
    assert fractions[-1] == 1
    assert 0.2 < fractions[100] < 0.8


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_names_are_brought_into_one_form(tmp_path, make):
    files = {
        "./a/x.png": b"1",
        "a/./y.png": b"2",
        "a//z.png": b"3",
        ".b/.c.png": b"4",
        "./._d.png": b"",
    }
    archive = opened(tmp_path / "archive", make(files))
    assert [path for path, _ in archive.stream()] == ["a/x.png", "a/y.png", "a/z.png", ".b/.c.png"]
    assert archive.remarks.ignored == 1


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize(
    "name", ["/a/x.png", "../x.png", "a/../x.png", "a/..", "/a.txt", "../a.txt", "a/../", "/"]
)
def test_paths_that_lead_outside_are_refused(tmp_path, make, name):
    with pytest.raises(SourceError, match=rf"archive: .*without '\.\.', found member '{name}'"):
        read(tmp_path / "archive", make({"a/x.png": b"", name: b"", "b.png": b""}))


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_member_twice_is_refused(tmp_path, make):
    source = tmp_path / "archive"
    source.write_bytes(make({"a/x.png": b"1", "a/y.png": b"", "./a/x.png": b"1"}))
    with pytest.raises(SourceError, match=r"archive: expected every path once.*of 'a/x\.png'"):
        pack(source, tmp_path / "a.pack")


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_member_that_is_too_large_is_an_error_in_its_place(tmp_path, make):
    content = make({"a.png": bytes(1000), "b.png": bytes(1001), "c.png": b"3"})
    (tmp_path / "archive").write_bytes(content)
    archive = recognise(tmp_path / "archive", content[:512], limit=1000)
    assert archive is not None
    a, b, c = archive.stream()
    assert (a, c) == (("a.png", bytes(1000)), ("c.png", b"3"))
    assert b[0] == "b.png"
    assert "expected at most 1000 bytes, found 1001" in str(b[1])


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_an_archive_may_be_left_early(tmp_path, make):
    archive = opened(tmp_path / "archive", make(FILES))
    for _ in archive.stream():
        break
    assert dict(archive.stream()) == FILES


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("error", [OSError(errno.EIO, "a reason"), MemoryError("a reason")])
@pytest.mark.parametrize("where", [range(500_000, 600_000), range(850_000, 1_000_000)])
def test_an_archive_that_cannot_be_read_is_not_called_damaged(
    tmp_path, monkeypatch, make, error, where
):
    archive = opened(tmp_path / "archive", make({f"{n}.png": os.urandom(9_000) for n in range(99)}))

    class Failing(io.FileIO):
        def readinto(self, buffer):
            if self.tell() in where:
                raise error
            return super().readinto(buffer)

        def read(self, size=-1):
            if self.tell() in where:
                raise error
            return super().read(size)

    with monkeypatch.context() as patched:
        patched.setattr("cinicpack.convert.archives.io.FileIO", Failing)
        patched.setattr(
            "builtins.open", lambda file, *_, **__: io.BufferedReader(Failing(file, closefd=False))
        )
        with pytest.raises(SourceError, match=r"archive.*: could not be read \(a reason\)"):
            list(archive.stream())


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_an_archive_cut_off_anywhere_is_refused(tmp_path, make):
    # Nothing is lost with a tar's second block of zeros, or with those that fill it up.
    content = make(FILES)
    end = len(content)
    if make is tar_bytes:
        end = len(content.rstrip(b"\0")) // 512 * 512 + 1024
    path = tmp_path / "archive"
    for cut in {*range(600, end, max(1, end // 60)), end - 1, end - 5, end - 9}:
        with pytest.raises(
            SourceError, match="archive: expected a whole archive, found it damaged"
        ):
            read(path, content[:cut])


@settings(deadline=None)
@given(st.sampled_from([*MAKERS]), st.data())
def test_damage_gives_no_other_error(kind, data):
    content = bytearray(MAKERS[kind]({**FILES, **OTHERS}))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    with TemporaryDirectory() as folder, suppress(SourceError):
        read(Path(folder) / "archive", bytes(content))


@pytest.mark.parametrize("kind", ["SYM", "LNK", "FIFO", "CHR", "BLK", "GNUTYPE_SPARSE"])
def test_other_members_of_a_tar_are_refused(tmp_path, kind):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        member = tarfile.TarInfo("a/link.txt")
        member.type = getattr(tarfile, kind if "_" in kind else f"{kind}TYPE")
        archive.addfile(member)
    with pytest.raises(SourceError, match=r"y\.tar: expected only files.* 'a/link\.txt' is a "):
        read(tmp_path / "y.tar", (tmp_path / "x.tar").read_bytes())


def test_gzip_members_are_joined_and_zeros_after_them_ignored(tmp_path):
    content = tar_bytes(FILES)
    halves = gzip.compress(content[:3000]) + gzip.compress(content[3000:])
    assert read(tmp_path / "x", halves) == FILES
    assert read(tmp_path / "x", halves + bytes(5000)) == FILES


def test_gzip_is_checked_to_its_very_end(tmp_path):
    content = gzip.compress(tar_bytes(FILES) + bytes(1 << 20))
    for position in (-1, -5, -8):
        damaged = bytearray(content)
        damaged[position] ^= 1
        with pytest.raises(SourceError, match=r"cut off after 'test/dog/c d\.pNg'"):
            read(tmp_path / "x", bytes(damaged))
    with pytest.raises(SourceError, match="damaged or cut off after"):
        read(tmp_path / "x", content + b"something else")
    with pytest.raises(SourceError, match="nothing after the archive's end"):
        read(tmp_path / "x", content + content)


def test_what_is_gzipped_must_be_a_tar(tmp_path):
    for content, found in (
        (b"text" * 500, "a file that starts with b'texttext'"),
        (b"hello\n", r"a file that starts with b'hello\\n'"),
        (b"", "nothing"),
    ):
        for compress in (gzip.compress, bz2.compress, lzma.compress):
            with pytest.raises(
                SourceError, match=f"expected a tar within the compressed file, found {found}"
            ):
                read(tmp_path / "x.gz", compress(content))
    for length in (20, 200):
        with pytest.raises(SourceError, match="damaged or cut off"):
            read(tmp_path / "x.gz", gzip.compress(random.Random(1).randbytes(500))[:length])


def zip_with(**fields: object) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        member = zipfile.ZipInfo("a/x.txt")
        for field, value in fields.items():
            setattr(member, field, value)
        archive.writestr(member, b"content")
    return out.getvalue()


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (stat.S_IFLNK, "a symbolic link"),
        (stat.S_IFIFO, "a named pipe"),
        (stat.S_IFCHR, "a character device"),
        (stat.S_IFBLK, "a block device"),
        (stat.S_IFSOCK, "a socket"),
        (0o30000, "something else"),
    ],
)
def test_other_members_of_a_zip_are_refused(tmp_path, kind, what):
    with pytest.raises(SourceError, match=rf"expected only files.* 'a/x\.txt' is {what}"):
        read(tmp_path / "x", zip_with(external_attr=(kind | 0o644) << 16))
    assert read(tmp_path / "x", zip_with(external_attr=0)) == {}


def test_encrypted_members_are_refused(tmp_path):
    content = bytearray(zip_with())
    content[content.rindex(b"PK\1\2") + 8] |= 1
    with pytest.raises(SourceError, match=r"without a password, but 'a/x\.txt' is encrypted"):
        read(tmp_path / "x", bytes(content))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused(tmp_path, method):
    with pytest.raises(SourceError, match=rf"'a/x\.txt' is compressed by method {method}"):
        read(tmp_path / "x", zip_with(compress_type=method))


def test_a_zip_of_a_later_version_is_refused(tmp_path):
    content = bytearray(zip_with())
    content[content.rindex(b"PK\1\2") + 6] = 99
    with pytest.raises(SourceError, match=r"expected a whole archive, .*version 9\.9"):
        read(tmp_path / "x", bytes(content))


def test_names_in_a_zip_are_utf8_with_its_flag_or_without(tmp_path):
    content = zip_bytes({"é.png": b"1"})
    assert read(tmp_path / "x", content) == {"é.png": b"1"}
    unflagged = bytearray(content)
    for magic, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        position = unflagged.rindex(magic) + offset
        assert unflagged[position + 1] == 0x08
        unflagged[position + 1] = 0
    assert read(tmp_path / "x", bytes(unflagged)) == {"é.png": b"1"}


def test_a_name_of_a_zip_is_not_cut_at_a_zero(tmp_path):
    with pytest.raises(SourceError, match=r"found member 'a\\x00\.png'"):
        read(tmp_path / "x", zip_bytes({"aZ.png": b"1"}).replace(b"aZ.png", b"a\0.png"))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_member_must_be_what_the_directory_says(tmp_path, method):
    content = zip_bytes({"a.png": b"first", "b.png": b"second" * 100}, method)
    start = content.index(b"PK\3\4", 4)
    entry = content.index(b"PK\1\2", content.index(b"PK\1\2") + 4)
    places = {
        "magic": start,
        "name": start + 30,
        "length of the name": start + 26,
        "data": start + 38,
        "CRC": entry + 16,
        "size": entry + 24,
    }
    for place in places.values():
        damaged = bytearray(content)
        damaged[place] ^= 1
        with pytest.raises(SourceError, match=r"damaged or cut off after 'a\.png'"):
            read(tmp_path / "x", bytes(damaged))


def test_a_deflated_member_cannot_become_larger_than_it_says(tmp_path):
    content = zip_bytes({"a.png": bytes(10_000_000)})
    for of in (len, zlib.crc32):
        said, true = of(bytes(1000)), of(bytes(10_000_000))
        content = content.replace(struct.pack("<I", true), struct.pack("<I", said))
    tracemalloc.start()
    with pytest.raises(SourceError, match="is not what the zip's directory says"):
        read(tmp_path / "x", content)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 5_000_000


@pytest.mark.parametrize(
    ("flag", "what"), [(0x20, "is a patch"), (0x40, "is encrypted"), (0x2000, "is encrypted")]
)
def test_patched_and_strongly_encrypted_members_are_refused(tmp_path, flag, what):
    content = bytearray(zip_bytes({"a.png": b"1"}))
    at = content.index(b"PK\1\2") + 8
    content[at : at + 2] = (int.from_bytes(content[at : at + 2], "little") | flag).to_bytes(
        2, "little"
    )
    with pytest.raises(SourceError, match=rf"'a.png' {what}"):
        read(tmp_path / "archive", bytes(content))


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("part", ["x" * 256, "é" * 128, "x" * 60_000])
def test_names_that_no_file_can_have_are_refused(tmp_path, make, part):
    for name in (f"train/cat/{part}.png", f"train/{part}/a.png", f"{part}.txt"):
        with pytest.raises(
            SourceError, match=r"at most 255 bytes, found one of [\d,]+: "
        ) as caught:
            read(tmp_path / "archive", make({name: b"1"}))
        assert len(str(caught.value)) < 300 + len(str(tmp_path))
    longest = f"train/{'x' * 255}/{'é' * 125}y.png"
    archive = opened(tmp_path / "archive", make({longest: b"1"}))
    assert [path for path, _ in archive.stream()] == [longest]
