import importlib.util
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from cinicpack import cinic10
from cinicpack.synthetic import name_images

Pixels = NDArray[np.uint8]

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT.parent / "shared" / "samples"


def make_tree(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", ROOT / "tools" / "make_tree.py", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def module():
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("make_tree", ROOT / "tools" / "make_tree.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def read_tree(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*.png")}


def read_pixels(root: Path) -> dict[str, Pixels]:
    pixels = {}
    for path in root.rglob("*.png"):
        with Image.open(path) as image:
            pixels[path.relative_to(root).as_posix()] = np.asarray(image.convert("RGB"))
    return pixels


def names(per_class: int, seed: int = 0) -> set[str]:
    return {
        f"{split}/{label}/{file}"
        for (split, label), files in name_images(per_class, seed=seed).items()
        for file in files
    }


def count_distinct(pixels: dict[str, Pixels]) -> int:
    return len({image.tobytes() for image in pixels.values()})


def write_sheets(directory: Path, tile: Callable[[int], ArrayLike]) -> None:
    """Write ten contact sheets of which ``tile(k)`` gives the pixels of tile k."""
    sheet = np.full((331, 661, 3), 255, np.uint8)
    for k in range(200):
        top, left = 1 + 33 * (k // 20), 1 + 33 * (k % 20)
        sheet[top : top + 32, left : left + 32] = tile(k)
    for name in cinic10.CLASSES:
        Image.fromarray(sheet).save(directory / f"cinic-{name}.png")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A synthetic tree of 3 x 10 x 9 images and its archive."""
    directory = tmp_path_factory.mktemp("make_tree")
    done = make_tree(
        directory / "tree", "--synthetic", "--per-class=9", f"--tar={directory / 'tree.tar.gz'}"
    )
    assert done.returncode == 0, done.stderr
    assert "270 images of 2," in done.stderr
    assert done.stdout == ""
    return directory


def test_the_tree_has_the_names_and_only_different_images(tree):
    pixels = read_pixels(tree / "tree")
    assert set(pixels) == names(9)
    assert {image.shape for image in pixels.values()} == {(32, 32, 3)}
    assert count_distinct(pixels) == 270


def test_the_archive_holds_the_tree_unsorted(tree, tmp_path):
    with tarfile.open(tree / "tree.tar.gz") as archive:
        members = archive.getmembers()
        files = [member.name for member in members if member.isfile()]
        archive.extractall(tmp_path, filter="data")
    assert read_tree(tmp_path) == read_tree(tree / "tree")
    in_order = [
        f"{'/'.join(place)}/{file}" for place, part in name_images(9).items() for file in part
    ]
    assert files not in (in_order, sorted(files))
    parents = [name.rpartition("/")[0] for name in files]
    directories = list(dict.fromkeys(parents))
    assert parents == [name for name in directories for _ in range(9)]
    assert [member.name for member in members if member.isdir()] == directories


def test_the_same_arguments_give_the_same_bytes_with_any_number_of_workers(tree, tmp_path):
    archive = tmp_path / "other-name.tar.gz"
    done = make_tree(
        tmp_path / "tree", "--synthetic", "--per-class=9", "--workers=1", "--tar", archive
    )
    assert done.returncode == 0, done.stderr
    assert read_tree(tmp_path / "tree") == read_tree(tree / "tree")
    assert archive.read_bytes() == (tree / "tree.tar.gz").read_bytes()


def test_images_of_one_tile_differ_even_where_it_is_blank(tmp_path):
    write_sheets(tmp_path, lambda _: 255)
    done = make_tree(tmp_path / "tree", "--samples", tmp_path, "--per-class=20", "--seed=5")
    assert done.returncode == 0, done.stderr
    pixels = read_pixels(tmp_path / "tree")
    assert set(pixels) == names(20, seed=5)
    assert count_distinct(pixels) == 600


def test_no_tile_serves_two_splits(tmp_path):
    write_sheets(tmp_path, lambda k: np.eye(3, dtype=np.uint8)[k % 3] * 200)
    done = make_tree(tmp_path / "tree", "--samples", tmp_path, "--per-class=10")
    assert done.returncode == 0, done.stderr
    for path, pixels in read_pixels(tmp_path / "tree").items():
        brightest = pixels.reshape(-1, 3).mean(0).argmax()
        grey = np.ptp(pixels, axis=2).max() == 0
        assert grey or brightest == cinic10.SPLITS.index(path.partition("/")[0])


def test_a_tile_is_used_in_all_ways_before_one_comes_again(module):
    tile = np.random.default_rng(0).integers(60, 200, (1, 32, 32, 3)).astype(np.uint8)
    images = module.vary_tiles(tile, 163, np.random.default_rng(0))
    likeness = np.corrcoef(images.reshape(163, -1)) - np.eye(163)
    assert likeness[:162, :162].max() < 0.9
    assert likeness[162].max() > 0.9
    brightness = images.mean((1, 2, 3)) / tile.mean()
    assert 0.75 < brightness.min() < 0.85
    assert 1.15 < brightness.max() < 1.25


def test_ways_are_shifts_by_up_to_four_and_mirroring(module):
    across, down = np.meshgrid(np.arange(32), np.arange(32))
    tile = np.stack([across * 5, down * 5, np.full((32, 32), 155)], axis=-1).astype(np.uint8)
    images = module.vary_tiles(tile[None], 162, np.random.default_rng(0)).astype(float)
    # Inside, where no reflection reaches, brightness cancels against the third channel.
    columns, rows = np.rint(31 * images[:, 16, 15:17, :2] / images[:, 16, 15:17, 2:]).transpose(
        2, 0, 1
    )
    assert np.array_equal(rows[:, 0], rows[:, 1])
    step = columns[:, 1] - columns[:, 0]
    ways = set(zip(step, columns[:, 0], rows[:, 0], strict=True))
    assert ways == {
        (step, column + right, 16 + down)
        for step, column in ((1, 15), (-1, 16))
        for right in range(-4, 5)
        for down in range(-4, 5)
    }


@pytest.mark.parametrize("size", [5, 64])
def test_the_size_may_differ(tmp_path, size):
    write_sheets(tmp_path, lambda k: k)
    done = make_tree(tmp_path / "tree", "--samples", tmp_path, "--per-class=2", f"--size={size}")
    assert done.returncode == 0, done.stderr
    pixels = read_pixels(tmp_path / "tree")
    assert {image.shape for image in pixels.values()} == {(size, size, 3)}
    assert count_distinct(pixels) == 60


def test_a_sheet_of_another_shape_is_refused(tmp_path, module):
    Image.new("RGB", (660, 331)).save(tmp_path / "sheet.png")
    with pytest.raises(
        SystemExit, match=r"expected a contact sheet \(331, 661, 3\), found \(331, 660"
    ):
        module.read_tiles(tmp_path / "sheet.png")


def test_the_authors_contact_sheets_give_images_like_theirs(tmp_path):
    if not SAMPLES.is_dir():
        pytest.skip("the authors' contact sheets are not beside the repository")
    done = make_tree(tmp_path / "tree", "--per-class=40")
    assert done.returncode == 0, done.stderr
    pixels = read_pixels(tmp_path / "tree")
    assert count_distinct(pixels) == 1_200
    images = np.stack(list(pixels.values())) / 255
    assert images.mean((0, 1, 2)) == pytest.approx(cinic10.MEAN, abs=0.02)
    assert images.std((0, 1, 2)) == pytest.approx(cinic10.STD, abs=0.02)
    files = read_tree(tmp_path / "tree").values()
    assert 2_150 < sum(map(len, files)) / 1_200 < 2_400


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("full", "expected a new or empty directory, found files in it"),
        ("new --tar full/file", "expected a new archive, found one"),
        ("new --samples full", "cinic-airplane.png: expected a contact sheet, found none"),
        ("new --samples full --synthetic", "not allowed with"),
        ("new --per-class=0", "--per-class: expected 1 to 559,240, found 0"),
        ("new --per-class=559241", "found 559,241"),
        ("new --size=4", "--size: expected at least 5, found 4"),
        ("new --size=-32", "--size: expected at least 5, found -32"),
        ("new --seed=-1", "--seed: expected 0 or more, found -1"),
        ("new --workers=0", "--workers: expected 1 or more, found 0"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(
    arguments, message, module, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    Path("full").mkdir()
    Path("full/file").touch()
    monkeypatch.setattr(sys, "argv", ["make_tree.py", *arguments.split()])
    with pytest.raises(SystemExit):
        module.main()
    assert message in capsys.readouterr().err
    assert not Path("new").exists()
