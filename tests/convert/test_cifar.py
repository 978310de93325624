import gzip
import tarfile
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

import cinicpack
from cinicpack.cinic10 import CLASSES, Origin
from cinicpack.convert.source import open_source
from cinicpack.errors import SourceError
from cinicpack.formats.cifar10 import RECORD_BYTES, Cifar10, Cifar10Set, write_batches
from cinicpack.formats.png import encode_pngs
from cinicpack.store.verify import verify_pack
from tests.convert.sources_here import MAKERS, bytes_of, pack, put

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
    monkeypatch.setattr(Path, "read_bytes", Mock(side_effect=error))
    with pytest.raises(SourceError, match=r"bin: could not be read \(a reason\)"):
        pack(folder / "bin", tmp_path / "a")


@pytest.mark.parametrize("make", [*MAKERS.values(), lambda files: gzip.compress(b"cifar")])
def test_other_files_are_other_sources(tmp_path, make):
    content = make({"cifar-10/cat/a.png": b"1", "cifar-10-batches-bin/a.png": b"2"})
    (tmp_path / "archive").write_bytes(content)
    assert open_source(tmp_path / "archive").classes is None
    assert open_source(tmp_path).classes is None
