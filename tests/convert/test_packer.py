import contextlib
import io
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import pytest

import cinicpack
from cinicpack import cinic10
from cinicpack.cinic10 import CLASSES
from cinicpack.convert import packer
from cinicpack.convert.conversion import Converted, Task
from cinicpack.convert.decode import decode_images
from cinicpack.convert.sources import Archive
from cinicpack.convert.worker import Worker, starting_workers
from cinicpack.errors import (
    ArgumentError,
    BadImagesError,
    DestinationError,
    PackError,
    SelectionError,
    SourceError,
)
from cinicpack.store.publish import publishing
from cinicpack.store.reader import locate_pack
from cinicpack.store.summary import describe_pack
from cinicpack.store.verify import verify_pack
from cinicpack.study.unpack import unpack
from cinicpack.synthetic import write_tree
from tests.png_images import BIT_DEPTHS, SIGNATURE, chunk, header, png, random_samples
from tests.processes import list_descendants, wait_until_gone
from tests.torchvision_here import import_torchvision


def pack(source: Path, destination: Path, **options: Any) -> cinicpack.Pack:
    return cinicpack.pack(source, destination, progress=False, **options)


def members(tree: Path) -> list[tuple[str, bytes]]:
    """List a tree's files in an order that is not theirs."""
    files = [
        (file.relative_to(tree).as_posix(), file.read_bytes())
        for file in sorted(tree.rglob("*"))
        if file.is_file()
    ]
    random.Random(0).shuffle(files)
    return files


def make_tar(tree: Path, path: Path, prefix: str = "", mode: Literal["w", "w:gz"] = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in members(tree):
            info = tarfile.TarInfo(prefix + name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def make_zip(tree: Path, path: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members(tree):
            archive.writestr(prefix + name, content)
    return path


def bytes_of(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in files}


def put(tree: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(content)
    return tree


def tiny(seed: int, height: int = 2, width: int = 2) -> bytes:
    return png(random_samples(2, 8, height, width, seed))


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


@pytest.fixture
def small_tasks(monkeypatch) -> None:
    monkeypatch.setattr(packer, "_TASK_IMAGES", 5)


@pytest.fixture
def tasks(monkeypatch) -> list[Task]:
    """The tasks that have been done, on one worker."""
    done: list[Task] = []

    @contextlib.contextmanager
    def noting(_: int, *arguments: Any) -> Iterator[list[Worker]]:
        with starting_workers(0, *arguments) as [convert]:

            def note(task: Task) -> Converted:
                done.append(task)
                return convert(task)

            yield [note]

    monkeypatch.setattr(packer, "starting_workers", noting)
    return done


def test_the_same_bytes_from_any_source(sources, npy_pack, hdf5_pack, tmp_path, small_tasks):
    for number, (name, source) in enumerate(sources.items()):
        npy, hdf5 = tmp_path / f"{number}.pack", tmp_path / f"{number}.h5"
        pack(source, npy)
        assert bytes_of(npy) == bytes_of(npy_pack), name
        pack(source, hdf5, format="hdf5")
        assert bytes_of(hdf5) == bytes_of(hdf5_pack), name


@pytest.mark.parametrize(("source", "num_workers"), [("tree", 2), ("tar.gz", 1)])
def test_the_same_bytes_with_any_number_of_workers(
    sources, npy_pack, tmp_path, small_tasks, source, num_workers
):
    pack(sources[source], tmp_path / "a", num_workers=num_workers)
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

    def note(count: int, *arguments: Any) -> Any:
        counts.append(count)
        return starting_workers(0, *arguments)

    monkeypatch.setattr(packer, "starting_workers", note)
    monkeypatch.setattr(packer, "usable_cores", lambda: 3)
    if not small:
        monkeypatch.setattr(packer, "_ALONE_IMAGES", 36)
        monkeypatch.setattr(packer, "_ALONE_BYTES", sources["tar.gz"].stat().st_size)
    pack(sources[source], tmp_path / "a", num_workers=num_workers)
    assert counts == [expected]


def test_large_members_of_an_archive_make_small_tasks(
    sources, npy_pack, tmp_path, monkeypatch, tasks
):
    monkeypatch.setattr(packer, "_TASK_BYTES", 2_000)
    pack(sources["tar"], tmp_path / "a")
    assert bytes_of(tmp_path / "a") == bytes_of(npy_pack)
    for task in tasks[:-1]:
        assert task.contents is not None
        sizes = [len(content) for content in task.contents if isinstance(content, bytes)]
        assert sum(sizes[:-1]) < 2_000 <= sum(sizes)


def test_an_archive_is_read_a_few_tasks_ahead_only(sources, tmp_path, monkeypatch, tasks):
    read, ahead = Archive.__iter__, list[int]()

    def read_and_count(archive: Archive) -> Iterator[tuple[str, bytes | OSError]]:
        for number, member in enumerate(read(archive)):
            ahead.append(number - len(tasks))
            yield member

    monkeypatch.setattr(packer, "_TASK_IMAGES", 1)
    monkeypatch.setattr(Archive, "__iter__", read_and_count)
    monkeypatch.setattr("cinicpack.convert.conversion.decode_images", _decode_slowly)
    pack(sources["tar"], tmp_path / "a")
    assert len(tasks) == 36
    assert max(ahead) < 6


def _decode_slowly(files: Iterable[bytes]) -> Any:
    time.sleep(0.005)
    return decode_images(files)


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


def test_rows_are_image_folders_index_for_index(tmp_path, small_tasks):
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
            packed = pack(tmp_path / source, tmp_path / f"{source}.pack")
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


def test_some_splits_only(tree, npy_pack, tmp_path, tasks):
    whole = cinicpack.open_pack(npy_pack)
    some = pack(tree, tmp_path / "a", splits=["test", "train"])
    assert some.splits == ("train", "test")
    # Of a tree the others are not even read.
    assert {path.split("/")[0] for task in tasks for path in task.paths} == {"train", "test"}
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


# Images that cannot be packed.

GOOD = {f"{s}/{c}/{n}.png": tiny(n) for s in ("test", "train") for c in "ab" for n in range(3)}
WHOLE = tiny(77)
BOMB = SIGNATURE + chunk(b"IHDR", header(60_000, 60_000)) + chunk(b"IDAT", b"") + chunk(b"IEND")
BAD = {
    "test/a/2x3.png": (tiny(1, 2, 3), "has 2x3 pixels (height x width), most images 2x2"),
    "test/a/bomb.png": (BOMB, "too large: it is 60000x60000 pixels"),
    "test/b/9x9.png": (tiny(1, 9, 9), "has 9x9 pixels (height x width), most images 2x2"),
    "train/a/cut.png": (WHOLE[:-20], "truncated"),
    "train/a/gif.png": (b"GIF89a", "not a PNG file: it starts with b'GIF89a'"),
    "train/b/crc.png": (WHOLE[:-25] + bytes([WHOLE[-25] ^ 1]) + WHOLE[-24:], "CRC mismatch"),
    "train/b/empty.png": (b"", "truncated: it ends at byte 0"),
}


@pytest.fixture
def bad_tree(tmp_path) -> Path:
    return put(tmp_path / "tree", {**GOOD, **{path: content for path, (content, _) in BAD.items()}})


def check_listed(found: list[tuple[str, str]]) -> None:
    assert [path for path, _ in found] == sorted(BAD)
    for path, reason in found:
        assert BAD[path][1] in reason


@pytest.mark.parametrize("num_workers", [0, 2])
def test_all_bad_images_are_listed_and_nothing_is_published(
    bad_tree, tmp_path, small_tasks, num_workers
):
    with pytest.raises(BadImagesError) as caught:
        pack(bad_tree, tmp_path / "a.pack", num_workers=num_workers)
    check_listed(caught.value.images)
    first, *lines = str(caught.value).splitlines()
    assert first == (
        f"{bad_tree}: 7 of 19 images cannot be packed; repair them, or leave them out with "
        "--skip-bad (skip_bad=True):"
    )
    assert lines == [f"  {path}: {reason}" for path, reason in caught.value.images]
    assert os.listdir(tmp_path) == ["tree"]


def test_bad_images_are_left_out_on_request(bad_tree, tmp_path, small_tasks):
    make_tar(bad_tree, tmp_path / "a.tar.gz", "./top/", "w:gz")
    (tmp_path / "nested").mkdir()
    shutil.copytree(bad_tree, tmp_path / "nested/top")
    good = pack(put(tmp_path / "good", GOOD), tmp_path / "good.pack")
    packs = []
    for number, source in enumerate(["tree", "a.tar.gz", "nested"]):
        with pytest.warns(UserWarning, match=r"7 images that cannot be packed are left out"):
            packs.append(pack(tmp_path / source, tmp_path / f"{number}.pack", skip_bad=True))
    for one in packs:
        check_listed([*one.manifest.skipped])
        assert one.fingerprint == good.fingerprint
        assert bytes_of(one.path) == bytes_of(packs[0].path)
    assert good.manifest.skipped == ()


def test_what_is_no_file_is_bad_too(tmp_path):
    put(tmp_path / "tree", GOOD)
    (tmp_path / "tree/test/a/self.png").symlink_to("self.png")
    os.mkfifo(tmp_path / "tree/test/b/pipe.png")
    with pytest.raises(BadImagesError) as caught:
        pack(tmp_path / "tree", tmp_path / "a")
    circle, pipe = caught.value.images
    assert circle == ("test/a/self.png", "Too many levels of symbolic links")
    assert pipe == ("test/b/pipe.png", "expected a regular file, found a named pipe")


# Opening or reading one file fails once, in whatever process; Python looks for this at its start.
FAILING_ONCE = """
import errno, os
real = os.{call}
def fail(file, *arguments, **options):
    path = os.readlink(f"/proc/self/fd/{{file}}") if isinstance(file, int) else os.fspath(file)
    if path.endswith("b/1.png"):
        os.{call} = real
        raise OSError(errno.{error}, "a reason")
    return real(file, *arguments, **options)
os.{call} = fail
"""


@pytest.mark.parametrize(
    ("call", "error", "num_workers"),
    [("open", "EMFILE", 0), ("open", "ENOMEM", 1), ("pread", "EIO", 1)],
)
def test_an_image_that_cannot_be_read_for_a_moment_is_not_lost(tmp_path, call, error, num_workers):
    put(tmp_path / "tree", {f"{name}/{n}.png": tiny(n) for name in "ab" for n in range(4)})
    program = FAILING_ONCE.format(call=call, error=error)
    put(tmp_path, {"path/sitecustomize.py": program.encode()})
    command = [sys.executable, "-m", "cinicpack", "pack", "tree", "a.pack", "--skip-bad"]
    result = subprocess.run(
        [*command, "--workers", str(num_workers)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "path"), *sys.path])},
        capture_output=True,
        text=True,
    )
    assert "tree/b/1.png: could not be read (a reason)" in result.stderr
    assert result.returncode == 1
    assert sorted(os.listdir(tmp_path)) == ["path", "tree"]


def test_bad_images_of_other_splits_do_not_matter(bad_tree, tmp_path):
    put(bad_tree, {f"fine/{c}/1.png": tiny(1) for c in "ab"})
    for source in (bad_tree, make_tar(bad_tree, tmp_path / "a.tar")):
        fine = pack(source, tmp_path / f"{source.name}.pack", splits=["fine"])
        assert len(fine["fine"]) == 2
        with pytest.raises(BadImagesError, match=r"4 of 12 images cannot be packed"):
            pack(source, tmp_path / "a", splits=["train", "fine"])


def test_images_of_16_bits_are_told_if_they_are_kept(tmp_path, small_tasks):
    deep = png(random_samples(2, 16, 2, 2), 2, 16)
    put(tmp_path / "tree", {f"{s}/a/{n}.png": WHOLE for s in ("test", "train") for n in range(9)})
    put(tmp_path / "tree", {f"test/a/{n}.png": deep for n in (3, 7)})
    archive = make_tar(tmp_path / "tree", tmp_path / "a.tar")
    pack(archive, tmp_path / "train", splits=["train"])
    for source in (archive, tmp_path / "tree"):
        with pytest.warns(UserWarning, match=r"2 images have 16 bits .* first is test/a/[37]\.png"):
            pack(source, tmp_path / f"{source.name}.pack")


def test_the_first_of_many_bad_images_are_shown_and_all_are_told(tmp_path):
    put(tmp_path / "tree", {f"a/{n:02}.png": b"" for n in range(25)} | {"a/x.png": WHOLE})
    with pytest.raises(BadImagesError) as caught:
        pack(tmp_path / "tree", tmp_path / "b")
    lines = str(caught.value).splitlines()
    assert len(lines) == 22
    assert lines[-1] == "  and 5 more"
    assert len(caught.value.images) == 25


def test_where_nothing_is_left_nothing_is_packed(tmp_path):
    put(tmp_path / "tree", {"train/a/1.png": WHOLE, "test/a/1.png": b""})
    with pytest.raises(BadImagesError, match=r"no image of split 'test' can be packed"):
        pack(tmp_path / "tree", tmp_path / "b", skip_bad=True)
    (tmp_path / "tree/train/a/1.png").write_bytes(b"")
    with pytest.raises(BadImagesError, match=r"2 of 2 images cannot be packed; repair them:"):
        pack(tmp_path / "tree", tmp_path / "b", skip_bad=True)
    assert os.listdir(tmp_path) == ["tree"]


def test_workers_that_had_bad_images_only(tmp_path, monkeypatch):
    monkeypatch.setattr(packer, "_TASK_IMAGES", 1)
    # Nothing of the second can be kept, and of the third less than an image.
    put(tmp_path / "tree", {"a/1.png": WHOLE, "a/2.png": b"", "a/3.png": tiny(1, 3, 1)})
    with pytest.warns(UserWarning, match=r"2 images that cannot be packed are left out"):
        one = pack(tmp_path / "tree", tmp_path / "b", skip_bad=True, num_workers=3)
    assert one["train"].names.tolist() == [b"1.png"]


# What is, and is not, CINIC-10.


@pytest.fixture
def cinic(tmp_path, monkeypatch) -> Path:
    """The whole of CINIC-10, had it one image per class and split."""
    write_tree(tmp_path / "cinic", 1)
    monkeypatch.setattr(cinic10, "PER_CLASS", 1)
    return Path(tmp_path / "cinic")


def test_cinic10_is_recognised(cinic, tmp_path):
    for source in (cinic, make_tar(cinic, tmp_path / "a.tar")):
        one = pack(source, tmp_path / f"{source.name}.pack", expect="cinic10")
        assert (one.mean, one.std) == (cinic10.MEAN, cinic10.STD)
        assert one.manifest.normalization.origin == "published"
        assert np.unique(one["train"].sources["origin"]).tolist() == [cinic10.Origin.IMAGENET]
    pack(cinic, tmp_path / "some", splits=["valid"], expect="cinic10")


def _add(tree: Path, name: str, content: bytes | None = None) -> None:
    put(tree, {name: content or next(tree.rglob("*.png")).read_bytes()})


def _add_to_all(tree: Path) -> None:
    for split, classes in {"train": CLASSES, "valid": ["cat"], "test": CLASSES}.items():
        for name in classes:
            _add(tree, f"{split}/{name}/n02123394_999999.png")


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (
            lambda tree: _add(tree, "test/cat/n02123394_999999.png"),
            "1 to 2 images per class in test (CINIC-10 has 1)",
        ),
        (
            _add_to_all,
            "2 images per class in train, test (CINIC-10 has 1); 1 to 2 images per class in valid "
            "(CINIC-10 has 1)",
        ),
        (
            lambda tree: next((tree / "train/cat").iterdir()).rename(tree / "train/cat/a.png"),
            "1 images in train that are not named as in CINIC-10",
        ),
        (lambda tree: shutil.rmtree(tree / "valid"), "no split valid"),
        (lambda tree: shutil.copytree(tree / "test", tree / "more"), "a split 'more'"),
    ],
)
def test_what_differs_from_cinic10_is_told(cinic, tmp_path, change, found):
    change(cinic)
    with pytest.raises(SourceError) as caught:
        pack(cinic, tmp_path / "a", expect="cinic10")
    assert str(caught.value) == f"{cinic}: expected CINIC-10, found {found}"
    assert os.listdir(tmp_path) == ["cinic"]
    with pytest.warns(UserWarning, match=r"like CINIC-10") as warned:
        pack(cinic, tmp_path / "a")
    own = "; so mean and std are its own, not the published ones" if "not named" in found else ""
    assert [str(warning.message) for warning in warned] == [
        f"{cinic}: like CINIC-10, but with {found}{own}"
    ]
    assert warned[0].filename == __file__


def test_other_classes_and_sizes_are_not_cinic10(tree, tmp_path, monkeypatch):
    with pytest.raises(SourceError, match=r"expected CINIC-10, found classes airplane, cat$"):
        pack(tree, tmp_path / "a", expect="cinic10")
    write_tree(tmp_path / "large", 1, size=33)
    monkeypatch.setattr(cinic10, "PER_CLASS", 1)
    with pytest.raises(SourceError, match=r"expected CINIC-10, found images of 33x33 pixels$"):
        pack(tmp_path / "large", tmp_path / "a", expect="cinic10")


@pytest.mark.parametrize("name", ["a.png", "cifar10-train-{}.png"])
def test_of_other_trees_nothing_is_expected(tmp_path, monkeypatch, name):
    # CINIC-10's classes, but with names that say that the images are others, or CIFAR-10's.
    files = [f"{class_name}/{name}".format(n) for n, class_name in enumerate(cinic10.CLASSES)]
    put(tmp_path / "tree", dict.fromkeys(files, WHOLE))
    one = pack(tmp_path / "tree", tmp_path / "a")
    assert one.classes == cinic10.CLASSES
    assert one.manifest.normalization.origin == "train"
    monkeypatch.setattr(cinic10, "PER_CLASS", 1)
    with pytest.raises(SourceError, match=r"found .*no image that is named as one of ImageNet"):
        pack(tmp_path / "tree", tmp_path / "b", expect="cinic10")


def test_files_that_are_no_images_are_ignored_and_counted(tree, tmp_path, npy_pack):
    shutil.copytree(tree, tmp_path / "tree")
    put(tmp_path / "tree", {"README.md": b"text", "train/cat/a.txt": b"", "train/._a.png": b""})
    for source in ("tree", "a.tar"):
        make_tar(tmp_path / "tree", tmp_path / "a.tar")
        with pytest.warns(UserWarning, match=r": 3 files that are no images are ignored$"):
            pack(tmp_path / source, tmp_path / f"{source}.pack")
        assert bytes_of(tmp_path / f"{source}.pack") == bytes_of(npy_pack)


# Sources, destinations and options that are refused.


# What is missing.

ANT_CAT = {
    f"{s}/{c}/{n}.png": tiny(7) for s in ("train", "test") for c in ("ant", "cat") for n in "01"
}


def make_source(kind: str, files: dict[str, bytes], empty: list[str], folder: Path) -> Path:
    """Write a tree with empty folders, as it is or as an archive."""
    tree = put(folder / "tree", files)
    for name in empty:
        (tree / name).mkdir(parents=True)
    path = folder / f"source.{kind}"
    if kind == "tree":
        return tree
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(tree.rglob("*")):
                archive.write(file, file.relative_to(tree))
        return path
    with tarfile.open(path, "w:gz" if kind == "tar.gz" else "w") as tar:
        tar.add(tree, ".")
    return path


@pytest.mark.parametrize("kind", ["tree", "tar", "tar.gz", "zip"])
@pytest.mark.parametrize(
    ("files", "empty", "told"),
    [
        ({}, ["train/bee", "test/bee"], "no images in 'train/bee', 'test/bee'"),
        ({}, ["train/bee/deep"], "no images in 'train/bee', 'test/bee'"),
        ({"train/bee/1.png": tiny(9)}, [], "no images in 'test/bee'"),
        ({"train/bee/README": b""}, [], "no images in 'train/bee', 'test/bee'"),
        ({"train/bee/1.JPG": b"", "test/bee/b/1.webp": b""}, [], "PNG: 2, the first 'test/bee/b/1"),
    ],
)
def test_what_is_missing_is_refused_or_keeps_its_label(tmp_path, kind, files, empty, told):
    source = make_source(kind, {**ANT_CAT, **files}, empty, tmp_path)
    with pytest.raises(SourceError, match=f"^{source}: .*{told}.*--allow-missing") as caught:
        pack(source, tmp_path / "a.pack")
    assert "allow_missing=True" in str(caught.value)
    assert not (tmp_path / "a.pack").exists()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        one = pack(source, tmp_path / "a.pack", allow_missing=True)
    others = sum(name.endswith(("JPG", "webp")) for name in files)
    told_now = [str(warning.message).partition(": ")[2] for warning in warned]
    assert (f"{others} images that are not PNG are left out" in told_now) == bool(others)
    assert one.classes == ("ant", "bee", "cat")
    assert one["test"].labels.tolist() == [0, 0, 2, 2]
    assert not verify_pack(one.path).problems


@pytest.mark.parametrize("container", ["npy", "hdf5"])
def test_a_pack_with_empty_classes_is_as_any_other(tmp_path, container):
    tree = make_source("tree", ANT_CAT, ["train/bee", "test/bee", "test/yak"], tmp_path)
    one = pack(tree, tmp_path / "one", format=container, allow_missing=True)
    assert cinicpack.open_pack(tmp_path / "one").classes == ("ant", "bee", "cat", "yak")
    assert not verify_pack(tmp_path / "one").problems
    shown = describe_pack(one)["splits"]["test"]["classes"]
    assert shown == {"ant": 2, "bee": 0, "cat": 2, "yak": 0}
    loader = cinicpack.Loader(one, "train", shuffle=False, output="numpy", num_workers=0)
    assert [labels.tolist() for _, labels in loader] == [[0, 0, 2, 2]]
    loader.close()
    unpack(one, tmp_path / "made", progress=False)
    assert sorted(os.listdir(tmp_path / "made" / "train")) == ["ant", "bee", "cat", "yak"]
    again = pack(tmp_path / "made", tmp_path / "again", format=container, allow_missing=True)
    assert bytes_of(again.path) == bytes_of(one.path)


@pytest.mark.parametrize("kind", ["tree", "tar"])
def test_some_of_cinic10s_classes_are_refused_or_have_its_labels(tmp_path, kind):
    write_tree(tmp_path / "tree", 1, classes=["dog", "cat"], size=2)
    source = make_source(kind, {}, [], tmp_path)
    with pytest.raises(SourceError, match=r"not its classes airplane, .*, truck\. Add"):
        pack(source, tmp_path / "a")
    with pytest.warns(UserWarning, match=r"like CINIC-10, but with .*0 to 1 images per class"):
        one = pack(source, tmp_path / "a", allow_missing=True)
    assert one.classes == CLASSES
    assert one["valid"].labels.tolist() == [3, 5]
    with pytest.raises(SourceError, match="expected CINIC-10, found"):
        pack(source, tmp_path / "b", allow_missing=True, expect="cinic10")


def test_a_class_of_which_all_images_are_bad_is_not_lost(tmp_path):
    put(tmp_path / "tree", {**ANT_CAT, "test/cat/0.png": b"", "test/cat/1.png": b""})
    with pytest.raises(BadImagesError, match="no image of class 'cat' in split 'test' can be"):
        pack(tmp_path / "tree", tmp_path / "a", skip_bad=True)
    with pytest.warns(UserWarning, match="2 images that cannot be packed are left out"):
        one = pack(tmp_path / "tree", tmp_path / "a", skip_bad=True, allow_missing=True)
    assert one["train"].labels.tolist() == [0, 0, 1, 1]
    assert one["test"].labels.tolist() == [0, 0]


def test_a_pack_into_a_tree_of_classes(tmp_path):
    put(tmp_path / "tree", {"ant/1.png": WHOLE, "cat/1.png": WHOLE})
    # Its lock is a file there, but the folder that it is made in is no class.
    with pytest.warns(UserWarning, match="1 files that are no images are ignored"):
        one = pack(tmp_path / "tree", tmp_path / "tree/a.pack")
    assert one.classes == ("ant", "cat")
    with pytest.raises(SourceError, match=r"no images in 'a\.pack'"):
        pack(tmp_path / "tree", tmp_path / "tree/b.pack")


def test_a_source_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no\.tar"):
        pack(tmp_path / "no.tar", tmp_path / "a")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kind", ["tree", "tar"])
@pytest.mark.parametrize(
    ("paths", "error", "message"),
    [
        ([], SourceError, r"found no PNG file at all"),
        (["a.png"], SourceError, r"expected all PNG files at SPLIT/CLASS/NAME\.png"),
        (["a/b.png", "a/b/c.png"], SourceError, r"expected all PNG files at"),
        (["train/a/1.png", "test/b/1.png"], SourceError, r"no images in 'test/a', 'train/b'\. Add"),
        (["a+b/a/1.png"], SourceError, r"without '\+', found 'a\+b'; rename it or name"),
        ([".git/a/1.png", "train/a/1.png"], SourceError, r"visible folders as splits.*'\.git'"),
        (["\udcff/a/1.png"], SourceError, r"names in UTF-8.*'\\udcff'"),
    ],
)
def test_another_structure_is_refused_naming_the_source(tmp_path, kind, paths, error, message):
    source = tmp_path / "source"
    source.mkdir()
    put(source, dict.fromkeys(paths, WHOLE))
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


def test_a_damaged_archive_publishes_nothing(tree, tmp_path):
    whole = make_tar(tree, tmp_path / "a.tar.gz", "", "w:gz").read_bytes()
    (tmp_path / "a.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SourceError, match=r"a\.tar\.gz: .*damaged or cut off"):
        pack(tmp_path / "a.tar.gz", tmp_path / "a", num_workers=1)
    assert os.listdir(tmp_path) == ["a.tar.gz"]


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


@pytest.mark.parametrize("name", ["a.h5", "a.hdf5"])
def test_a_directory_is_not_called_hdf5(tree, tmp_path, name):
    with pytest.raises(ArgumentError, match=r"the name says HDF5; pass --format hdf5"):
        pack(tree, tmp_path / name)


def test_an_existing_destination(tree, npy_pack, tmp_path):
    pack(tree, tmp_path / "a", splits=["train"])
    before = bytes_of(tmp_path / "a")
    with pytest.raises(DestinationError, match=r"already exists; choose another name, or pass"):
        pack(tree, tmp_path / "a")
    assert bytes_of(tmp_path / "a") == before
    for container in ("npy", "hdf5", "hdf5", "npy"):
        one = pack(tree, tmp_path / "a", overwrite=True, format=container)
        assert one.format == container
        assert os.listdir(tmp_path) == ["a"]
    assert bytes_of(tmp_path / "a") == bytes_of(npy_pack)


@pytest.mark.parametrize("container", ["npy", "hdf5"])
def test_a_damaged_pack_can_be_overwritten(tree, tmp_path, container):
    pack(tree, tmp_path / "a", format=container)
    before = bytes_of(tmp_path)
    if container == "npy":
        file = tmp_path / "a" / "pack.json"
        file.write_bytes(file.read_bytes().replace(b'"airplane"', b'"airplana"'))
        with pytest.raises(PackError):
            cinicpack.open_pack(tmp_path / "a")
    else:
        _, _, [region, *_] = locate_pack(tmp_path / "a")
        content = bytearray(region.file.read_bytes())
        content[region.offset] ^= 1
        region.file.write_bytes(content)
        assert verify_pack(tmp_path / "a").problems
    with pytest.raises(DestinationError, match=r"already exists; choose another name"):
        pack(tree, tmp_path / "a", format=container)
    pack(tree, tmp_path / "a", overwrite=True, format=container)
    assert bytes_of(tmp_path) == before


@pytest.mark.parametrize("container", ["npy", "hdf5"])
@pytest.mark.filterwarnings("ignore:.*like CINIC-10:UserWarning")
def test_what_is_no_pack_or_not_only_one_is_never_overwritten(
    tree, npy_pack, hdf5_pack, tmp_path, container
):
    put(tmp_path, {"thesis/chapter.tex": b"years", "notes.txt": b"of work"})
    put(tmp_path / "resources", {"pack.json": b'{"name": "mine"}', "train/cat.txt": b"tabby"})
    put(tmp_path / "tool", {"pack.json": b"{}", "runs/labels.npy": b"results"})
    put(tmp_path / "bare", {"pack.json": b"{}"})
    put(tmp_path / "runs", {"pack.json": b"{", "runs/labels.npy": b"results"})
    (tmp_path / "empty").mkdir()
    with h5py.File(tmp_path / "results.h5", "w") as h5:
        h5["data"] = 1
    with h5py.File(tmp_path / "mine.h5", "w") as h5:
        h5["pack.json"], h5["data"] = np.frombuffer(b"{}", np.uint8), np.arange(9)
    shutil.copy(hdf5_pack, tmp_path / "more.h5")
    with h5py.File(tmp_path / "more.h5", "r+") as h5:
        h5["predictions"] = np.arange(9)
    shutil.copy(hdf5_pack, tmp_path / "inner.h5")
    with h5py.File(tmp_path / "inner.h5", "r+") as h5:
        h5["train/predictions"] = np.arange(9)
    for name, extra in {
        "beside": "notes.txt",
        "below": "train/a.npy",
        "folder": "runs/labels.npy",
    }.items():
        shutil.copytree(npy_pack, tmp_path / name)
        put(tmp_path / name, {extra: b"of work"})
    shutil.copytree(npy_pack, tmp_path / "kept")
    (tmp_path / "kept/checkpoints").mkdir()
    (tmp_path / "link.pack").symlink_to("thesis")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    found = {
        "thesis": "no pack.json in it",
        "link.pack": "no pack.json in it",
        "empty": "no pack.json in it",
        "resources": "a pack.json that is not a pack's",
        "tool": "a pack.json that is not a pack's",
        "bare": "a pack.json that is not a pack's",
        "runs": "a pack.json that is not a pack's",
        "beside": "notes.txt",
        "below": "train/a.npy",
        "folder": "runs/",
        "kept": "checkpoints/",
        "notes.txt": "no HDF5 that can be read as a pack",
        "results.h5": "HDF5 that is not as a pack was written (something was added, or ",
        "loop": "no HDF5 that can be read as a pack",
        "pipe": "no HDF5 that can be read as a pack",
        **dict.fromkeys(("mine.h5", "more.h5", "inner.h5"), "HDF5 that is not as a pack was"),
    }
    assert found.keys() == set(os.listdir(tmp_path))
    before = {name: bytes_of(tmp_path / name) for name in found if name not in ("loop", "pipe")}
    for name, other in found.items():
        if container == "npy" and name.endswith(".h5"):
            continue
        with pytest.raises(DestinationError) as caught:
            pack(tree, tmp_path / name, overwrite=True, format=container)
        expected = f": already exists and is not a pack and nothing else: found {other}"
        assert expected in str(caught.value)
    assert before == {name: bytes_of(tmp_path / name) for name in before}
    assert found.keys() == set(os.listdir(tmp_path))


def test_a_link_stays_and_what_it_leads_to_is_written(tree, npy_pack, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link.pack").symlink_to("disk/real.pack")
    for _ in range(2):
        made = pack(tree, tmp_path / "link.pack", overwrite=True)
        assert made.path == tmp_path / "link.pack"
        assert os.readlink(tmp_path / "link.pack") == "disk/real.pack"
        assert bytes_of(tmp_path / "disk/real.pack") == bytes_of(npy_pack)


@pytest.mark.parametrize("name", ["scratch-0", "reserved", "new", ".tmp"])
def test_a_pack_may_have_any_name(tree, npy_pack, tmp_path, name):
    pack(tree, tmp_path / name)
    assert bytes_of(tmp_path / name) == bytes_of(npy_pack)
    pack(tree, tmp_path / name, overwrite=True, num_workers=0, format="hdf5")
    assert os.listdir(tmp_path) == [name]


def test_a_hidden_folder_is_no_class(tmp_path):
    put(tmp_path / "tree", {"cat/a.png": tiny(1), ".ipynb_checkpoints/a.png": tiny(1)})
    with pytest.raises(SourceError, match=r"visible folders as classes, found '.ipynb_checkp"):
        pack(tmp_path / "tree", tmp_path / "a")
    assert os.listdir(tmp_path) == ["tree"]


def test_an_archive_with_a_class_that_cannot_be_a_folder(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x" * 256 + "/a.png", tiny(1))
    with pytest.raises(SourceError, match=r"a.zip: expected classes with names of at most 255 byt"):
        pack(tmp_path / "a.zip", tmp_path / "a")
    assert os.listdir(tmp_path) == ["a.zip"]


@pytest.mark.parametrize("archive", [False, True])
def test_more_shards_than_can_be_open_are_refused(tree, tmp_path, archive, monkeypatch):
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda which: (64, 64))
    source = tree
    if archive:
        source = tmp_path / "a.tar"
        with tarfile.open(source, "w") as tar:
            tar.add(tree, "tree")
    with pytest.raises(
        ArgumentError, match=r"at most 32 files, .* \(ulimit -n\), found \d+; choose"
    ):
        pack(source, tmp_path / "a", shard_rows=1)
    assert not (tmp_path / "a").exists()


def test_where_nothing_can_be_written(tree, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for destination in (tmp_path / "file/a", tmp_path / "no/a", Path("/proc/a"), Path("/")):
        with pytest.raises(DestinationError):
            pack(tree, destination)
    assert os.listdir(tmp_path) == ["file"]


def test_a_pack_into_its_own_source(tree, tmp_path, npy_pack):
    shutil.copytree(tree, tmp_path / "tree")
    with pytest.warns(UserWarning, match=r"files that are no images are ignored"):
        pack(tmp_path / "tree", tmp_path / "tree/a.pack")
    assert bytes_of(tmp_path / "tree/a.pack") == bytes_of(npy_pack)


def test_one_that_is_being_written(tree, tmp_path):
    with publishing(tmp_path / "a", overwrite=False) as new:
        new.mkdir()
        with pytest.raises(DestinationError, match=r"another process is writing it"):
            pack(tree, tmp_path / "a")
        assert sorted(os.listdir(new.parent)) == ["cinicpack.lock", "new"]


@contextlib.contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("container", ["npy", "hdf5"])
def test_a_limit_of_file_sizes(tree, tmp_path, container):
    pack(tree, tmp_path / "a", splits=["train"])
    before = bytes_of(tmp_path)
    for size in (1_000, 3_000, 5_000):
        with (
            file_size_limit(size),
            pytest.raises(DestinationError, match=r"a: no more can be written in its folder") as e,
        ):
            pack(tree, tmp_path / "a", format=container, overwrite=True)
        assert "File too large" in str(e.value)
        assert bytes_of(tmp_path) == before


# Packs on ever larger disks until it fits; every disk is left empty or with a whole pack.
FULL_DISK = """
import os, subprocess, sys
import cinicpack
source, disk, container = sys.argv[1:]
for size in range(8, 400, 8):
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", disk]
    if subprocess.run(mount, stderr=subprocess.DEVNULL).returncode:
        sys.exit("cannot mount")
    try:
        cinicpack.pack(source, f"{disk}/a", format=container, progress=False)
    except cinicpack.errors.DestinationError as error:
        assert "No space left on device" in str(error), error
        assert "make room" in str(error), error
        assert os.listdir(disk) == [], os.listdir(disk)
    else:
        assert os.listdir(disk) == ["a"], os.listdir(disk)
        print(size, cinicpack.open_pack(f"{disk}/a").fingerprint)
        break
    subprocess.run(["umount", disk], check=True)
"""


@pytest.mark.parametrize("container", ["npy", "hdf5"])
def test_a_full_disk(tree, npy_pack, tmp_path, container):
    # In a mount namespace of its own, which ends with it.
    command = ["unshare", "-m", sys.executable, "-c", FULL_DISK, tree, tmp_path, container]
    if not shutil.which("unshare"):
        pytest.skip("needs unshare")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "unshare:" in done.stderr or "cannot mount" in done.stderr:
        pytest.skip("needs to mount a file system")
    assert done.returncode == 0, done.stderr
    size, fingerprint = done.stdout.split()
    assert int(size) > 24
    assert fingerprint == cinicpack.open_pack(npy_pack).fingerprint


# Whole programs.

COMMAND = (sys.executable, "-c", "import sys; from cinicpack.cli import main; sys.exit(main())")
SCRIPT = """
import sys
import cinicpack
print("started")
pack = cinicpack.pack(*sys.argv[1:3], num_workers=2, progress=False, overwrite=True)
print(pack.fingerprint)
"""


def test_a_script_needs_no_guard_around_its_main_part(tree, npy_pack, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    # Modules of these names in the working directory are not what the workers should import.
    (tmp_path / "here").mkdir()
    for name in ("numpy", "tempfile", "cinicpack"):
        (tmp_path / "here" / f"{name}.py").write_text("raise SystemExit('wrong module')")
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py", tree, tmp_path / "a"],
        cwd=tmp_path / "here",
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    expected = f"started\n{cinicpack.open_pack(npy_pack).fingerprint}\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, expected, "")


@pytest.fixture(scope="module")
def long_tree(tmp_path_factory) -> Path:
    """30,000 images that take a second to pack: the same few, in folders that are links."""
    root: Path = tmp_path_factory.mktemp("long")
    put(root / "images", {f"{n:03}.png": tiny(n, 16, 16) for n in range(500)})
    (root / "tree").mkdir()
    for n in range(60):
        (root / "tree" / f"{n:03}").symlink_to(root / "images")
    return root / "tree"


@contextlib.contextmanager
def packing(source: Path, destination: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Run ``cinicpack pack`` in a process group of its own, up to the middle of it."""
    with subprocess.Popen(
        [*COMMAND, "pack", source, destination, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
        # Else it would ignore Ctrl-C where these tests run in a shell's background.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        try:
            work = destination.with_name(f".{destination.name}.tmp")
            while not any(
                any(file.read_bytes()[128:]) for file in work.glob("reserved/*/images-*.npy")
            ):
                assert process.poll() is None, process.communicate()
                time.sleep(0.01)
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("workers", ["0", "2"])
def test_ctrl_c_leaves_the_old_pack_and_nothing_else(long_tree, npy_pack, tmp_path, workers):
    destination = tmp_path / "a.pack"
    shutil.copytree(npy_pack, destination)
    with packing(long_tree, destination, "--overwrite", "--workers", workers) as process:
        children = list_descendants(process.pid)
        assert len(children) == (1 + int(workers) if int(workers) else 0)
        os.killpg(process.pid, signal.SIGINT)
        out, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert (out, errors) == ("", "cinicpack: interrupted\n")
    assert bytes_of(destination) == bytes_of(npy_pack)
    assert os.listdir(tmp_path) == ["a.pack"]
    wait_until_gone(children)


def test_after_a_kill_the_next_run_sweeps(long_tree, tree, npy_pack, tmp_path):
    destination = tmp_path / "a.pack"
    shutil.copytree(npy_pack, destination)
    with packing(long_tree, destination, "--overwrite", "--workers", "2") as process:
        children = list_descendants(process.pid)
        process.kill()
        out, errors = process.communicate(timeout=30)
    assert (out, errors) == ("", "")
    # The workers notice and end, without a word.
    wait_until_gone(children)
    assert sorted(os.listdir(tmp_path)) == [".a.pack.tmp", "a.pack"]
    assert bytes_of(destination) == bytes_of(npy_pack)
    pack(tree, destination, overwrite=True, splits=["test"])
    assert os.listdir(tmp_path) == ["a.pack"]
    assert cinicpack.open_pack(destination).splits == ("test",)


def test_a_worker_that_is_killed_is_one_clear_error(long_tree, tmp_path):
    with packing(long_tree, tmp_path / "a", "--workers", "2") as process:
        children = list_descendants(process.pid)
        os.kill(children[-1], signal.SIGKILL)
        out, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert out == ""
    assert errors == (
        "cinicpack: error: a worker process ended with status -9 (a negative one is the signal "
        "that killed it, -9 often for want of memory); run again, with fewer workers if need be\n"
    )
    assert os.listdir(tmp_path) == []
    wait_until_gone(children)


def test_of_two_programs_at_once_one_wins(tree, npy_pack, tmp_path):
    programs = [
        subprocess.Popen(
            [*COMMAND, "pack", tree, tmp_path / "a"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    errors = [program.communicate(timeout=60)[1] for program in programs]
    assert sorted(program.returncode for program in programs) == [0, 1]
    assert sorted(map(len, errors))[0] == 0
    [told] = filter(None, errors)
    assert "another process is writing it" in told or "already exists" in told
    assert told.count("\n") == 1
    assert bytes_of(tmp_path / "a") == bytes_of(npy_pack)
    assert os.listdir(tmp_path) == ["a"]
