import errno
import gzip
import io
import os
import socket
import stat
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cinicpack.convert import sources
from cinicpack.convert.sources import Archive, Tree, open_source, read_files
from cinicpack.errors import SourceError
from tests.png_images import png, random_samples

FILES = {
    "train/cat/a.png": b"cat a" * 100,
    "train/cat/empty.png": b"",
    "train/dog/b.PNG": os.urandom(20_000),
    "test/cat/é.png": os.urandom(3_000),
    "test/dog/\udcff.png": b"a name that is not UTF-8",
    "test/dog/c d.pNg": b"dog",
}
OTHERS = {
    "README.md": b"text",
    "train/cat/._a.png": b"what macOS adds",
    "train/cat/._a.jpg": b"what macOS adds",
    "train/cat/png": b"no extension",
    "train/cat/jpg": b"no extension",
    "train/cat/a.gif": b"what ImageFolder does not load either",
    "train/.DS_Store": b"",
}
# What ImageFolder loads besides PNG.
EXTENSIONS = ("jpg", "jpeg", "JPG", "ppm", "bmp", "Pgm", "tif", "tiff", "TIFF", "webp")
LEFT_OUT = {
    f"train/eel/{number}.{extension}": b"an image of another kind"
    for number, extension in enumerate(EXTENSIONS)
}
FOLDERS = {"./": b"", "train/": b"", "train/cat.png/": b"", "./train/dog.png/": b""}


def write_tree(path: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)


def tar_bytes(files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def zip_bytes(files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("\udcff", "\1"), content, method)
    # zipfile writes no names that are not text; other programs do.
    return out.getvalue().replace(b"\1.png", b"\xff.png")


MAKERS: dict[str, Callable[[Mapping[str, bytes]], bytes]] = {
    "tar": tar_bytes,
    "tar.gz": lambda files: gzip.compress(tar_bytes(files), 1),
    "zip": zip_bytes,
    "stored.zip": lambda files: zip_bytes(files, zipfile.ZIP_STORED),
}


def opened(path: Path, content: bytes) -> Archive:
    path.write_bytes(content)
    archive = open_source(path)
    assert isinstance(archive, Archive)
    return archive


def read(path: Path, content: bytes) -> dict[str, bytes | OSError]:
    return dict(opened(path, content))


# What a source is


def test_the_content_decides_and_not_the_name(tmp_path):
    write_tree(tmp_path / "tree.zip", FILES)
    assert isinstance(open_source(tmp_path / "tree.zip"), Tree)
    assert isinstance(open_source(str(tmp_path / "tree.zip")), Tree)
    for make in MAKERS.values():
        assert read(tmp_path / "archive.png", make(FILES)) == FILES


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_an_empty_archive_has_nothing(tmp_path, make):
    assert read(tmp_path / "empty", make({})) == {}


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n" * 100, b"x" * 511, b"BZh9"])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "x.tar"
    path.write_bytes(content)
    with pytest.raises(
        SourceError, match=r"x\.tar: expected a directory, \.tar.*found a file that"
    ):
        open_source(path)


def test_special_files_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SourceError, match=r"pipe: expected a directory.*found a named pipe"):
        open_source(tmp_path / "pipe")


def test_nothing_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        open_source(tmp_path / "nowhere")


# The same files give the same images, from every kind of source

parts = st.text(st.characters(exclude_characters="/\0\1", exclude_categories=["Cs"]), min_size=1)
folders = parts.map(lambda part: part[:20]).filter(lambda part: part not in (".", ".."))
names = st.builds(str.__add__, folders, st.sampled_from([".png", ".PNG", ".pnG", ".jpg", ""]))
files = st.dictionaries(
    st.tuples(
        st.sampled_from(["train", "test", "ü"]), folders, names.filter(lambda n: n not in "..")
    ),
    st.binary(max_size=3000),
    max_size=6,
)


@settings(deadline=None)
@given(files)
def test_every_kind_of_source_gives_the_same(files):
    everything = {"/".join(path): content for path, content in files.items()}
    images = {
        "/".join(path): content
        for path, content in files.items()
        if path[2].lower().endswith(".png") and not path[2].startswith("._")
    }
    with TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "tree").mkdir()
        write_tree(root / "tree", everything)
        tree = open_source(root / "tree")
        assert isinstance(tree, Tree)
        paths = list(tree)
        assert dict(zip(paths, read_files(root / "tree", paths), strict=True)) == images
        rest = len(everything) - len(images)
        assert tree.ignored + len(tree.left_out) == rest
        for make in MAKERS.values():
            archive = opened(root / "archive", make(everything))
            assert list(archive) == [*images.items()]
            assert sorted(archive.left_out) == sorted(tree.left_out)
            assert archive.ignored == tree.ignored
            assert archive.folders <= tree.folders


@pytest.mark.parametrize("kind", ["tree", *MAKERS])
def test_folders_and_images_of_other_kinds_are_told(tmp_path, kind):
    files = {**FILES, **OTHERS, **LEFT_OUT, "train/fox/deep/README": b""}
    (tmp_path / "tree").mkdir()
    write_tree(tmp_path / "tree", files)
    (tmp_path / "tree" / "train" / "ant").mkdir()
    source: Tree | Archive = Tree(tmp_path / "tree")
    if kind != "tree":
        source = opened(tmp_path / "archive", MAKERS[kind]({**files, "./train/ant/": b""}))
    for _ in range(2):
        assert len(list(source)) == len(FILES)
        assert sorted(source.left_out) == sorted(LEFT_OUT)
        assert source.ignored == len(OTHERS) + 1
        assert {"train/ant", "train/cat", "train/eel", "train/fox/deep"} <= source.folders


# Trees


def test_a_tree_lists_its_images_at_any_depth_and_counts_the_rest(tmp_path):
    files = {**FILES, **OTHERS, "x.png": b"", "a/b/c/d/e/y.png": b"", "train/cat/.png": b""}
    write_tree(tmp_path, files)
    (tmp_path / "folder.png").mkdir()
    tree = Tree(tmp_path)
    for _ in range(2):
        assert sorted(tree) == sorted(files.keys() - OTHERS.keys())
        assert tree.ignored == len(OTHERS)


def test_links_in_a_tree_are_followed(tmp_path):
    write_tree(tmp_path / "elsewhere", {"cat/a.png": b"1", "dog/b.png": b"2"})
    (tmp_path / "tree" / "train").mkdir(parents=True)
    (tmp_path / "tree" / "train" / "cat").symlink_to(tmp_path / "elsewhere" / "cat")
    (tmp_path / "tree" / "train" / "bird").symlink_to("cat")
    (tmp_path / "tree" / "train" / "c.png").symlink_to(tmp_path / "elsewhere" / "dog" / "b.png")
    paths = sorted(Tree(tmp_path / "tree"))
    assert paths == ["train/bird/a.png", "train/c.png", "train/cat/a.png"]
    assert list(read_files(tmp_path / "tree", paths)) == [b"1", b"2", b"1"]


def test_a_link_that_leads_nowhere_may_be_a_folder(tmp_path):
    write_tree(tmp_path, {"train/cat/a.png": b"1"})
    (tmp_path / "train" / "ant").symlink_to("gone")
    (tmp_path / "train" / "README").symlink_to("cat/a.png")
    tree = Tree(tmp_path)
    assert list(tree) == ["train/cat/a.png"]
    assert "train/ant" in tree.folders
    assert "train/README" not in tree.folders
    assert tree.ignored == 1


def test_links_in_a_circle_are_refused(tmp_path):
    write_tree(tmp_path, {"train/cat/a.png": b"1"})
    (tmp_path / "train" / "cat" / "up").symlink_to("..")
    with pytest.raises(SourceError, match="'train/cat/up/' leads back to a directory above it"):
        list(Tree(tmp_path))
    (tmp_path / "train" / "cat" / "up").unlink()
    (tmp_path / "train" / "cat" / "self").symlink_to("self")
    with pytest.raises(SourceError, match=r"expected a readable tree.*symbolic links.*self"):
        list(Tree(tmp_path))


def test_a_tree_that_cannot_be_listed_for_a_moment_is_refused(tmp_path, monkeypatch):
    entry = Mock(**{"is_dir.side_effect": OSError(errno.EIO, "a reason")})
    entry.name = "a.png"
    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", lambda _: nullcontext([entry]))
        with pytest.raises(SourceError, match=r"expected a readable tree, found .*a reason"):
            list(Tree(tmp_path))


def test_a_tree_that_went_away_is_refused(tmp_path):
    with pytest.raises(SourceError, match=r"gone: expected a readable tree, found .*No such file"):
        list(Tree(tmp_path / "gone"))


def test_files_of_every_size_are_read_whole(tmp_path):
    files = {f"{size}.png": os.urandom(size) for size in (0, 1, 8191, 8192, 8193, 300_000)}
    write_tree(tmp_path, files)
    assert list(read_files(tmp_path, files)) == [*files.values()]
    assert list(read_files(str(tmp_path), iter(["1.png"]))) == [files["1.png"]]


def test_files_are_read_as_they_are_asked_for(tmp_path):
    write_tree(tmp_path, {"a.png": b"1"})
    contents = read_files(tmp_path, ["a.png", "b.png"])
    assert next(contents) == b"1"
    write_tree(tmp_path, {"b.png": b"2"})
    assert next(contents) == b"2"


def test_what_cannot_be_read_gives_its_reason_and_hinders_no_other(tmp_path):
    write_tree(tmp_path, {"a.png": b"1", "z.png": b"2"})
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "null.png").symlink_to("/dev/null")
    (tmp_path / "self.png").symlink_to("self.png")
    (tmp_path / "folder.png").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(tmp_path / "socket.png"))
    reasons = {
        "pipe.png": "expected a regular file, found a named pipe",
        "zero.png": "expected a regular file, found a character device",
        "null.png": "expected a regular file, found a character device",
        "self.png": "Too many levels of symbolic links",
        "folder.png": "expected a regular file, found a directory",
        "socket.png": "expected a regular file, found a socket",
    }
    assert set(reasons) - {"folder.png"} <= set(Tree(tmp_path))
    first, *errors, last = read_files(tmp_path, ["a.png", *reasons, "z.png"])
    assert (first, last) == (b"1", b"2")
    for error, reason in zip(errors, reasons.values(), strict=True):
        assert isinstance(error, OSError)
        assert reason in str(error)


# What says nothing of an image, since it may pass.
SHORTAGES = (
    "EMFILE",
    "ENFILE",
    "ENOMEM",
    "EIO",
    "ESTALE",
    "EACCES",
    "EPERM",
    "ENOSPC",
    "ETIMEDOUT",
)


@pytest.mark.parametrize("call", ["open", "pread"])
@pytest.mark.parametrize("error", [*SHORTAGES, "MemoryError"])
def test_a_file_that_cannot_be_read_is_no_bad_image(tmp_path, monkeypatch, call, error):
    write_tree(tmp_path, {"a.png": b"1", "b.png": b"2"})
    contents = read_files(tmp_path, ["a.png", "b.png"])
    assert next(contents) == b"1"

    def fail(*_: object, **__: object) -> None:
        raise MemoryError if error == "MemoryError" else OSError(getattr(errno, error), "a reason")

    with monkeypatch.context() as patched:
        patched.setattr(os, call, fail)
        with pytest.raises(
            SourceError, match=r"b\.png: could not be read \((a reason|want of mem)"
        ):
            next(contents)


def test_a_file_that_has_gone_is_no_bad_image(tmp_path):
    (tmp_path / "a.png").symlink_to("nowhere")
    for name in ("a.png", "b.png"):
        with pytest.raises(SourceError, match=rf"{name}: could not be read \(No such file"):
            list(read_files(tmp_path, [name]))


def test_a_file_that_is_read_in_part_is_read_again(tmp_path, monkeypatch):
    # So a disk's error shows itself where something before it could be read.
    content = png(random_samples(2, 8, 30, 30))
    write_tree(tmp_path, {"a.png": content})
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda file, _, start: pread(file, 1000, start))
    assert list(read_files(tmp_path, ["a.png"])) == [content]


def test_a_pipe_with_a_writer_is_no_file_either(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with open(tmp_path / "pipe.png", "r+b", buffering=0) as pipe:
        pipe.write(b"not an image")
        (error,) = read_files(tmp_path, ["pipe.png"])
    assert isinstance(error, OSError)
    assert error.strerror == "expected a regular file, found a named pipe"


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    with open(tmp_path / "a.png", "wb") as file:
        file.truncate(sources.MAX_BYTES + 1)
    (error,) = read_files(tmp_path, ["a.png"])
    assert str(error) == "[Errno 27] expected at most 67108864 bytes, found 67108865: 'a.png'"


# Archives


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_an_archive_gives_its_images_in_order_and_counts_the_rest(tmp_path, make):
    archive = opened(tmp_path / "archive", make({**FOLDERS, **FILES, **OTHERS}))
    for _ in range(2):
        assert list(archive) == [*FILES.items()]
        assert archive.ignored == len(OTHERS)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_the_fraction_grows_from_0_to_1(tmp_path, make):
    archive = opened(
        tmp_path / "archive", make({f"{n}.png": os.urandom(20_000) for n in range(200)})
    )
    fractions = [archive.fraction, *(archive.fraction for _ in archive), archive.fraction]
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
    assert [path for path, _ in archive] == ["a/x.png", "a/y.png", "a/z.png", ".b/.c.png"]
    assert archive.ignored == 1


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
    with pytest.raises(SourceError, match=r"archive: expected every member once, found 'a/x\.png'"):
        read(tmp_path / "archive", make({"a/x.png": b"1", "b.png": b"", "./a/x.png": b"1"}))


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_member_that_is_too_large_is_an_error_in_its_place(tmp_path, make, monkeypatch):
    monkeypatch.setattr(sources, "MAX_BYTES", 1000)
    files = {"a.png": bytes(1000), "b.png": bytes(1001), "c.png": b"3"}
    a, b, c = opened(tmp_path / "archive", make(files))
    assert (a, c) == (("a.png", bytes(1000)), ("c.png", b"3"))
    assert b[0] == "b.png"
    assert "expected at most 1000 bytes, found 1001" in str(b[1])


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_an_archive_may_be_left_early(tmp_path, make):
    archive = opened(tmp_path / "archive", make(FILES))
    for _ in archive:
        break
    assert dict(archive) == FILES


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
        patched.setattr("cinicpack.convert.sources.io.FileIO", Failing)
        patched.setattr(
            "builtins.open", lambda file, *_, **__: io.BufferedReader(Failing(file, closefd=False))
        )
        with pytest.raises(SourceError, match=r"archive.*: could not be read \(a reason\)"):
            list(archive)


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


# Tars


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
    with pytest.raises(SourceError, match="expected a tar header at the start, found a wrong"):
        read(tmp_path / "x.gz", gzip.compress(b"text" * 500))


# Zips


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
