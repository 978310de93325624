import io
import tarfile
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cinicpack.formats.tar import is_tar, read_members

LIMIT = 1 << 20
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
REFUSED = {
    "a hard link": tarfile.LNKTYPE,
    "a symbolic link": tarfile.SYMTYPE,
    "a character device": tarfile.CHRTYPE,
    "a block device": tarfile.BLKTYPE,
    "a named pipe": tarfile.FIFOTYPE,
    "a sparse file": tarfile.GNUTYPE_SPARSE,
    "of the unknown type b'V'": b"V",
}
FILES = {
    "a.png": b"first",
    "empty": b"",
    "d/e/block.png": bytes(range(256)) * 2,
    "d/e/one more.png": b"x" * 513,
    "long " * 15 + "/" + "name" * 20 + ".png": b"ustar splits this name",
    "b.bin": bytes(300_000),
    "last.png": b"z" * 2000,
}


class Dribble:
    """A stream of which every read gives less than was asked for."""

    def __init__(self, content: bytes, step: int) -> None:
        self.file = io.BytesIO(content)
        self.step = step

    def read(self, size: int, /) -> bytes:
        return self.file.read(min(size, self.step))


def make(files: Mapping[str, bytes], kind: int = tarfile.GNU_FORMAT, **fields: object) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=kind) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for field, value in fields.items():
                setattr(member, field, value)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def read(content: bytes, limit: int = LIMIT) -> list[tuple[str, int, bytes | None]]:
    return list(read_members(io.BytesIO(content), limit))


def rows(files: Mapping[str, bytes]) -> list[tuple[str, int, bytes | None]]:
    return [(name, len(content), content) for name, content in files.items()]


def patch(
    content: bytes, field: slice, value: bytes, block: int = 0, signed: bool = False
) -> bytes:
    """Change a field of the header in a block, and its checksum with it."""
    start = 512 * block
    header = bytearray(content[start : start + 512])
    header[field] = value.ljust(field.stop - field.start, b"\0")
    header[148:156] = b" " * 8
    total = sum(byte - 256 * (signed and byte > 127) for byte in header)
    header[148:156] = b"%06o\0 " % total
    return content[:start] + bytes(header) + content[start + 512 :]


NAME, SIZE, KIND, MAGIC = slice(0, 100), slice(124, 136), slice(156, 157), slice(257, 265)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_read(kind):
    assert read(make(FILES, FORMATS[kind])) == rows(FILES)


@pytest.mark.parametrize("kind", ["gnu", "pax"])
def test_names_of_any_length_and_any_bytes_are_read(kind):
    files = {
        "n" * length + tail: b"content"
        for length in (99, 100, 101, 155, 156, 157, 256, 600)
        for tail in ("", "é", "\udcff.png")
    }
    files["next"] = b"is not named by what came before"
    assert read(make(files, FORMATS[kind])) == rows(files)


names = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1)
paths = st.lists(names.map(lambda name: name[:60]), min_size=1, max_size=5).map("/".join)


@settings(deadline=None)  # the first call may compile
@given(
    st.dictionaries(paths, st.binary(max_size=2000), max_size=8),
    st.sampled_from(["gnu", "pax"]),
    st.integers(1, 5000),
)
def test_what_tarfile_writes_is_read_however_it_arrives(files, kind, step):
    content = make(files, FORMATS[kind])
    assert list(read_members(Dribble(content, step), LIMIT)) == rows(files)


def test_a_directory_has_a_slash_and_no_content():
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        archive.addfile(tarfile.TarInfo("folder/file"))
    content = out.getvalue()
    assert read(content) == [("folder/", 0, b""), ("folder/file", 0, b"")]
    assert read(patch(content, NAME, b"folder")) == read(content)


def test_v7_headers_have_no_magic_and_no_type():
    content = patch(patch(make({"a": b"12", "b/": b""}), MAGIC, b""), KIND, b"\0")
    content = patch(patch(content, MAGIC, b"", block=2), KIND, b"\0", block=2)
    assert read(content) == [("a", 2, b"12"), ("b/", 0, b"")]


def test_a_contiguous_file_is_a_file():
    assert read(patch(make({"a": b"12"}), KIND, b"7")) == [("a", 2, b"12")]


def test_gnu_headers_have_no_prefix():
    # The place of ustar's prefix has times there.
    content = patch(make({"a": b"12"}), slice(345, 357), b"14000000000")
    assert read(content) == [("a", 2, b"12")]


def test_checksums_of_signed_bytes_are_right_too():
    content = make({"é": b"12", "ö": b"3"})
    content = patch(patch(content, NAME, "é".encode(), signed=True), MAGIC, b"", 2, signed=True)
    assert read(content) == [("é", 2, b"12"), ("ö", 1, b"3")]


@pytest.mark.parametrize(
    "digits",
    [b"5", b"0000005", b"   5 ", b"00000000005 ", b"000000000005", b"\x80" + b"\0" * 10 + b"\5"],
)
def test_sizes_are_octal_or_binary(digits):
    files = {"a": b"12345", "b": b"6"}
    assert read(patch(make(files), SIZE, digits)) == rows(files)


@pytest.mark.parametrize(
    "digits", [b"-5", b"+5", b"0o5", b"1_0", b"5\x005", b"\xff" * 12, b"8", b"00000000008"]
)
def test_what_is_no_size_is_refused(digits):
    with pytest.raises((ValueError, EOFError)):
        read(patch(make({"a": b"12345"}), SIZE, digits))


@pytest.mark.parametrize("size", [6 * 512, 1 << 30, (1 << 33) - 1])
def test_a_size_is_trusted_only_within_the_data(size):
    content = make({"first": b"1", "second": b"2"})[: 6 * 512]
    with pytest.raises(EOFError, match="within 'second'"):
        read(patch(content, SIZE, b"%011o" % size, block=2))


def test_pax_headers_take_precedence():
    records = {"path": "other.png", "size": "3", "mtime": "1.5"}
    content = patch(make({"a": b"123", "b": b"4"}, FORMATS["pax"]), SIZE, b"7")
    with_records = make({"a": b""}, FORMATS["pax"], pax_headers=records)
    header = with_records[: with_records.index(b"a\0\0\0", 1024)]
    assert read(header + content) == [("other.png", 3, b"123"), ("b", 1, b"4")]
    solaris = patch(header, KIND, b"X")
    assert read(solaris + content) == [("other.png", 3, b"123"), ("b", 1, b"4")]


def test_shared_pax_headers_hold_until_taken_back():
    out = io.BytesIO()
    shared = {"path": "shared", "comment": "of git"}
    with tarfile.open(fileobj=out, mode="w", format=FORMATS["pax"], pax_headers=shared) as archive:
        archive.addfile(tarfile.TarInfo("a"))
        archive.addfile(tarfile.TarInfo("b"))
        own = tarfile.TarInfo("c")
        own.pax_headers = {"path": ""}
        archive.addfile(own)
    assert [name for name, _, _ in read(out.getvalue())] == ["shared", "shared", "c"]


@pytest.mark.parametrize(
    "records",
    [
        b"9 path=a",
        b"11 path=abc\n",
        b"13 path=abc\n",
        b"7 path\n",
        b"8 path=a\n",
        b"5 path\n",
        b"x path=a\n",
        b"-9 path=a\n",
        b"0 p=\n",
    ],
)
def test_damaged_pax_records_are_refused(records):
    content = patch(make({"a": records}), KIND, b"x")[:1024] + make({"b": b""})
    with pytest.raises(ValueError, match=r"pax record|a number"):
        read(content)


def test_sparse_files_of_pax_are_refused():
    content = make({"a": b"1"}, FORMATS["pax"], pax_headers={"GNU.sparse.major": "1"})
    with pytest.raises(ValueError, match="'a' is a sparse file"):
        read(content)


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("kind", FORMATS)
def test_other_kinds_of_members_are_refused_by_name(what, kind):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=FORMATS[kind]) as archive:
        archive.addfile(tarfile.TarInfo("a"))
        member = tarfile.TarInfo("d/" + "e" * 90 + "/b.txt")
        member.type = REFUSED[what]
        member.linkname = "l" * (120 if kind != "ustar" else 20)
        archive.addfile(member)
    with pytest.raises(ValueError, match=f"'{member.name}' is {what}"):
        read(out.getvalue())


@pytest.mark.parametrize("kind", FORMATS)
def test_an_archive_cut_off_anywhere_is_refused(kind):
    content = make({name: FILES[name] for name in list(FILES)[:5]}, FORMATS[kind])
    end = len(content.rstrip(b"\0"))
    end += -end % 512
    for cut in {*range(0, end, 97), *range(0, end + 1, 512), end + 511}:
        with pytest.raises(EOFError, match="it ends within"):
            read(content[:cut])
    # One of the two blocks of zeros is enough.
    assert len(read(content[: end + 512])) == 5


@pytest.mark.parametrize("position", [0, 99, 110, 124, 134, 148, 153, 156, 160, 344, 400, 511])
@pytest.mark.parametrize("block", [0, 2, 4])
def test_a_damaged_header_is_refused(position, block):
    content = bytearray(make({"a": b"1", "b": b"2", "é" * 60: b"3"}))
    content[512 * block + position] ^= 1
    with pytest.raises(ValueError, match="expected a tar header"):
        read(bytes(content))


def test_only_zeros_may_follow_the_end():
    content = make({"a": b"1"})
    assert read(content + bytes(1 << 20)) == [("a", 1, b"1")]
    for more in (b"\1", bytes(1 << 20) + b"\1", content):
        with pytest.raises(ValueError, match="nothing after the archive's end"):
            read(content + more)


class Zeros:
    """A hole without an end, of which no more is read than there has to be."""

    nbytes = 0

    def read(self, size: int, /) -> bytes:
        self.nbytes += size
        assert self.nbytes < 128 << 20
        return bytes(size)


def test_zeros_after_the_end_are_read_so_far_only():
    with pytest.raises(ValueError, match="at most 67,108,864 bytes of zeros after the archive's e"):
        list(read_members(Zeros(), LIMIT))


def test_an_extended_header_needs_its_member():
    content = make({"n" * 200: b"1"})
    with pytest.raises(ValueError, match="expected a member for the extended header at the start"):
        read(content[:1024] + bytes(1024))


def test_large_files_are_passed_over():
    files = {"a": b"1" * 10, "b": b"2" * 11, "c": b"3" * 300_000, "d": b"4" * 9}
    assert read(make(files), limit=10) == [
        ("a", 10, b"1" * 10),
        ("b", 11, None),
        ("c", 300_000, None),
        ("d", 9, b"4" * 9),
    ]
    with pytest.raises(EOFError, match="within 'c'"):
        read(make(files)[:100_000], limit=10)


def test_large_extended_headers_are_refused():
    with pytest.raises(ValueError, match="a short extended header at the start, found 201 bytes"):
        read(make({"n" * 200: b"1"}), limit=100)


def test_a_tar_is_known_by_its_first_header():
    content = make({"a": b"1"})
    assert is_tar(content[:512])
    assert is_tar(patch(content, MAGIC, b"")[:512])
    assert is_tar(bytes(512))
    assert not is_tar(content[:511])
    assert not is_tar(content[1:513])
    assert not is_tar(b"\x89PNG" * 128)
    assert not is_tar(b"")
