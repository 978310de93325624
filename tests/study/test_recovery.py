import hashlib
import json
import os
import pickle
import tarfile
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cinicpack
from cinicpack import Pack, cinic10
from cinicpack.cli import main
from cinicpack.errors import ArgumentError, DestinationError, SelectionError, SourceError
from cinicpack.formats.cifar10 import (
    Cifar10,
    Cifar10Set,
    write_batches,
)
from cinicpack.study.recovery import compare_cifar10, extract_cifar10, recover_cifar10
from cinicpack.synthetic import write_tree
from tests.limits import file_size_limit
from tests.torchvision_here import import_torchvision

# The packs here have the first 50 and 10 images only.
recover = partial(recover_cifar10, allow_missing=True)
extract = partial(extract_cifar10, allow_missing=True)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree") / "cinic"
    write_tree(root, 9)
    return root


@pytest.fixture(scope="module")
def pack(tree: Path) -> Pack:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return cinicpack.pack(tree, tree.with_name("a.pack"), progress=False)


def read_set(tree: Path, origin: str) -> bytes:
    """Build records from the files of a tree, one after the other."""
    found = {
        int(path.stem.rpartition("-")[2]): path for path in tree.rglob(f"cifar10-{origin}-*.png")
    }
    records = b""
    for row in range(len(found)):
        label = cinic10.CLASSES.index(found[row].parent.name)
        pixels = np.asarray(Image.open(found[row]).convert("RGB"))
        records += bytes([label]) + pixels.transpose(2, 0, 1).tobytes()
    return records


def repack(tree: Path) -> Pack:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return cinicpack.pack(tree, tree.with_suffix(".pack"), allow_missing=True, progress=False)


def test_binary_files_are_the_records_in_order(tree, pack, tmp_path):
    recovery = recover(pack, tmp_path / "bin")
    assert recovery.images == {"train": 50, "test": 10}
    assert recovery.missing == {"train": [*range(50, 50_000)], "test": [*range(10, 10_000)]}
    assert recovery.reference is None
    contents = {path.name: path.read_bytes() for path in (tmp_path / "bin").iterdir()}
    assert contents.pop("batches.meta.txt") == (
        b"airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n\n"
    )
    assert contents == {
        "data_batch_1.bin": read_set(tree, "train"),
        **{f"data_batch_{number}.bin": b"" for number in range(2, 6)},
        "test_batch.bin": read_set(tree, "test"),
    }


@pytest.mark.parametrize("layout", ["bin", "py", "npy"])
def test_a_full_disk_is_named(pack, tmp_path, layout):
    with (
        file_size_limit(1_000),
        pytest.raises(
            DestinationError, match=r"out: no more can be written in its folder \(File t"
        ),
    ):
        recover(pack, tmp_path / "out", layout=layout)
    assert os.listdir(tmp_path) == []


def test_python_files_are_what_readers_expect(tree, pack, tmp_path):
    recover(pack, tmp_path / "py", layout="py")
    records = np.frombuffer(read_set(tree, "train"), np.uint8).reshape(-1, 3073)
    # As Keras reads them.
    batch = pickle.loads((tmp_path / "py" / "data_batch_1").read_bytes(), encoding="bytes")
    assert list(batch) == [b"batch_label", b"labels", b"data", b"filenames"]
    assert batch[b"batch_label"] == b"training batch 1 of 5"
    assert batch[b"labels"] == records[:, 0].tolist()
    assert np.array_equal(batch[b"data"], records[:, 1:])
    assert batch[b"filenames"] == [f"cifar10-train-{row}.png".encode() for row in range(50)]
    last = pickle.loads((tmp_path / "py" / "data_batch_5").read_bytes(), encoding="latin1")
    assert last["batch_label"] == "training batch 5 of 5"
    assert last["data"].shape == (0, 3072)
    test = pickle.loads((tmp_path / "py" / "test_batch").read_bytes(), encoding="latin1")
    assert test["batch_label"] == "testing batch 1 of 1"
    assert test["filenames"][9] == "cifar10-test-9.png"
    meta = (tmp_path / "py" / "batches.meta").read_bytes()
    assert hashlib.md5(meta).hexdigest() == "5ff9c542aee3614f3951f8cda6e48888"


def test_torchvision_loads_them(tree, pack, tmp_path):
    datasets = import_torchvision().datasets
    recover(pack, tmp_path / "cifar-10-batches-py", layout="py")

    class CIFAR10(datasets.CIFAR10):  # type: ignore[misc, name-defined]
        """A class of its own, so that torchvision's stays as it is."""

    CIFAR10.train_list = [[name, None] for name, _ in CIFAR10.train_list]
    CIFAR10.test_list = [[name, None] for name, _ in CIFAR10.test_list]
    for train in (True, False):
        loaded = CIFAR10(tmp_path, train=train)
        records = read_set(tree, "train" if train else "test")
        expected = np.frombuffer(records, np.uint8).reshape(-1, 3073)
        assert loaded.classes == list(cinic10.CLASSES)
        assert loaded.targets == expected[:, 0].tolist()
        planes = loaded.data.transpose(0, 3, 1, 2).reshape(-1, 3072)
        assert np.array_equal(planes, expected[:, 1:])


def test_arrays(tree, pack, tmp_path):
    recover(pack, tmp_path / "npy", layout="npy")
    arrays = {path.name: np.load(path) for path in (tmp_path / "npy").iterdir()}
    assert {name: (array.dtype.str, array.shape) for name, array in arrays.items()} == {
        "train-images.npy": ("|u1", (50, 32, 32, 3)),
        "train-labels.npy": ("|u1", (50,)),
        "test-images.npy": ("|u1", (10, 32, 32, 3)),
        "test-labels.npy": ("|u1", (10,)),
    }
    records = np.frombuffer(read_set(tree, "test"), np.uint8).reshape(-1, 3073)
    assert np.array_equal(arrays["test-labels.npy"], records[:, 0])
    planes = arrays["test-images.npy"].transpose(0, 3, 1, 2).reshape(-1, 3072)
    assert np.array_equal(planes, records[:, 1:])


def test_shards_hdf5_and_the_other_prefix_make_no_difference(tree, pack, tmp_path):
    other = tmp_path / "tree"
    for path in tree.rglob("*.png"):
        target = other / path.relative_to(tree)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.with_name(target.name.replace("cifar10-", "cifar-10-")).symlink_to(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = cinicpack.pack(
            other, tmp_path / "b.h5", format="hdf5", shard_rows=7, progress=False
        )
    first = recover(pack, tmp_path / "a", layout="bin")
    assert recover(str(again.path), tmp_path / "b") == first
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


# Missing, double and foreign images


@pytest.fixture
def copied(tree: Path, tmp_path: Path) -> Path:
    root = tmp_path / "copied"
    for path in tree.rglob("*.png"):
        target = root / path.relative_to(tree)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(path)
    return root


def find(tree: Path, name: str) -> Path:
    [path] = tree.rglob(name)
    return path


def test_missing_images_are_listed(tree, copied, tmp_path):
    for row in (3, 4, 5, 17):
        find(copied, f"cifar10-train-{row}.png").unlink()
    pack = repack(copied)
    with pytest.raises(
        SelectionError,
        match=r"49,954 train images are missing: 3-5, 17, 50-49999; --allow-missing .*\n"
        r"  9,990 test images are missing: 10-9999; --allow-missing",
    ):
        recover_cifar10(pack, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    recovery = recover(pack, tmp_path / "out")
    assert recovery.images == {"train": 46, "test": 10}
    assert recovery.missing["train"] == [3, 4, 5, 17, *range(50, 50_000)]
    whole = np.frombuffer(read_set(tree, "train"), np.uint8).reshape(-1, 3073)
    expected = np.delete(whole, [3, 4, 5, 17], axis=0).tobytes()
    assert (tmp_path / "out" / "data_batch_1.bin").read_bytes() == expected


def test_a_missing_tail_is_refused_too(pack, tmp_path):
    with pytest.raises(
        SelectionError,
        match=r"49,950 train images are missing: 50-49999; .*\n"
        r"  9,990 test images are missing: 10-9999; ",
    ):
        recover_cifar10(pack, tmp_path / "out")
    assert os.listdir(tmp_path) == []


def test_a_whole_cifar10_needs_no_leave(pack):
    whole = extract_cifar10(pack, whole={"train": 50, "test": 10})
    assert [part.rows.tolist() for part in whole] == [list(range(50)), list(range(10))]
    with pytest.raises(SelectionError, match=r"1 train image is missing: 50; "):
        extract_cifar10(pack, whole={"train": 51, "test": 10})


def test_a_set_that_is_not_there(copied, tmp_path):
    for path in copied.rglob("cifar10-test-*.png"):
        path.unlink()
    pack = repack(copied)
    with pytest.raises(SelectionError, match=r"there are no test images; --allow-missing"):
        recover_cifar10(pack, tmp_path / "out")
    assert recover(pack, tmp_path / "out").images["test"] == 0


@pytest.mark.parametrize("allow_missing", [False, True])
def test_double_and_foreign_images_are_refused(tree, copied, tmp_path, allow_missing):
    (copied / "train" / "cat" / "cifar-10-test-7.png").symlink_to(find(tree, "cifar10-test-7.png"))
    (copied / "train" / "cat" / "cifar-10-test-10000.png").symlink_to(
        find(tree, "cifar10-test-7.png")
    )
    with pytest.raises(
        SelectionError,
        match=r"10,000 test images, these do not exist: 10000\n"
        r"  1 test image is there more than once: 7",
    ):
        recover_cifar10(repack(copied), tmp_path / "out", allow_missing=allow_missing)


def test_other_packs_are_refused(tmp_path):
    write_tree(tmp_path / "large", 2, classes=["cat"], size=64)
    with pytest.raises(SelectionError, match=r"images of \(64, 64, 3\)"):
        recover(repack(tmp_path / "large"), tmp_path / "out")
    write_tree(tmp_path / "foreign", 2, classes=["cat"])
    for path in (tmp_path / "foreign").iterdir():
        (path / "cat").rename(path / "lion")
    with pytest.raises(SelectionError, match=r"expected CIFAR-10's classes .* found lion"):
        recover(repack(tmp_path / "foreign"), tmp_path / "out")


def test_a_part_of_the_classes_keeps_cifar10s_labels(tmp_path):
    write_tree(tmp_path / "two", 9, classes=["dog", "truck"])
    recover(repack(tmp_path / "two"), tmp_path / "out")
    records = (tmp_path / "out" / "data_batch_1.bin").read_bytes()
    assert records == read_set(tmp_path / "two", "train")
    assert set(records[::3073]) == {5, 9}


# References


@pytest.fixture(scope="module")
def folders(pack: Pack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("references")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for layout in ("bin", "py"):
            recover(pack, root / f"cifar-10-batches-{layout}", layout=layout)
            with tarfile.open(root / f"{layout}.tar.gz", "w:gz") as archive:
                archive.add(root / f"cifar-10-batches-{layout}", f"cifar-10-batches-{layout}")
    return root


@pytest.mark.parametrize(
    "name", ["bin.tar.gz", "py.tar.gz", "cifar-10-batches-bin", "cifar-10-batches-py", ""]
)
def test_references_of_all_kinds_are_identical(pack, folders, tmp_path, name):
    reference = recover(pack, tmp_path / "out", reference=folders / name).reference
    assert reference is not None
    assert reference.identical
    assert (reference.compared, reference.absent, reference.official) == (60, 0, None)


@pytest.mark.parametrize("layout", ["bin", "py"])
def test_every_other_pixel_and_label_is_found(pack, tmp_path, layout):
    def spoil(part: Cifar10Set, *places: tuple[int, int]) -> Cifar10Set:
        records = part.records.copy()
        for place in places:
            records[place] ^= 1
        return part._replace(records=records)

    cifar10 = extract(pack)
    spoiled = Cifar10(spoil(cifar10.train, (3, 3072), (49, 0)), spoil(cifar10.test, (9, 0), (9, 1)))
    (tmp_path / "other").mkdir()
    write_batches(spoiled, tmp_path / "other", layout)
    reference = recover(pack, tmp_path / "out", reference=tmp_path / "other").reference
    assert reference is not None
    mine, other = cifar10.train.records[49, 0], spoiled.train.records[49, 0]
    a, b = cifar10.test.records[9, 0], spoiled.test.records[9, 0]
    assert reference.differences == [
        "train 3: other pixels",
        f"train 49: label {mine} instead of {other}",
        f"test 9: label {a} instead of {b}, other pixels",
    ]
    assert not reference.identical


def test_references_with_fewer_and_more_images(pack, tmp_path):
    train, test = extract(pack)
    other = Cifar10(
        Cifar10Set(train.rows[:48], train.records[:48], []),
        Cifar10Set(np.arange(12), np.concatenate([test.records, test.records[:2]]), []),
    )
    (tmp_path / "other").mkdir()
    write_batches(other, tmp_path / "other", "bin")
    reference = recover(pack, tmp_path / "out", reference=tmp_path / "other").reference
    assert reference is not None
    assert (reference.compared, reference.absent) == (58, 2)
    assert reference.differences == [
        "train 48: not in the reference",
        "train 49: not in the reference",
    ]


def test_official_archives_are_known_by_their_md5(pack, folders):
    digest = hashlib.md5((folders / "bin.tar.gz").read_bytes()).hexdigest()
    official = {digest: "the official one"}
    for name, expected in (("bin.tar.gz", "the official one"), ("py.tar.gz", None), ("", None)):
        reference = compare_cifar10(extract(pack), folders / name, official=official)
        assert reference.official == expected


def test_where_the_reference_is_refused_nothing_is_written(pack, tmp_path):
    (tmp_path / "reference.tar.gz").write_bytes(b"GIF89a")
    with pytest.raises(SourceError, match=r"reference.tar.gz: expected a .tar.gz of CIFAR-10, or"):
        recover(pack, tmp_path / "out", reference=tmp_path / "reference.tar.gz")
    assert os.listdir(tmp_path) == ["reference.tar.gz"]


def test_destination_and_layout_are_checked(pack, tmp_path):
    with pytest.raises(ArgumentError, match=r"expected layout 'bin' or 'py' or 'npy', found 'x'"):
        recover(pack, tmp_path / "out", layout="x")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(DestinationError, match="expected nothing there"):
        recover(pack, tmp_path / "out")
    with pytest.raises(FileNotFoundError):
        recover(pack, tmp_path / "new", reference=tmp_path / "none")
    assert os.listdir(tmp_path) == ["out"]


def test_blob_ids_are_those_of_the_binary_files_in_any_layout(pack, tmp_path):
    recovery = recover(pack, tmp_path / "npy", layout="npy")
    recover(pack, tmp_path / "bin")
    for name, found in recovery.blob_ids.items():
        content = (tmp_path / "bin" / f"{name}.bin").read_bytes()
        assert hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == found


# The command


def test_command(pack, folders, tmp_path, capsys):
    command = ["cifar10", str(pack.path), str(tmp_path / "a")]
    assert main(command) == 1
    assert "images are missing: 50-49999; --allow-missing" in capsys.readouterr().err
    command.append("--allow-missing")
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "50 train and 10 test images" in out
    assert "  49,950 train images are missing: 50-49999\n" in out
    assert "data_batch_1.bin  git id " in out
    assert "published is da09f891072747be90e69e4f00ba7cba870dc87e" in out
    command[2] = str(tmp_path / "b")
    assert main([*command, "--json", "--reference", str(folders)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["images"] == {"train": 50, "test": 10}
    assert report["batches"]["test_batch"]["same"] is False
    assert report["reference"]["identical"] is True


def test_command_fails_if_images_differ(pack, tmp_path, capsys):
    train, test = extract(pack)
    (tmp_path / "other").mkdir()
    records = test.records.copy()
    records[:, 1:] ^= 1
    write_batches(Cifar10(train, test._replace(records=records)), tmp_path / "other", "bin")
    command = ["cifar10", str(pack.path), str(tmp_path / "out"), "--allow-missing"]
    assert main([*command, "--reference", str(tmp_path / "other")]) == 1
    out = capsys.readouterr().out
    assert "(not an official archive): 60 images compared; 10 differ:\n  test 0: other pix" in out
