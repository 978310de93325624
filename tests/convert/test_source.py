import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cinicpack.convert.source import open_source
from cinicpack.errors import SourceError
from tests.convert.sources_here import FILES, MAKERS, OTHERS, opened, put, read


def test_the_content_decides_and_not_the_name(tmp_path):
    put(tmp_path / "tree.zip", FILES)
    for path in (tmp_path / "tree.zip", str(tmp_path / "tree.zip")):
        assert sorted(open_source(path).paths()) == sorted(FILES)
    for make in MAKERS.values():
        assert read(tmp_path / "archive.png", make(FILES)) == FILES


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_an_empty_archive_has_nothing(tmp_path, make):
    assert read(tmp_path / "empty", make({})) == {}


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n" * 100, b"x" * 511, b"7z\xbc\xaf"])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "x.tar"
    path.write_bytes(content)
    with pytest.raises(
        SourceError, match=r"x\.tar: expected a directory, a \.tar.*found a file that"
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
names = st.builds(
    str.__add__, folders, st.sampled_from([".png", ".PNG", ".jpg", ".Tiff", ".gif", ""])
)
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
        if path[2].lower().endswith((".png", ".jpg", ".tiff")) and not path[2].startswith("._")
    }
    with TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "tree").mkdir()
        put(root / "tree", everything)
        tree = open_source(root / "tree")
        assert tree.read is not None
        paths = list(tree.paths())
        assert dict(zip(paths, tree.read(paths), strict=True)) == images
        assert dict(tree.stream()) == images
        rest = len(everything) - len(images)
        assert tree.remarks.ignored == rest
        for make in MAKERS.values():
            archive = opened(root / "archive", make(everything))
            assert archive.read is None
            assert list(archive.stream()) == [*images.items()]
            assert [*archive.paths()] == [*images]
            assert archive.remarks.ignored == tree.remarks.ignored
            assert archive.remarks.folders <= tree.remarks.folders


@pytest.mark.parametrize("kind", ["tree", *MAKERS])
def test_folders_and_other_files_are_told(tmp_path, kind):
    files = {**FILES, **OTHERS, "train/fox/deep/README": b""}
    (tmp_path / "tree").mkdir()
    put(tmp_path / "tree", files)
    (tmp_path / "tree" / "train" / "ant").mkdir()
    source = open_source(tmp_path / "tree")
    if kind != "tree":
        source = opened(tmp_path / "archive", MAKERS[kind]({**files, "./train/ant/": b""}))
    for _ in range(2):
        assert len(list(source.paths())) == len(FILES)
        assert source.remarks.ignored == len(OTHERS) + 1
        assert {"train/ant", "train/cat", "train/fox/deep"} <= source.remarks.folders
