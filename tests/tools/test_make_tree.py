import os
import runpy
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cinicpack import cinic10
from cinicpack.synthetic import name_images, write_tree

Pixels = NDArray[np.uint8]

ROOT = Path(__file__).parents[2]


def make_tree(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", ROOT / "tools" / "make_tree.py", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def read_tree(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*.png")}


def read_pixels(path: Path) -> Pixels:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A tree of 3 x 10 x 18 images and its archive."""
    directory = tmp_path_factory.mktemp("make_tree")
    done = make_tree(directory / "tree", "--per-class=18", f"--tar={directory / 'tree.tar.gz'}")
    assert done.returncode == 0, done.stderr
    assert "540 images of 2," in done.stderr
    assert done.stdout == ""
    return directory


def test_the_tree_is_that_of_synthetic(tree, tmp_path):
    write_tree(tmp_path, 18)
    assert read_tree(tree / "tree") == read_tree(tmp_path)


def test_the_images_are_like_the_authors_and_all_differ(tree):
    images = np.stack([read_pixels(path) for path in (tree / "tree").rglob("*.png")])
    assert images.shape == (540, 32, 32, 3)
    assert len({image.tobytes() for image in images}) == 540
    assert (images / 255).mean((0, 1, 2)) == pytest.approx(cinic10.MEAN, abs=0.02)
    assert (images / 255).std((0, 1, 2)) == pytest.approx(cinic10.STD, abs=0.02)
    # CINIC-10's have 2,400.
    assert sum(map(len, read_tree(tree / "tree").values())) / 540 == pytest.approx(2_400, abs=100)


def test_the_archive_holds_the_tree_unsorted(tree):
    with tarfile.open(tree / "tree.tar.gz") as archive:
        members = archive.getmembers()
        held: Any = {one.name: archive.extractfile(one) for one in members if one.isfile()}
        assert {name: file.read() for name, file in held.items()} == read_tree(tree / "tree")
    files = list(held)
    in_order = [
        f"{'/'.join(place)}/{file}" for place, part in name_images(18).items() for file in part
    ]
    assert files not in (in_order, sorted(files))
    parents = [name.rpartition("/")[0] for name in files]
    directories = list(dict.fromkeys(parents))
    assert parents == [name for name in directories for _ in range(18)]
    assert [member.name for member in members if member.isdir()] == directories


def test_the_same_arguments_give_the_same_bytes_with_any_number_of_workers(tree, tmp_path):
    archive = tmp_path / "other-name.tar.gz"
    done = make_tree(tmp_path / "tree", "--per-class=18", "--workers=1", "--tar", archive)
    assert done.returncode == 0, done.stderr
    assert archive.read_bytes() == (tree / "tree.tar.gz").read_bytes()


def test_size_and_seed_may_differ(tmp_path):
    done = make_tree(tmp_path / "tree", "--per-class=2", "--size=64", "--seed=5")
    assert done.returncode == 0, done.stderr
    write_tree(tmp_path / "same", 2, size=64, seed=5)
    assert read_tree(tmp_path / "tree") == read_tree(tmp_path / "same")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("full", "expected a new or empty directory, found files in it"),
        ("new --tar full/file", "expected a new archive, found one"),
        ("new --per-class=0", "--per-class: expected 1 or more, found 0"),
        ("new --size=-32", "--size: expected 1 or more, found -32"),
        ("new --seed=-1", "--seed: expected 0 or more, found -1"),
        ("new --workers=0", "--workers: expected 1 or more, found 0"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(
    arguments, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    Path("full").mkdir()
    Path("full/file").touch()
    monkeypatch.setattr(sys, "argv", ["make_tree.py", *arguments.split()])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(ROOT / "tools" / "make_tree.py"), run_name="__main__")
    assert message in capsys.readouterr().err
    assert not Path("new").exists()
