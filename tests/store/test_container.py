import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

import cinicpack
from cinicpack.errors import ArgumentError, DestinationError, PackError
from cinicpack.store.container import CONTAINERS, for_suffix, found_at, named, register, unregister
from cinicpack.store.format import ArraySpec
from cinicpack.store.manifest import Manifest
from cinicpack.store.reader import find_other
from cinicpack.store.region import Region
from cinicpack.store.verify import verify_pack
from tests.packs import make_writable
from tests.store.test_verify import flip


class Tape:
    """A container of one file: a mark, all arrays one after the other, the manifest."""

    name = "tape"
    suffixes: tuple[str, ...] = (".tape",)
    _mark = b"tape of arrays\n"

    def holds(self, path: Path) -> bool:
        if not path.is_file():
            return False
        with open(path, "rb") as stream:
            return stream.read(len(self._mark)) == self._mark

    def find_others(self, path: Path) -> list[str]:
        try:
            self.open(path)
        except PackError:
            return ["a tape that is damaged"]
        return []

    def create(self, path: Path, specs: Sequence[ArraySpec]) -> list[Region]:
        regions = self._locate(path, specs)
        with open(path, "xb") as stream:
            stream.write(self._mark)
            stream.truncate(regions[-1].offset + regions[-1].spec.nbytes)
        return regions

    def finish(self, path: Path, manifest: Manifest, regions: Sequence[Region]) -> None:
        text = manifest.to_json()
        with open(path, "ab") as stream:
            stream.write(text + len(text).to_bytes(8, "little"))

    def open(self, path: Path) -> tuple[Manifest, list[Region]]:
        content = path.read_bytes()
        nbytes = int.from_bytes(content[-8:], "little")
        manifest = Manifest.from_json(content[-8 - nbytes : -8], str(path))
        return manifest, self._locate(path, list(manifest.specs()))

    def _locate(self, path: Path, specs: Sequence[ArraySpec]) -> list[Region]:
        ends = np.cumsum([len(self._mark), *(spec.nbytes for spec in specs)]).tolist()
        return [Region(spec, path, at) for spec, at in zip(specs, ends, strict=False)]


@pytest.fixture
def tape() -> Iterator[Tape]:
    register(container := Tape())
    yield container
    unregister("tape")


def archive_of(tree: Path, folder: Path) -> Path:
    with tarfile.open(folder / "tree.tar", "w") as archive:
        archive.add(tree, "tree")
    return folder / "tree.tar"


@pytest.mark.parametrize("kind", ["tree", "tar"])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_container_that_is_registered_is_packed_opened_verified_and_loaded(
    tape, tree, npy_pack, tmp_path, kind, num_workers
):
    source = tree if kind == "tree" else archive_of(tree, tmp_path)
    path = tmp_path / "a.tape"
    options = {"format": "tape", "num_workers": num_workers, "progress": False}
    pack = cinicpack.pack(source, path, shard_rows=5, **options)
    other = cinicpack.open_pack(npy_pack)
    assert pack.format == "tape"
    assert pack.fingerprint == other.fingerprint
    assert verify_pack(path).problems == []
    loaders = [cinicpack.Loader(each, "train", batch_size=5, seed=3) for each in (pack, other)]
    for (images, labels), (expected, expected_labels) in zip(*loaders, strict=True):
        np.testing.assert_array_equal(images, expected)
        np.testing.assert_array_equal(labels, expected_labels)
    assert find_other(path) is None
    cinicpack.pack(source, path, overwrite=True, **options)
    assert verify_pack(path).problems == []


def test_what_is_damaged_is_told_in_any_container(tape, tree, tmp_path):
    path = tmp_path / "a.tape"
    cinicpack.pack(tree, path, format="tape", progress=False)
    make_writable(path)
    flip(path, 100)
    [problem] = verify_pack(path).problems
    assert problem.startswith(f"{path}:train/images-00000: differs from the manifest within")
    flip(path, path.stat().st_size - 20)
    with pytest.raises(PackError, match=r"a\.tape: the manifest was changed or damaged"):
        cinicpack.open_pack(path)
    with pytest.raises(DestinationError, match=r"nothing else: found a tape that is damaged"):
        cinicpack.pack(tree, path, format="tape", overwrite=True, progress=False)


def test_the_table_is_asked_by_name_by_suffix_and_by_what_is_there(
    tape, npy_pack, hdf5_pack, tmp_path
):
    assert list(CONTAINERS) == ["npy", "hdf5", "tape"]
    assert named("tape") is tape
    assert for_suffix(Path("a.tape")) is tape
    assert for_suffix(Path("a.h5")) is for_suffix(Path("b.hdf5")) is named("hdf5")
    assert for_suffix(Path("a.pack")) is for_suffix(Path("tape")) is None
    assert found_at(npy_pack) is named("npy")
    assert found_at(hdf5_pack) is named("hdf5")
    with pytest.raises(ArgumentError, match=r"^expected format 'npy' or 'hdf5' or 'tape', found"):
        named("tar")
    with pytest.raises(ArgumentError, match=r"a\.tape: .* the name says TAPE; pass --format tape"):
        cinicpack.pack(npy_pack, tmp_path / "a.tape")


def test_a_name_or_suffix_that_is_taken_is_refused(tape):
    class Other(Tape):
        name = "other"
        suffixes: tuple[str, ...] = (".x", ".tape")

    for container in (tape, Other()):
        with pytest.raises(ArgumentError, match=r"with a name and suffixes of its own, found"):
            register(container)
    assert list(CONTAINERS) == ["npy", "hdf5", "tape"]
