import errno
import os
import shutil
import tarfile
import time
import tracemalloc
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cinicpack
from cinicpack.convert.arrays import Arrays
from cinicpack.convert.conversion import Converted, Task
from cinicpack.convert.dataset import Datasets
from cinicpack.convert.files import Content, Read, Remarks
from cinicpack.convert.packer import Pace, build
from cinicpack.convert.plan import Wanted
from cinicpack.convert.source import Source
from cinicpack.convert.worker import Worker, starting_workers
from cinicpack.errors import ArgumentError, SelectionError, SourceError
from cinicpack.store.container import named
from tests.convert.sources_here import (
    NotingWorkers,
    bytes_of,
    make_tar,
    make_zip,
    pack,
    pack_slowly,
    put,
    tiny,
)
from tests.png_images import BIT_DEPTHS, chunk, png, random_samples
from tests.torchvision_here import import_torchvision


@pytest.fixture(scope="module")
def sources(tree, tmp_path_factory) -> dict[str, Path]:
    folder: Path = tmp_path_factory.mktemp("sources")
    shutil.copytree(tree, folder / "nested" / "CINIC-10")
    return {
        "tree": tree,
        "nested": folder / "nested",
        "tar": make_tar(tree, folder / "a.tar"),
        "tar.gz": make_tar(tree, folder / "a.tar.gz", "./", "w:gz"),
        "tgz, nested": make_tar(tree, folder / "a.tgz", "CINIC-10/", "w:gz"),
        "zip": make_zip(tree, folder / "a.zip"),
        "zip, nested": make_zip(tree, folder / "b.zip", "CINIC-10/"),
    }


def test_the_same_bytes_from_any_source(sources, npy_pack, hdf5_pack, tmp_path):
    for number, (name, source) in enumerate(sources.items()):
        npy, hdf5 = tmp_path / f"{number}.pack", tmp_path / f"{number}.h5"
        pack_slowly(source, npy)
        assert bytes_of(npy) == bytes_of(npy_pack), name
        pack_slowly(source, hdf5, format="hdf5")
        assert bytes_of(hdf5) == bytes_of(hdf5_pack), name


@pytest.mark.parametrize(("source", "num_workers"), [("tree", 2), ("tar.gz", 1)])
def test_the_same_bytes_with_any_number_of_workers(
    sources, npy_pack, tmp_path, source, num_workers
):
    pack_slowly(sources[source], tmp_path / "a", num_workers=num_workers)
    assert bytes_of(tmp_path / "a") == bytes_of(npy_pack)


@pytest.mark.parametrize("source", ["tree", "tar.gz"])
@pytest.mark.parametrize(
    ("num_workers", "small", "expected"),
    [(None, True, 0), (None, False, 3), (0, False, 0), (2, True, 2), (2, False, 2)],
)
def test_small_sources_are_packed_without_processes_unless_told(
    sources, tmp_path, monkeypatch, source, num_workers, small, expected
):
    counts = []

    def note(count: int, *arguments: Any) -> AbstractContextManager[list[Worker]]:
        counts.append(count)
        return starting_workers(0, *arguments)

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    limits = sources["tar.gz"].stat().st_size
    pace = Pace() if small else Pace(alone_images=36, alone_bytes=limits)
    pack_slowly(sources[source], tmp_path / "a", pace, note, num_workers=num_workers)
    assert counts == [expected]


def test_large_members_of_an_archive_make_small_tasks(sources, npy_pack, tmp_path):
    workers = NotingWorkers()
    pack_slowly(sources["tar"], tmp_path / "a", Pace(task_bytes=2_000), workers.start)
    assert bytes_of(tmp_path / "a") == bytes_of(npy_pack)
    assert len(workers.tasks) > 2
    for task in workers.tasks[:-1]:
        assert task.contents is not None
        sizes = [len(content) for content in task.contents if isinstance(content, bytes)]
        assert sum(sizes[:-1]) < 2_000 <= sum(sizes)


class Counting:
    """A stream of 36 images that notes in ``ahead`` how many more it gave than were converted."""

    path = Path("counting")
    classes: tuple[str, ...] | None = None
    keeps_order = False
    read: Read | None = None
    fraction = 0.5
    remarks = Remarks()

    def __init__(self, converted: Sequence[object]) -> None:
        self._converted = converted
        self.ahead: list[int] = []

    def is_small(self, images: int, nbytes: int) -> bool:
        return True

    def paths(self) -> list[str]:
        return [path for path, _ in self.stream()]

    def stream(self) -> Iterator[tuple[str, Content]]:
        for number in range(36):
            self.ahead.append(number - len(self._converted))
            yield f"train/cat/{number:02}.png", tiny(number)


def test_a_stream_is_read_a_few_tasks_ahead_only(tmp_path):
    converted: list[Task] = []

    @contextmanager
    def start(_: int, *arguments: Any) -> Iterator[list[Worker]]:
        with starting_workers(0, *arguments) as [convert]:

            def convert_slowly(task: Task) -> Converted:
                time.sleep(0.005)
                converted.append(task)
                return convert(task)

            yield [convert_slowly]

    source = Counting(converted)
    one = pack_slowly(source, tmp_path / "a", Pace(task_images=1), start)
    assert len(one["train"]) == len(converted) == 36
    assert max(source.ahead) < 6


def test_the_same_bytes_at_another_time(tree, tmp_path):
    # HDF5's time stamps have seconds.
    for container in ("npy", "hdf5"):
        pack(tree, tmp_path / f"{container} 1", format=container)
    time.sleep(1.1)
    for container in ("npy", "hdf5"):
        pack(tree, tmp_path / f"{container} 2", format=container, num_workers=0)
        assert bytes_of(tmp_path / f"{container} 1") == bytes_of(tmp_path / f"{container} 2")


def test_no_path_of_the_machine_is_in_a_pack(any_pack):
    for content in bytes_of(any_pack).values():
        assert os.fsencode(any_pack.parent.parent.name) not in content


def test_fingerprints_do_not_depend_on_the_container(npy_pack, sharded_pack, hdf5_pack):
    packs = [cinicpack.open_pack(path) for path in (npy_pack, sharded_pack, hdf5_pack)]
    for one in packs:
        assert one.fingerprint == packs[0].fingerprint
        for split in one.splits:
            assert one[split].fingerprint == packs[0][split].fingerprint


@pytest.mark.parametrize("container", ["npy", "hdf5"])
@pytest.mark.parametrize("rows", [1, 4, 12, 10**9])
def test_shards_have_so_many_rows(tree, npy_pack, tmp_path, container, rows):
    one = pack(tree, tmp_path / "a", format=container, shard_rows=rows, splits=["test"])
    shards = one.manifest.splits["test"].shards
    assert sum(shards) == 12
    assert set(shards[:-1]) <= {rows}
    assert 0 < shards[-1] <= rows
    expected = cinicpack.open_pack(npy_pack)["test"]
    assert one["test"].fingerprint == expected.fingerprint
    np.testing.assert_array_equal(one["test"].images, expected.images)


def kinds_of_png() -> Iterator[tuple[str, bytes]]:
    for color_type, depths in BIT_DEPTHS.items():
        for depth in depths:
            for interlaced in (False, True):
                # Grey of 16 bits is clipped at 255, so that some of it should lie below.
                samples = random_samples(color_type, depth, 7, 5, seed=depth + color_type)
                samples[:3] %= 256
                palette = bytes(range(256)) * 3 if color_type == 3 else b""
                content = png(
                    samples,
                    color_type,
                    depth,
                    interlaced=interlaced,
                    palette=palette[: 3 * 2 ** min(depth, 8)],
                    filters=(0, 1, 2, 3, 4),
                )
                yield f"{color_type} {depth} {interlaced}.png", content
    clear = [chunk(b"tRNS", bytes([0, 128, 255]))]
    palette = bytes(range(12))
    yield "clear 1.png", png(random_samples(3, 2, 7, 5), 3, 2, palette=palette, before=clear)
    yield "clear 2.PNG", png(random_samples(0, 8, 7, 5), 0, before=[chunk(b"tRNS", b"\0\7")])


def test_rows_are_image_folders_index_for_index(tmp_path):
    datasets = import_torchvision().datasets
    kinds = dict(kinds_of_png())
    assert len(kinds) == 2 * 15 + 2
    names = [*kinds]
    for split in ("train", "extra"):
        for number, name in enumerate(names):
            # Classes and file names that sort by code point and not otherwise.
            folder = ("b", "B", "a b", "ä", "10", "9")[number % 6]
            put(tmp_path / "tree" / split / folder, {name: kinds[name]})
            put(tmp_path / "tree" / split / folder, {f"{number}é.png": kinds[name]})
    make_tar(tmp_path / "tree", tmp_path / "a.tar")
    for source in ("tree", "a.tar"):
        with pytest.warns(UserWarning, match=r"\d+ images have 16 bits per channel"):
            packed = pack_slowly(tmp_path / source, tmp_path / f"{source}.pack")
        for split in ("train", "extra"):
            with warnings.catch_warnings(action="ignore"):
                folder = datasets.ImageFolder(tmp_path / "tree" / split)
                expected = [(np.asarray(image), label) for image, label in folder]
            assert packed.classes == tuple(folder.classes)
            assert packed.class_to_idx == folder.class_to_idx
            assert packed[split].labels.tolist() == [label for _, label in expected]
            assert packed[split].names.tolist() == [
                os.fsencode(os.path.basename(path)) for path, _ in folder.samples
            ]
            np.testing.assert_array_equal(
                packed[split].images, np.stack([pixels for pixels, _ in expected])
            )
            assert packed[split].images.shape[1:] == (7, 5, 3)


def test_a_tree_of_classes_is_one_split(tree, tmp_path):
    one = pack(tree / "valid", tmp_path / "a")
    assert one.splits == ("train",)
    assert (
        one["train"].fingerprint
        == cinicpack.pack(tree, tmp_path / "b", splits=["valid"], progress=False)[
            "valid"
        ].fingerprint
    )


def test_some_splits_only(tree, npy_pack, tmp_path):
    whole = cinicpack.open_pack(npy_pack)
    workers = NotingWorkers()
    some = pack_slowly(tree, tmp_path / "a", start=workers.start, splits=["test", "train"])
    assert some.splits == ("train", "test")
    # Of a tree the others are not even read.
    paths = [path for task in workers.tasks for path in task.paths]
    assert {path.split("/")[0] for path in paths} == {"train", "test"}
    for split in some.splits:
        assert some[split].fingerprint == whole[split].fingerprint
    assert some.fingerprint != whole.fingerprint
    rest = pack(make_tar(tree, tmp_path / "a.tar"), tmp_path / "b", splits=["valid"])
    assert rest["valid"].fingerprint == whole["valid"].fingerprint
    assert rest.manifest.normalization.origin == "valid"


def test_one_split_may_be_named_as_it_is(tree, npy_pack, tmp_path):
    one = pack(tree, tmp_path / "a", splits="valid")
    assert one.splits == ("valid",)
    assert one["valid"].fingerprint == cinicpack.open_pack(npy_pack)["valid"].fingerprint


def test_more_than_256_classes(tmp_path):
    put(tmp_path / "tree", {f"{n:03}/a.png": tiny(n) for n in range(300)})
    for container in ("npy", "hdf5"):
        one = pack(tmp_path / "tree", tmp_path / container, format=container)
        assert one["train"].labels.dtype == np.uint16
        assert one["train"].labels.tolist() == list(range(300))
        assert len(one["train"].select(classes=["299", "255"])) == 2


def test_files_that_are_no_images_are_ignored_and_counted(tree, tmp_path, npy_pack):
    shutil.copytree(tree, tmp_path / "tree")
    put(tmp_path / "tree", {"README.md": b"text", "train/cat/a.txt": b"", "train/._a.png": b""})
    for source in ("tree", "a.tar"):
        make_tar(tmp_path / "tree", tmp_path / "a.tar")
        with pytest.warns(UserWarning, match=r": 3 files that are no images are ignored$"):
            pack(tmp_path / source, tmp_path / f"{source}.pack")
        assert bytes_of(tmp_path / f"{source}.pack") == bytes_of(npy_pack)


def test_a_pack_into_a_tree_of_classes(tmp_path):
    put(tmp_path / "tree", {"ant/1.png": tiny(77), "cat/1.png": tiny(77)})
    # Its lock is a file there, but the folder that it is made in is no class.
    with pytest.warns(UserWarning, match="1 file that is no image is ignored"):
        one = pack(tmp_path / "tree", tmp_path / "tree/a.pack")
    assert one.classes == ("ant", "cat")
    with pytest.raises(SourceError, match=r"no images in 'a\.pack'"):
        pack(tmp_path / "tree", tmp_path / "tree/b.pack")


def test_a_pack_into_its_own_source(tree, tmp_path, npy_pack):
    shutil.copytree(tree, tmp_path / "tree")
    with pytest.warns(UserWarning, match=r"1 file that is no image is ignored"):
        pack(tmp_path / "tree", tmp_path / "tree/a.pack")
    assert bytes_of(tmp_path / "tree/a.pack") == bytes_of(npy_pack)


@pytest.mark.parametrize("name", ["scratch-0", "reserved", "new", ".tmp"])
def test_a_pack_may_have_any_name(tree, npy_pack, tmp_path, name):
    pack(tree, tmp_path / name)
    assert bytes_of(tmp_path / name) == bytes_of(npy_pack)
    pack(tree, tmp_path / name, overwrite=True, num_workers=0, format="hdf5")
    assert os.listdir(tmp_path) == [name]


def test_no_two_runs_have_scratch_files_of_the_same_name(tree, tmp_path):
    """Else workers that outlive a writer that was killed would write to the files of the next."""
    folders = []

    def start(count, source, read, folder):
        folders.append(folder)
        return starting_workers(count, source, read, folder)

    for _ in range(2):
        pack_slowly(tree, tmp_path / "a.pack", start=start, num_workers=0)
        shutil.rmtree(tmp_path / "a.pack")
    first, second = folders
    assert first != second
    assert first.parent == second.parent == tmp_path / ".a.pack.tmp"


# Sources and options that are refused.


def test_a_source_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no\.tar"):
        pack(tmp_path / "no.tar", tmp_path / "a")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kind", ["tree", "tar"])
@pytest.mark.parametrize(
    ("paths", "error", "message"),
    [
        ([], SourceError, r"found no image at all"),
        (["a.png"], SourceError, r"expected all images at SPLIT/CLASS/NAME\.png"),
        (["a/b.png", "a/b/c.png"], SourceError, r"expected all images at"),
        (["train/a/1.png", "test/b/1.png"], SourceError, r"no images in 'test/a', 'train/b'\. Add"),
        (["a+b/a/1.png"], SourceError, r"without '\+', found 'a\+b'; rename it, or name"),
        ([".git/a/1.png", "train/a/1.png"], SourceError, r"visible folders as splits.*'\.git'"),
        (["a/1.png", "b/1.png", ".x/1.png"], SourceError, r"visible folders as classes, .*'\.x'"),
        (
            ["train/a/1.png", "train/.x/1.png", "test/a/1.png"],
            SourceError,
            r"expected visible folders, found images in 'train/\.x'; remove or",
        ),
        ([".x/1.png", "train/a/1.png"], SourceError, r"found images in '\.x'; remove or rename"),
        (["a/1.png", "a/.x/1.png"], SourceError, r"found images in 'a/\.x'; remove or rename"),
        ([".x/a/1.png", "train/b/1.png"], SourceError, r"found images in '\.x/a'; remove or ren"),
        ([".x/train/a/1.png", ".x/test/b/1.png"], SourceError, r"no images in '\.x/test/a', '\.x"),
        (
            ["train/caf\xe9/1.png", "test/cafe\u0301/1.png"],
            SourceError,
            r"'train/cafe\\u0301', 'test/caf\xe9'; names of the same letters in two forms of "
            r"Unicode, 'cafe\\u0301', 'caf\xe9'\. Add some, name the splits .* with --splits",
        ),
        (["\udcff/a/1.png"], SourceError, r"names in UTF-8.*'\\udcff'"),
    ],
)
def test_another_structure_is_refused_naming_the_source(tmp_path, kind, paths, error, message):
    source = tmp_path / "source"
    source.mkdir()
    put(source, dict.fromkeys(paths, tiny(77)))
    if kind == "tar":
        source = make_tar(source, tmp_path / "a.tar")
    with pytest.raises(error, match=message) as caught:
        pack(source, tmp_path / "a")
    assert str(caught.value).startswith(f"{source}: ")
    assert not (tmp_path / "a").exists()


def test_splits_that_are_not_there(tree, tmp_path):
    for splits in (["train", "all"], [], ["Test"]):
        with pytest.raises(SelectionError, match=r"expected splits out of train, valid, test") as e:
            pack(tree, tmp_path / "a", splits=splits)
        assert str(tree) in str(e.value)
    assert os.listdir(tmp_path) == []


def test_a_hidden_folder_is_no_class(tmp_path):
    put(tmp_path / "tree", {"cat/a.png": tiny(1), ".ipynb_checkpoints/a.png": tiny(1)})
    with pytest.raises(SourceError, match=r"visible folders as classes, found '.ipynb_checkp"):
        pack(tmp_path / "tree", tmp_path / "a")
    assert os.listdir(tmp_path) == ["tree"]


def test_an_archive_with_a_class_that_cannot_be_a_folder(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x" * 256 + "/a.png", tiny(1))
    with pytest.raises(
        SourceError, match=r"a.zip: expected names of files and folders of at most 255 byt"
    ):
        pack(tmp_path / "a.zip", tmp_path / "a")
    assert os.listdir(tmp_path) == ["a.zip"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "zarr"}, r"expected format 'npy' or 'hdf5', found 'zarr'"),
        ({"shard_rows": 0}, r"expected shard_rows of at least 1, found 0"),
        ({"num_workers": -1}, r"expected num_workers of at least 0, found -1"),
        ({"expect": "cifar10"}, r"expected expect='cinic10' or None, found 'cifar10'"),
    ],
)
def test_options_out_of_their_domain(tree, tmp_path, options, message):
    with pytest.raises(ArgumentError, match=message):
        pack(tree, tmp_path / "a", **options)
    assert os.listdir(tmp_path) == []


def test_a_pack_that_was_made_and_cannot_be_opened_is_said_to_be_there(tree, tmp_path, monkeypatch):
    def fail(path: Path) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))

    monkeypatch.setattr("cinicpack.convert.packer.open_pack", fail)
    with pytest.raises(OSError, match="Too many open files") as caught:
        pack(tree, tmp_path / "a")
    assert caught.value.__notes__ == [f"{tmp_path / 'a'} was made; only to open it failed"]
    assert cinicpack.open_pack(tmp_path / "a").splits == ("train", "valid", "test")


@pytest.mark.parametrize("name", ["a.h5", "a.hdf5"])
def test_a_directory_is_not_called_hdf5(tree, tmp_path, name):
    with pytest.raises(ArgumentError, match=r"the name says HDF5; pass --format hdf5"):
        pack(tree, tmp_path / name)


@pytest.mark.parametrize("archive", [False, True])
def test_more_shards_than_can_be_mapped_are_refused(tree, tmp_path, archive, monkeypatch):
    monkeypatch.setattr("cinicpack.store.npy.MOST_FILES", 32)
    source = tree
    if archive:
        source = tmp_path / "a.tar"
        with tarfile.open(source, "w") as tar:
            tar.add(tree, "tree")
    with pytest.raises(
        ArgumentError, match=r"at most 32 files, .* lets a process map, found \d+; choose"
    ):
        pack(source, tmp_path / "a", shard_rows=1)
    assert not (tmp_path / "a").exists()


class Grey:
    """A dataset of grey images, as large as it is told."""

    classes = ("cat", "dog")

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, row: int) -> tuple[Any, int]:
        return np.full((2, 2, 3), row % 256, np.uint8), row % 2


@pytest.mark.parametrize("as_a_stream", [False, True])
def test_memory_grows_by_tens_of_bytes_a_row(tmp_path, as_a_stream):
    def measure(rows: int) -> int:
        images, labels = np.zeros((rows, 2, 2, 3), np.uint8), np.arange(rows) % 2
        source: Source = Arrays({"train": (images, labels)}, Grey.classes)
        if as_a_stream:
            source = Datasets({"train": Grey(rows)})
        (tmp_path / str(rows)).mkdir()
        tracemalloc.start()
        try:
            build(source, tmp_path / str(rows) / "new", named("npy"), Wanted(num_workers=0))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    measure(100)
    few, many = measure(2_000), measure(12_000)
    assert (many - few) / 10_000 < 150
