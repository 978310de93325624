import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

import cinicpack
from cinicpack.errors import FormatVersionError, PackError
from cinicpack.store import hdf5
from cinicpack.store.format import MANIFEST_NAME
from tests.store.test_format import resign


@pytest.fixture
def copy(hdf5_pack, tmp_path) -> Path:
    return Path(shutil.copy(hdf5_pack, tmp_path))


def test_h5py_reads_what_the_npy_files_hold(hdf5_pack, npy_pack):
    with h5py.File(hdf5_pack, "r") as h5:
        for file in npy_pack.rglob("*.npy"):
            name = str(file.relative_to(npy_pack).with_suffix(""))
            np.testing.assert_array_equal(h5[name][()], np.load(file))


def test_images_start_on_a_page_and_nothing_is_chunked_or_filtered(hdf5_pack):
    with h5py.File(hdf5_pack, "r") as h5:
        for split in ("train", "valid", "test"):
            dataset = h5[f"{split}/images-00000"]
            assert dataset.id.get_offset() % 4096 == 0
            assert dataset.chunks is dataset.compression is None


def test_the_file_is_as_long_as_it_says(hdf5_pack):
    manifest = hdf5.read_manifest(hdf5_pack)
    assert manifest.file_bytes == hdf5_pack.stat().st_size


@pytest.mark.parametrize("change", [1, 4096, -1, -2000, -5000, -(10**9)])
def test_a_truncated_or_extended_file_is_refused(copy, change):
    content = copy.read_bytes()
    copy.write_bytes((content + bytes(4096))[: max(0, len(content) + change)])
    with pytest.raises(PackError) as caught:
        cinicpack.open_pack(copy)
    assert str(caught.value).startswith(f"{copy}: expected ")
    if change > 0:
        assert f"expected {len(content)} bytes, found {len(content) + change}" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"\x89HDF\r\n\x1a\n", bytes(5000)])
def test_what_is_no_hdf5_is_refused(tmp_path, content):
    path = tmp_path / "x.h5"
    path.write_bytes(content)
    expected = r"found one that HDF5 refuses \(.*\); restore the file"
    if not content.startswith(b"\x89HDF"):
        expected = (
            r"found a file that is not HDF5 .*; if it is an archive .* 'cinicpack pack .*x.h5"
        )
    with pytest.raises(PackError, match=expected):
        cinicpack.open_pack(path)
    assert hdf5.find_others(path) == ["no HDF5 that can be read as a pack"]


def test_other_hdf5_is_refused(tmp_path):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as h5:
        h5["data"] = np.arange(10)
    with pytest.raises(PackError, match=r"expected a pack, found HDF5 without pack\.json"):
        cinicpack.open_pack(path)
    assert hdf5.find_others(path) == ["no HDF5 that can be read as a pack"]


def test_what_is_beside_a_pack_is_named(copy):
    assert hdf5.find_others(copy) == []
    with h5py.File(copy, "r+") as h5:
        h5["results"] = np.arange(3)
        h5["runs/a/labels"] = np.arange(3)
        h5["train/mine"] = np.arange(3)
        h5["train/type"] = np.dtype("u1")
        h5["valid/labels-2"] = h5py.SoftLink("/valid/labels")
        h5["elsewhere"] = h5py.ExternalLink("no.h5", "/nowhere")
        h5.attrs["mine"] = h5["test"].attrs["mine"] = h5["test/labels"].attrs["mine"] = 1
    assert hdf5.find_others(copy) == [
        "/ (attributes)",
        "elsewhere (not a dataset)",
        "results",
        "runs/",
        "test (attributes)",
        "test/labels (attributes)",
        "train/mine",
        "train/type (not a dataset)",
        "valid/labels-2 (not a dataset)",
        f"{copy.stat().st_size - hdf5_bytes(copy)} bytes at the end",
    ]


def hdf5_bytes(path: Path) -> int:
    with h5py.File(path, "r") as h5:
        content = json.loads(h5[MANIFEST_NAME][()].tobytes())
    return int(content["file_bytes"])


def test_what_follows_on_a_pack_is_named(copy):
    with open(copy, "ab") as stream:
        stream.write(b"thesis")
    assert hdf5.find_others(copy) == ["6 bytes at the end"]


def test_a_damaged_pack_or_a_newer_one_is_a_pack_still(copy):
    with h5py.File(copy, "r+") as h5:
        h5["train/images-00000"][0] = 0
        content = json.loads(h5[MANIFEST_NAME][()].tobytes())
        text = resign({**content, "version": 2}).ljust(region_size(h5))
        for damage in (text, text[:30].ljust(len(text))):
            h5[MANIFEST_NAME][...] = np.frombuffer(damage, np.uint8)
            h5.flush()
            assert hdf5.find_others(copy) == []
        h5["runs/labels"] = np.arange(3)
        h5.flush()
        assert hdf5.find_others(copy) == ["runs/"]
        h5[MANIFEST_NAME][...] = np.frombuffer(b"{}".ljust(len(text)), np.uint8)
        h5.flush()
        assert hdf5.find_others(copy) == ["a pack.json that is not a pack's"]


@pytest.mark.parametrize(
    "put",
    [
        lambda h5: h5.create_group(MANIFEST_NAME),
        lambda h5: h5.create_dataset(MANIFEST_NAME, data="text"),
        lambda h5: h5.create_dataset(MANIFEST_NAME, data=np.zeros((2, 2), np.uint8)),
        lambda h5: h5.create_dataset(MANIFEST_NAME, data=np.zeros(9, np.int8)),
        lambda h5: h5.create_dataset(MANIFEST_NAME, data=h5py.Empty("u1")),
        lambda h5: h5.create_dataset(MANIFEST_NAME, data=np.zeros(9, np.uint8), chunks=(3,)),
        lambda h5: h5.create_dataset(MANIFEST_NAME, data=np.zeros(9, np.uint8)),
        lambda h5: h5.create_dataset(MANIFEST_NAME, shape=(2**50,), dtype=np.uint8),
        lambda h5: h5.__setitem__(MANIFEST_NAME, h5py.SoftLink("/nowhere")),
        lambda h5: h5.__setitem__(MANIFEST_NAME, h5py.ExternalLink("no.h5", "/nowhere")),
    ],
)
def test_another_thing_in_the_manifests_place_is_refused(tmp_path, put):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as h5:
        put(h5)
    with pytest.raises(PackError) as caught:
        cinicpack.open_pack(path)
    assert str(caught.value).startswith(str(path))


def replace_dataset(path: Path, name: str, **options: object) -> None:
    """Put another dataset in the place of one, with a manifest that knows the new size."""
    with h5py.File(path, "r+") as h5:
        del h5[name]
        if options:
            h5.create_dataset(name, **options)
        region = h5[MANIFEST_NAME]
        content = json.loads(region[()].tobytes())
    with h5py.File(path, "r+") as h5:
        content["file_bytes"] = path.stat().st_size
        h5[MANIFEST_NAME][...] = np.frombuffer(resign(content).ljust(region_size(h5)), np.uint8)


def region_size(h5: h5py.File) -> int:
    size: int = h5[MANIFEST_NAME].size
    return size


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"dataset train/labels is missing"),
        (
            {"data": np.zeros(12, np.int64)},
            r"expected train/labels to be uint8 \(12,\), found int64",
        ),
        ({"data": np.zeros(11, np.uint8)}, r"found uint8 \(11,\)"),
        ({"data": np.zeros((12, 1), np.uint8)}, r"found uint8 \(12, 1\)"),
        ({"data": np.zeros(12, np.uint8), "chunks": (4,)}, r"train/labels contiguous within"),
        (
            {"data": np.zeros(12, np.uint8), "chunks": (4,), "compression": "gzip"},
            r"train/labels contiguous within the file",
        ),
    ],
)
def test_another_dataset_is_refused(copy, options, message):
    replace_dataset(copy, "train/labels", **options)
    with pytest.raises(PackError, match=message) as caught:
        cinicpack.open_pack(copy)
    assert str(caught.value).startswith(f"{copy}: ")


def test_a_newer_version_is_refused(copy):
    with h5py.File(copy, "r+") as h5:
        size = region_size(h5)
        content = json.loads(h5[MANIFEST_NAME][()].tobytes())
        text = resign({**content, "version": 2})
        h5[MANIFEST_NAME][...] = np.frombuffer(text.ljust(size), np.uint8)
    with pytest.raises(FormatVersionError, match=r"found format version 2, .*reads version 1"):
        cinicpack.open_pack(copy)


@pytest.mark.parametrize("locking", [None, True, False])
def test_a_pack_opens_while_h5py_has_it_open(hdf5_pack, locking):
    with h5py.File(hdf5_pack, "r", locking=locking):
        assert cinicpack.open_pack(hdf5_pack).format == "hdf5"
