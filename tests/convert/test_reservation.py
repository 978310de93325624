import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import cinicpack
from cinicpack.convert.conversion import Converted, Task
from cinicpack.convert.packer import Pace
from cinicpack.convert.paths import Paths
from cinicpack.convert.plan import Plan, Wanted, make_plan
from cinicpack.convert.reservation import cut_tasks, reserve, sample
from cinicpack.convert.tree import Tree
from cinicpack.convert.worker import Worker, starting_workers
from cinicpack.store.container import CONTAINERS, Container
from cinicpack.store.npy import Npy
from tests.convert.sources_here import pack_slowly

HUGE_PAGE = 2 << 20


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """Two splits of one class with 19 images of 512x512: of these eight are three huge pages."""
    root: Path = tmp_path_factory.mktemp("reservation") / "tree"
    random = np.random.default_rng(0)
    for split in ("train", "valid"):
        (root / split / "cat").mkdir(parents=True)
        for number in range(19):
            # Noise at the edges, where tasks meet.
            pixels = np.full((512, 512, 3), number, np.uint8)
            pixels[0], pixels[-1] = random.integers(0, 256, (2, 512, 3), np.uint8)
            Image.fromarray(pixels).save(root / split / "cat" / f"{number:02}.png")
    return root


def plan_of(tree: Path, shard_rows: int | None = None) -> Plan:
    source = Tree(tree)
    return make_plan(source, Paths(source.paths()), Wanted(shard_rows=shard_rows), tree).in_order()


@pytest.mark.parametrize("container", CONTAINERS.values())
@pytest.mark.parametrize("shard_rows", [None, 17])
def test_tasks_tile_the_arrays_at_huge_pages(
    tree: Path, tmp_path: Path, container: Container, shard_rows: int | None
) -> None:
    plan = plan_of(tree, shard_rows)
    reservation = reserve(sample(Tree(tree), plan), plan, tmp_path / "reserved", container)
    assert reservation is not None
    assert reservation.shape == (512, 512)
    tasks = list(cut_tasks(plan, reservation, 2))
    assert [path for task in tasks for path in task.paths] == [*plan.paths]
    row_bytes = 3 * 512 * 512
    edges = 0
    for region in reservation.regions:
        if "/images-" not in region.spec.name:
            continue
        stop = region.offset + region.spec.nbytes
        places = [
            (task.target, task.target.offset + len(task.paths) * row_bytes)
            for task in tasks
            if task.target
            and task.target.file == str(region.file)
            and region.offset <= task.target.offset < stop
        ]
        assert places[0][0].offset == region.offset
        assert places[0][0].padding == places[-1][0].held_back == 0
        assert places[-1][1] == stop
        for (place, end), (following, _) in pairwise(places):
            assert end == following.offset
            assert place.held_back == following.padding
            assert (end - place.held_back) % HUGE_PAGE == 0
            edges += 1
    assert edges >= 4


class NotingFiles:
    """Starts workers as ever, and notes the files that they have written images to."""

    def __init__(self) -> None:
        self._inodes: set[int] = set()

    @contextmanager
    def start(self, *arguments: Any) -> Iterator[list[Worker]]:
        with starting_workers(*arguments) as workers:
            yield [partial(self._convert, worker) for worker in workers]

    def _convert(self, worker: Worker, task: Task) -> Converted:
        result = worker(task)
        self._inodes.add(os.stat(result.scratch).st_ino)
        return result

    def are_those_of(self, pack: cinicpack.Pack) -> bool:
        return self._inodes == {os.stat(file).st_ino for file in pack.path.rglob("images-*.npy")}


def test_what_is_held_back_is_written_in_the_end(tree: Path, tmp_path: Path) -> None:
    files = NotingFiles()
    pack = pack_slowly(tree, tmp_path / "a.pack", Pace(), files.start, num_workers=2)
    assert files.are_those_of(pack)
    for split in pack.splits:
        for row, path in enumerate(sorted((tree / split / "cat").iterdir())):
            np.testing.assert_array_equal(pack[split].images[row], np.asarray(Image.open(path)))
    # With an image of another size nothing can stay where it was.
    Image.new("RGB", (3, 3)).save(tree / "train" / "cat" / "20.png")
    with pytest.warns(UserWarning, match="1 image that cannot be packed is left out"):
        other = pack_slowly(tree, tmp_path / "b.pack", Pace(), files.start, skip_bad=True)
    assert not files.are_those_of(other)
    assert other.fingerprint == pack.fingerprint


@pytest.mark.parametrize("num_workers", [0, 2])
def test_small_images_are_decoded_into_their_places(tmp_path: Path, num_workers: int) -> None:
    """More of them than a task's memory holds, and the last task's in their own shard."""
    random = np.random.default_rng(1)
    folder = tmp_path / "images"
    folder.mkdir()
    pixels = random.integers(0, 256, (100, 32, 32, 3), np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{number:02}.png")
    (tmp_path / "tree").mkdir()
    for number in range(30):
        (tmp_path / "tree" / f"{number:02}").symlink_to(folder)

    files = NotingFiles()
    pack = pack_slowly(
        tmp_path / "tree",
        tmp_path / "a.pack",
        Pace(),
        files.start,
        num_workers=num_workers,
        shard_rows=2999,
    )
    assert files.are_those_of(pack)
    np.testing.assert_array_equal(pack["train"].images[:], np.concatenate(30 * [pixels]))


def test_an_odd_first_image_decides_nothing(tree: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tree" / "cat"
    shutil.copytree(tree / "train" / "cat", folder)
    Image.new("L", (4000, 4000)).save(folder / "-.png")
    plan = plan_of(tmp_path / "tree")
    samples = sample(Tree(tmp_path / "tree"), plan)
    reservation = reserve(samples, plan, tmp_path / "r", Npy())
    assert reservation is not None
    assert reservation.shape == (512, 512)


def test_nothing_is_reserved_if_the_images_are_bad(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.png").write_bytes(b"no image")
    plan = plan_of(tmp_path)
    assert reserve(sample(Tree(tmp_path), plan), plan, tmp_path / "r", Npy()) is None
    assert not (tmp_path / "r").exists()
    [task] = cut_tasks(plan, None, 2)
    assert task.paths == [*plan.paths] == ["cat/a.png"]
    assert task.target is None
