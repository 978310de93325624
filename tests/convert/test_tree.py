import errno
import os
from contextlib import nullcontext
from unittest.mock import Mock

import pytest

from cinicpack.convert.files import read_files
from cinicpack.convert.tree import Tree
from cinicpack.errors import SourceError
from tests.convert.sources_here import FILES, OTHERS, put


def test_a_tree_lists_its_images_at_any_depth_and_counts_the_rest(tmp_path):
    files = {**FILES, **OTHERS, "x.png": b"", "a/b/c/d/e/y.png": b"", "train/cat/.png": b""}
    put(tmp_path, files)
    (tmp_path / "folder.png").mkdir()
    tree = Tree(tmp_path)
    for _ in range(2):
        assert sorted(tree.paths()) == sorted(files.keys() - OTHERS.keys())
        assert tree.remarks.ignored == len(OTHERS)


def test_links_in_a_tree_are_followed(tmp_path):
    put(tmp_path / "elsewhere", {"cat/a.png": b"1", "dog/b.png": b"2"})
    (tmp_path / "tree" / "train").mkdir(parents=True)
    (tmp_path / "tree" / "train" / "cat").symlink_to(tmp_path / "elsewhere" / "cat")
    (tmp_path / "tree" / "train" / "bird").symlink_to("cat")
    (tmp_path / "tree" / "train" / "c.png").symlink_to(tmp_path / "elsewhere" / "dog" / "b.png")
    paths = sorted(Tree(tmp_path / "tree").paths())
    assert paths == ["train/bird/a.png", "train/c.png", "train/cat/a.png"]
    assert list(read_files(tmp_path / "tree", paths)) == [b"1", b"2", b"1"]


def test_a_link_that_leads_nowhere_may_be_a_folder(tmp_path):
    put(tmp_path, {"train/cat/a.png": b"1"})
    (tmp_path / "train" / "ant").symlink_to("gone")
    (tmp_path / "train" / "README").symlink_to("cat/a.png")
    tree = Tree(tmp_path)
    assert [*tree.paths()] == ["train/cat/a.png"]
    assert "train/ant" in tree.remarks.folders
    assert "train/README" not in tree.remarks.folders
    assert tree.remarks.ignored == 1


def test_links_in_a_circle_are_refused(tmp_path):
    put(tmp_path, {"train/cat/a.png": b"1"})
    (tmp_path / "train" / "cat" / "up").symlink_to("..")
    with pytest.raises(SourceError, match="'train/cat/up/' leads back to a directory above it"):
        list(Tree(tmp_path).paths())
    (tmp_path / "train" / "cat" / "up").unlink()
    (tmp_path / "train" / "cat" / "self").symlink_to("self")
    with pytest.raises(SourceError, match=r"expected a readable tree.*symbolic links.*self"):
        list(Tree(tmp_path).paths())


def test_a_tree_that_cannot_be_listed_for_a_moment_is_refused(tmp_path, monkeypatch):
    entry = Mock(**{"is_dir.side_effect": OSError(errno.EIO, "a reason")})
    entry.name = "a.png"
    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", lambda _: nullcontext([entry]))
        with pytest.raises(SourceError, match=r"expected a readable tree, found .*a reason"):
            list(Tree(tmp_path).paths())


def test_a_tree_that_went_away_is_refused(tmp_path):
    with pytest.raises(SourceError, match=r"gone: expected a readable tree, found .*No such file"):
        list(Tree(tmp_path / "gone").paths())


def test_a_tree_is_small_below_so_many_images(tmp_path):
    put(tmp_path, FILES)
    tree = Tree(tmp_path)
    for _ in range(2):
        assert not tree.is_small(len(FILES), 0)
        assert tree.is_small(len(FILES) + 1, 0)
        assert sorted(tree.paths()) == sorted(FILES)
