import gzip
import os
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

import cinicpack
from cinicpack.cinic10 import CLASSES, Origin
from cinicpack.cli import main
from cinicpack.convert.source import open_source
from cinicpack.errors import ArgumentError, SourceError
from cinicpack.formats.cifar10 import RECORD_BYTES, Cifar10, Cifar10Set, write_batches
from cinicpack.formats.png import encode_pngs
from cinicpack.store.verify import verify_pack
from cinicpack.study.audit import audit_pack
from tests.cifar_files import (
    COARSE,
    FINE,
    Drawn,
    draw,
    write_binary,
    write_cifar100,
    write_pickle,
)
from tests.convert.sources_here import MAKERS, bytes_of, pack, put
from tests.torchvision_here import import_torchvision

FOLDERS = {"bin": "cifar-10-batches-bin", "py": "cifar-10-batches-py"}


def make_set(rows: list[int], seed: int) -> Cifar10Set:
    records = np.random.default_rng(seed).integers(0, 256, (len(rows), RECORD_BYTES), np.uint8)
    records[:, 0] %= len(CLASSES)
    return Cifar10Set(np.array(rows), records, [b"%d.png" % row for row in rows])


# Three images in each of the five batches, and four in the test set: some classes lack images.
CIFAR10 = Cifar10(
    make_set([10_000 * batch + row for batch in range(5) for row in range(3)], 1),
    make_set([*range(4)], 2),
)


def pixels_of(part: Cifar10Set) -> np.ndarray:
    planes = part.records[:, 1:].reshape(-1, 3, 32, 32)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What the two archives unpack to."""
    root: Path = tmp_path_factory.mktemp("cifar")
    for layout, name in FOLDERS.items():
        (root / layout / name).mkdir(parents=True)
        write_batches(CIFAR10, root / layout / name, layout)
    return root


def make_source(folder: Path, layout: str, kind: str, destination: Path) -> Path:
    if kind == "above":
        return folder / layout
    if kind == "folder":
        return folder / layout / FOLDERS[layout]
    with tarfile.open(destination, "w:gz" if kind == "tar.gz" else "w") as archive:
        archive.add(folder / layout / FOLDERS[layout], FOLDERS[layout])
    return destination


@pytest.mark.parametrize("layout", FOLDERS)
@pytest.mark.parametrize("kind", ["folder", "above", "tar", "tar.gz"])
def test_row_i_is_image_i_from_every_kind_of_file(folder, tmp_path, layout, kind):
    one = pack(make_source(folder, layout, kind, tmp_path / "source"), tmp_path / "a")
    assert one.splits == ("train", "test")
    assert one.classes == CLASSES
    assert one.manifest.normalization.origin == "train"
    for name, part in CIFAR10._asdict().items():
        split = one[name]
        assert split.labels.tolist() == part.records[:, 0].tolist()
        names = [f"cifar10-{name}-{row}.png".encode() for row in range(len(part.records))]
        assert split.names.tolist() == names
        np.testing.assert_array_equal(np.asarray(split.images), pixels_of(part))
    assert {*one["train"].sources["origin"].tolist()} == {Origin.CIFAR10_TRAIN}
    assert not verify_pack(one.path).problems


@pytest.mark.parametrize("container", ["npy", "hdf5"])
def test_the_bytes_depend_neither_on_the_layout_nor_on_workers(folder, tmp_path, container):
    packs = [
        pack(folder / layout, tmp_path / f"{layout} {count}", num_workers=count, format=container)
        for layout in FOLDERS
        for count in (None, 2)
    ]
    for other in packs[1:]:
        assert bytes_of(other.path) == bytes_of(packs[0].path)


def test_a_tree_of_the_same_images_has_the_same_fingerprint(folder, tmp_path):
    for name, part in CIFAR10._asdict().items():
        for row, content in enumerate(encode_pngs(pixels_of(part))):
            class_name = CLASSES[part.records[row, 0]]
            put(tmp_path / "tree", {f"{name}/{class_name}/cifar10-{name}-{row}.png": content})
    tree = pack(tmp_path / "tree", tmp_path / "a", allow_missing=True)
    assert pack(folder / "bin", tmp_path / "b").fingerprint == tree.fingerprint


def test_a_split_and_its_loader(folder, tmp_path):
    one = pack(folder / "py", tmp_path / "a", splits="test")
    assert one.splits == ("test",)
    with pytest.raises(SourceError, match="expected CINIC-10, found no image that is named as one"):
        pack(folder / "py", tmp_path / "b", expect="cinic10")
    loader = cinicpack.Loader(one, "test", shuffle=False, output="numpy", num_workers=0)
    assert [labels.tolist() for _, labels in loader] == [CIFAR10.test.records[:, 0].tolist()]
    loader.close()


def test_the_fraction_grows_from_0_to_1(folder):
    source = open_source(folder / "bin")
    fractions = [source.fraction, *(source.fraction for _ in source.stream())]
    assert fractions == sorted(fractions)
    assert fractions[0] == 0
    assert fractions[-1] == 1


@pytest.mark.parametrize("kind", ["folder", "tar", "tar.gz"])
def test_what_is_not_whole_is_refused_and_nothing_is_published(folder, tmp_path, kind):
    source = make_source(folder, "py", kind, tmp_path / "source")
    if kind == "folder":
        put(tmp_path / "source", {"data_batch_1": (source / "data_batch_1").read_bytes()})
    else:
        content = source.read_bytes()
        source.write_bytes(content[: len(content) // 2])
    with pytest.raises(SourceError, match=rf"^{tmp_path / 'source'}: expected "):
        pack(tmp_path / "source", tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("error", [OSError(5, "a reason"), MemoryError("a reason")])
def test_what_cannot_be_read_is_not_called_damaged(folder, tmp_path, monkeypatch, error):
    monkeypatch.setattr("cinicpack.convert.batches.open_bundle", Mock(side_effect=error))
    with pytest.raises(SourceError, match=r"-bin: could not be read \(a reason\)"):
        pack(folder / "bin", tmp_path / "a")


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_split_without_images_is_refused_or_accepted(folder, tmp_path, split):
    """Its files may have been cut off before their first image."""
    source = shutil.copytree(folder / "bin" / FOLDERS["bin"], tmp_path / "source")
    for file in source.glob("test_batch.bin" if split == "test" else "data_batch_*.bin"):
        file.write_bytes(b"")
    with pytest.raises(SourceError, match=rf"found no images in the splits '{split}'"):
        pack(source, tmp_path / "a")
    assert not (tmp_path / "a").exists()
    assert split not in pack(source, tmp_path / "b", allow_missing=True)
    other = "train" if split == "test" else "test"
    assert pack(source, tmp_path / "c", splits=other).splits == (other,)


@pytest.mark.parametrize("make", [*MAKERS.values(), lambda files: gzip.compress(b"cifar")])
def test_other_files_are_other_sources(tmp_path, make):
    content = make({"cifar-10/cat/a.png": b"1", "cifar-10-batches-bin/a.png": b"2"})
    (tmp_path / "archive").write_bytes(content)
    assert open_source(tmp_path / "archive").classes is None
    assert open_source(tmp_path).classes is None


def make_archive(kind: str, folder: Path, path: Path) -> Path:
    """Put a folder into an archive, whose files are in an order that is not that of the rows."""
    files = sorted(folder.iterdir(), reverse=True)
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
            zipped.mkdir(folder.name)
            for file in files:
                zipped.write(file, f"{folder.name}/{file.name}")
    else:
        mode: Any = f"w:{kind.removeprefix('tar').removeprefix('.')}"
        with tarfile.open(path, mode) as tar:
            tar.add(folder, folder.name, recursive=False)
            for file in files:
                tar.add(file, f"{folder.name}/{file.name}")
    return path


# CIFAR-100

HUNDRED = {"train": draw(30, 3, classes=100), "test": draw(7, 4, classes=100)}


@pytest.fixture(scope="module")
def hundred(tmp_path_factory) -> Path:
    root: Path = tmp_path_factory.mktemp("cifar100")
    for layout in ("py", "bin"):
        write_cifar100(root, HUNDRED, layout)
    return root


@pytest.mark.parametrize("kind", ["folder", "tar", "tar.gz", "tar.bz2", "tar.xz", "zip"])
@pytest.mark.parametrize("layout", ["python", "binary"])
def test_cifar100_with_both_kinds_of_labels(hundred, tmp_path, layout, kind):
    source = hundred / f"cifar-100-{layout}"
    if kind != "folder":
        source = make_archive(kind, source, tmp_path / "source")
    fine = pack(source, tmp_path / "fine")
    coarse = pack(source, tmp_path / "coarse", labels="coarse")
    assert bytes_of(pack(source, tmp_path / "again", labels="fine").path) == bytes_of(fine.path)
    assert (fine.classes, coarse.classes) == (FINE, COARSE)
    assert fine.splits == coarse.splits == ("train", "test")
    for split, drawn in HUNDRED.items():
        assert fine[split].labels.tolist() == drawn.labels.tolist()
        assert coarse[split].labels.tolist() == drawn.coarse.tolist()
        np.testing.assert_array_equal(np.asarray(fine[split].images), drawn.images)
        assert fine[split].names[-1].decode() == f"cifar100-{split}-{len(drawn.labels) - 1}.png"
        assert {*fine[split].sources["origin"].tolist()} == {Origin.UNKNOWN}
    assert not verify_pack(coarse.path).problems


def test_labels_are_chosen_of_cifar100_alone(folder, hundred, tmp_path):
    for source in (hundred / "cifar-100-python", folder / "py", tmp_path):
        with pytest.raises(ArgumentError, match=r"labels.*found 'course'"):
            pack(source, tmp_path / "a", labels="course")
    assert not [*tmp_path.iterdir()]
    arguments = ["pack", str(hundred / "cifar-100-binary"), str(tmp_path / "a"), "--labels"]
    assert main([*arguments, "coarse"]) == 0
    assert cinicpack.open_pack(tmp_path / "a").classes == COARSE


def test_a_folder_with_two_data_sets_is_refused(hundred, tmp_path):
    for name in ("cifar-10-batches-py", "cifar-100-python"):
        (tmp_path / name).mkdir()
    write_batches(CIFAR10, tmp_path / "cifar-10-batches-py", "py")
    assert open_source(tmp_path).classes == CLASSES
    put(tmp_path / "cifar-100-python", dict.fromkeys(("train", "test", "meta"), b""))
    with pytest.raises(SourceError, match=r"one data set, found cifar-10-batches-py, cifar-100-py"):
        open_source(tmp_path)


# As torchvision reads the same files


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100"])
def test_every_pixel_and_label_is_torchvisions(tmp_path, monkeypatch, hundred, name):
    datasets = import_torchvision().datasets
    kind = getattr(datasets, name)
    root = hundred
    if name == "CIFAR10":
        root = tmp_path
        (root / kind.base_folder).mkdir()
        write_batches(CIFAR10, root / kind.base_folder, "py")
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    one = pack(root / kind.base_folder, tmp_path / "a")
    for split in one.splits:
        theirs = kind(str(root), train=split == "train")
        np.testing.assert_array_equal(np.asarray(one[split].images), theirs.data)
        assert one[split].labels.tolist() == theirs.targets
        assert list(one.classes) == theirs.classes


# Files like CIFAR-10's

BATCHES = [draw(count, seed) for seed, count in enumerate([3, 1, 2, 4, 2, 3, 1, 1, 2, 5, 1])]


def write_like(folder: Path, protocol: int | None, **meta: list[str]) -> Path:
    """Write eleven batches and a test set in the form of CIFAR-10's Python version."""
    folder.mkdir(parents=True)
    parts = {f"data_batch_{number}": part for number, part in enumerate(BATCHES, 1)}
    for name, drawn in {**parts, "test_batch": BATCHES[0]}.items():
        content = {"data": drawn.planes, "labels": drawn.labels.tolist(), "filenames": ["a.png"]}
        write_pickle(folder / name, content, protocol)
    if meta:
        write_pickle(folder / "batches.meta", meta, protocol)
    return folder


@pytest.mark.parametrize("protocol", [None, 0, 2, 4, 5])
@pytest.mark.parametrize("kind", ["folder", "tar.gz", "zip"])
def test_any_number_of_batches_of_any_number_of_rows(tmp_path, protocol, kind):
    source = write_like(tmp_path / "mine", protocol)
    if kind != "folder":
        source = make_archive(kind, source, tmp_path / "archive")
    one = pack(source, tmp_path / "a")
    assert one.classes == CLASSES
    labels = np.concatenate([part.labels for part in BATCHES])
    assert one["train"].labels.tolist() == labels.tolist()
    images = np.concatenate([part.images for part in BATCHES])
    np.testing.assert_array_equal(np.asarray(one["train"].images), images)
    names = [f"cifar10-train-{row}.png" for row in range(len(labels))]
    assert [name.decode() for name in one["train"].names] == names
    assert one["train"].sources["number"].tolist() == [*range(len(labels))]
    assert one["test"].labels.tolist() == BATCHES[0].labels.tolist()


def test_the_names_in_the_meta_file_keep_their_order_and_number(tmp_path):
    names = ["zebra", "ant", *(f"{number}" for number in range(15))]
    source = write_like(tmp_path / "mine", 2, label_names=names)
    assert pack(source, tmp_path / "a").classes == tuple(names)
    for wrong in (["a", "a"], ["a", "b/c"], ["a", ""], ["a", 1], "ab"):
        write_pickle(source / "batches.meta", {"label_names": wrong})
        with pytest.raises(SourceError, match=r"expected a (name for every class|list of names)"):
            pack(source, tmp_path / "b")


# What is wrong

GOOD = draw(3, 0)


def content(**changes: object) -> dict[str, object]:
    return {"data": GOOD.planes, "labels": GOOD.labels.tolist(), **changes}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (content(labels=[1, 2]), "as many labels as images, found 2 labels and 3 images"),
        (content(labels=[1, 2, 10]), "labels from 0 to 9, found 10 in row 2"),
        (content(labels=[1, -1, 2]), "labels from 0 to 9, found -1 in row 1"),
        (content(labels=[1, 2.5, 2]), "one list of whole numbers as labels, found float64"),
        (content(labels=[1, [2], 2]), "one list of whole numbers as labels"),
        (content(labels=None), "an array 'data' and labels 'labels', found 'data', 'labels'"),
        (content(data=GOOD.planes.tolist()), "an array 'data' and labels 'labels'"),
        (content(data=GOOD.planes.astype(np.float32)), r"images of uint8.*float32 \(3, 3072\)"),
        (content(data=GOOD.planes[:, 1:]), r"images of uint8, .*found uint8 \(3, 3071\)"),
        (content(data=os.system), "a call of posix.system, which is not made"),
    ],
)
def test_one_wrong_batch_is_named_and_nothing_published(tmp_path, wrong, message):
    source = write_like(tmp_path / "mine", 2)
    write_pickle(source / "data_batch_7", wrong)
    with pytest.raises(SourceError, match=rf"mine: data_batch_7: expected .*{message}"):
        pack(source, tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_batch_that_is_cut_off_is_named(tmp_path):
    source = write_like(tmp_path / "mine", 2)
    whole = (source / "data_batch_2").read_bytes()
    (source / "data_batch_2").write_bytes(whole[:-100])
    with pytest.raises(SourceError, match=r"mine: data_batch_2: expected a pickled dictionary"):
        pack(source, tmp_path / "a")
    write_binary(tmp_path / "data_batch_1.bin", Drawn(GOOD.labels + 8, *GOOD[1:]))
    write_binary(tmp_path / "test_batch.bin", GOOD)
    with pytest.raises(
        SourceError, match=r"data_batch_1.bin: expected labels from 0 to 9, found 1"
    ):
        pack(tmp_path, tmp_path / "a")
    write_binary(tmp_path / "data_batch_1.bin", GOOD)
    with open(tmp_path / "data_batch_1.bin", "r+b") as file:
        file.truncate(2 * RECORD_BYTES + 5)
    with pytest.raises(SourceError, match=r"found 6,151 bytes, so record 2 is cut off; fetch"):
        pack(tmp_path, tmp_path / "a")


@pytest.mark.parametrize("name", ["data_batch_3", "data_batch_1", "test_batch"])
def test_a_batch_that_is_missing_is_named(tmp_path, name):
    source = write_like(tmp_path / "mine", 2)
    (source / name).unlink()
    with pytest.raises(SourceError, match=rf"mine: expected .*but {name} is missing, found"):
        pack(source, tmp_path / "a")


def test_of_the_official_folder_all_five_batches_are_expected(tmp_path):
    source = write_like(tmp_path / "cifar-10-batches-py", 2)
    for number in range(5, 12):
        (source / f"data_batch_{number}").unlink()
    assert len(pack(source.rename(tmp_path / "mine"), tmp_path / "a")["train"]) == 10
    source = (tmp_path / "mine").rename(source)
    for archive in (source, make_archive("tar", source, tmp_path / "archive")):
        with pytest.raises(SourceError, match=r"but data_batch_5 is missing"):
            pack(archive, tmp_path / "b")


# CIFAR-10 from its archive is the CIFAR-10 that CINIC-10 has


def test_source_cifar10_and_audit_work_on_it(folder, tmp_path):
    source = make_source(folder, "py", "tar.gz", tmp_path / "cifar-10-python.tar.gz")
    one = pack(source, tmp_path / "cifar10.pack")
    assert len(one["train"].select(source="cifar10")) == len(one["train"]) == 15
    assert main(["cifar10", str(one.path), str(tmp_path / "again"), "--allow-missing"]) == 0
    records = np.fromfile(tmp_path / "again" / "data_batch_1.bin", np.uint8)
    np.testing.assert_array_equal(records.reshape(-1, RECORD_BYTES), CIFAR10.train.records)
    audit = audit_pack(one)
    assert (audit.duplicates, audit.leaked) == ([], [])
    assert {*audit.balance["train"]} == {"cifar10"}
