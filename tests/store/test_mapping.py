import ctypes
import errno
import mmap
import os
import resource
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import cinicpack
from cinicpack.errors import PackError, SelectionError
from cinicpack.store.format import ArraySpec
from cinicpack.store.mapping import map_file, map_files, view_arrays
from cinicpack.store.region import Region
from tests.packs import copy_pack


def mapped(regions: list[Region]) -> dict[str, NDArray[Any]]:
    return view_arrays(regions, map_files(regions))


def copy_of(pack: Path, folder: Path) -> Path:
    return copy_pack(pack, folder / pack.name)


def images_file(path: Path) -> Path:
    return path / "train/images-00000.npy" if path.is_dir() else path


def test_regions_are_mapped_read_only(tmp_path):
    file = tmp_path / "data"
    file.write_bytes(bytes(range(100)))
    regions = [
        Region(ArraySpec("a", np.dtype("u1"), (2, 3)), file, 10),
        Region(ArraySpec("b", np.dtype("<u2"), (4,)), file, 21),
    ]
    arrays = mapped(regions)
    assert arrays["a"].tolist() == [[10, 11, 12], [13, 14, 15]]
    assert arrays["b"].tolist() == [21 + 22 * 256, 23 + 24 * 256, 25 + 26 * 256, 27 + 28 * 256]
    for array in arrays.values():
        assert not array.flags.writeable
        with pytest.raises(ValueError, match=r"WRITEABLE"):
            array.flags.writeable = True


def test_a_mapping_is_the_file_and_not_a_copy(tmp_path):
    file = tmp_path / "data"
    file.write_bytes(bytes(5))
    array = mapped([Region(ArraySpec("a", np.dtype("u1"), (5,)), file, 0)])["a"]
    with open(file, "r+b") as stream:
        stream.write(b"\7")
    assert array[0] == 7


def test_a_file_that_became_too_short_is_refused(tmp_path):
    file = tmp_path / "data"
    file.write_bytes(bytes(9))
    with pytest.raises(PackError, match=r"data: expected 10 bytes, found 9"):
        mapped([Region(ArraySpec("a", np.dtype("u1"), (5,)), file, 5)])


def test_no_descriptor_is_kept_and_a_file_is_mapped_once(any_pack, tmp_path):
    path = copy_of(any_pack, tmp_path)
    before = os.listdir("/proc/self/fd")
    first, second = (cinicpack.open_pack(path)["train"] for _ in range(2))
    assert os.listdir("/proc/self/fd") == before
    assert (first.addresses() == second.addresses()).all()
    assert Path("/proc/self/maps").read_text().count(str(images_file(path))) == 1
    del first, second
    assert str(images_file(path)) not in Path("/proc/self/maps").read_text()


def test_a_mapping_that_is_being_removed_is_given_to_nobody(tmp_path, monkeypatch):
    # Another thread may ask for the file while the system removes the mapping.
    file, found = tmp_path / "data", []
    file.write_bytes(b"7")
    library: Any = ctypes.CDLL(None, use_errno=True)
    munmap: Callable[[int, int], int] = library.munmap

    def look_and_unmap(address: int, nbytes: int) -> int:
        found.append(map_file(file))
        return munmap(address, nbytes)

    functions = {"mmap": library.mmap, "madvise": library.madvise, "munmap": look_and_unmap}
    with monkeypatch.context() as patch:
        patch.setattr(ctypes, "CDLL", lambda *_, **__: SimpleNamespace(**functions))
        mapping = map_file(file)
    number = id(mapping)
    del mapping
    (other,) = found
    assert id(other) != number
    assert bytes(np.asarray(other)) == b"7"


def test_more_packs_than_a_process_may_open_files(sharded_pack):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 8, hard))
    try:
        packs = [cinicpack.open_pack(sharded_pack) for _ in range(3)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len({pack["test"].fingerprint for pack in packs}) == 1


@pytest.mark.parametrize("code", [errno.ENODEV, errno.EINVAL, errno.EACCES])
@pytest.mark.parametrize("refused", ["shared", "all"])
def test_a_file_system_that_refuses_mappings(npy_pack, tmp_path, monkeypatch, code, refused):
    path = copy_of(npy_pack, tmp_path)
    expected = np.array(cinicpack.open_pack(npy_pack)["train"].images)
    library: Any = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype, size = ctypes.c_void_p, ctypes.c_size_t

    def refuse(address: None, nbytes: int, protection: int, flags: int, *rest: int) -> Any:
        if refused == "all" or flags & mmap.MAP_SHARED:
            ctypes.set_errno(code)
            return ctypes.c_void_p(-1).value
        return library.mmap(address, size(nbytes), protection, flags, *rest)

    fake = SimpleNamespace(mmap=refuse, munmap=library.munmap, madvise=library.madvise)
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: fake)
    if code == errno.EACCES:
        with pytest.raises(PermissionError, match=str(path)):
            cinicpack.open_pack(path)
        return
    if refused == "all":
        with pytest.warns(UserWarning, match=r"its file system cannot map files, so [\d,]+ bytes"):
            pack = cinicpack.open_pack(path)
    else:
        pack = cinicpack.open_pack(path)
    np.testing.assert_array_equal(pack["train"].images, expected)


def truncate(file: Path) -> None:
    os.truncate(file, 4096)


def change(file: Path) -> None:
    with open(file, "r+b") as stream:
        stream.seek(2000)
        stream.write(b"other bytes")
    status = file.stat()
    # A clock of the file system that is coarse may give the same time as before.
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


@pytest.mark.parametrize("damage", [truncate, change])
def test_a_pack_that_is_written_to_is_found_out(any_pack, tmp_path, monkeypatch, damage):
    path = copy_of(any_pack, tmp_path)
    monkeypatch.chdir(tmp_path)
    pack = cinicpack.open_pack(path.name)
    monkeypatch.chdir("/")
    pack.check_unchanged()
    damage(images_file(path))
    message = r"expected \d+ bytes last changed at .*, found \d+ bytes .*: the file was written to"
    with pytest.raises(PackError, match=message) as caught:
        pack.check_unchanged()
    assert images_file(Path(path.name)).name in str(caught.value)


def test_changes_of_the_images_of_a_split(npy_pack, tmp_path):
    path = copy_of(npy_pack, tmp_path)
    pack = cinicpack.open_pack(path)
    change(path / "valid/images-00000.npy")
    pack.check_unchanged("train")
    pack.check_unchanged("train+test")
    change(path / "train/labels.npy")
    pack.check_unchanged("train")
    with pytest.raises(PackError, match=r"valid/images-00000.npy: expected"):
        pack.check_unchanged("train+valid")
    with pytest.raises(SelectionError, match=r"expected a split out of train, .* found 'all'"):
        pack.check_unchanged("all")


def test_a_pack_that_is_deleted_or_replaced_is_not_changed(any_pack, tmp_path):
    path = copy_of(any_pack, tmp_path)
    pack = cinicpack.open_pack(path)
    os.rename(path, tmp_path / "away")
    pack.check_unchanged()
    copy_of(any_pack, tmp_path)
    images_file(path).touch()
    pack.check_unchanged()


def test_a_pack_in_memory_needs_no_file(any_pack, tmp_path):
    path = copy_of(any_pack, tmp_path)
    pack = cinicpack.open_pack(path, in_memory=True)
    expected = np.array(cinicpack.open_pack(any_pack)["train"].images)
    os.truncate(images_file(path), 0)
    pack.check_unchanged()
    np.testing.assert_array_equal(pack["train"].images, expected)
    assert not pack["train"].labels.flags.writeable


def test_the_files_of_a_pack_are_read_only(any_pack):
    files = [any_pack] if any_pack.is_file() else [p for p in any_pack.rglob("*") if p.is_file()]
    assert files
    assert not any(file.stat().st_mode & 0o222 for file in files)


def test_a_pack_in_memory_is_read_once(any_pack):
    first, second = (cinicpack.open_pack(any_pack, in_memory=True) for _ in range(2))
    for name in first:
        assert np.shares_memory(first[name].labels, second[name].labels)


@pytest.mark.parametrize("refusal", [None, errno.EINVAL])
@pytest.mark.parametrize("nbytes", [0, 1, 4096, 12_289])
def test_a_file_is_read_into_memory_in_pieces(tmp_path, monkeypatch, nbytes, refusal):
    data = np.random.default_rng(0).integers(0, 256, nbytes, np.uint8)
    file = tmp_path / "file"
    file.write_bytes(data.tobytes())
    monkeypatch.setattr("cinicpack.store.mapping._PIECE", 4096)
    read = os.preadv
    refused: list[int] = []

    def refuse_once(descriptor: int, rooms: Any, offset: int) -> int:
        if refusal is not None and not refused:
            refused.append(offset)
            raise OSError(refusal, os.strerror(refusal))
        return read(descriptor, rooms, offset)

    monkeypatch.setattr(os, "preadv", refuse_once)
    region = Region(ArraySpec("bytes", np.dtype(np.uint8), (nbytes,)), file, 0)
    found = map_files([region], in_memory=True)[file]
    np.testing.assert_array_equal(np.asarray(found), data)


def test_an_error_of_the_disk_names_the_file(any_pack, monkeypatch):
    def fail(*_: Any) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(OSError, match=r"Input/output error: '.*(npy|h5)'"):
        cinicpack.open_pack(any_pack, in_memory=True)
