import io
import json
import os
import shutil
import socket
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

import cinicpack
from cinicpack.errors import PackError
from cinicpack.store.format import PROVENANCE_DTYPE, ArraySpec
from cinicpack.store.npy import Npy, npy_header
from tests.packs import copy_pack
from tests.store.manifests import resign

DTYPES = [np.dtype("u1"), np.dtype("<u2"), PROVENANCE_DTYPE, np.dtype("S1"), np.dtype("S255")]


@given(st.sampled_from(DTYPES), st.lists(st.integers(1, 10**12), min_size=1, max_size=5))
def test_headers_are_those_that_numpy_reads_and_writes(dtype, sizes):
    header = npy_header(ArraySpec("x", dtype, tuple(sizes)))
    assert len(header) % 64 == 0
    stream = io.BytesIO(header)
    assert np.lib.format.read_magic(stream) == (1, 0)
    assert np.lib.format.read_array_header_1_0(stream) == (tuple(sizes), False, dtype)
    assert not stream.read()


def test_numpy_reads_every_file_without_pickle(tree, npy_pack):
    files = sorted(npy_pack.rglob("*.npy"))
    assert len(files) == 12
    for file in files:
        array = np.load(file, allow_pickle=False)
        assert array.flags.c_contiguous
        assert len(array) == 12
    assert np.load(npy_pack / "train/images-00000.npy").shape == (12, 3, 12, 12)


def test_files_are_created_at_full_size(tmp_path):
    specs = [ArraySpec("a/x", np.dtype("u1"), (1000, 7)), ArraySpec("a/y", np.dtype("S3"), (5,))]
    for spec, (same, file, offset) in zip(specs, Npy().create(tmp_path, specs), strict=True):
        assert same == spec
        assert file.stat().st_size == offset + spec.nbytes
        # As many blocks as a file has that was written whole.
        assert file.stat().st_blocks * 512 >= spec.nbytes
        assert not np.load(file).any()
    with pytest.raises(FileExistsError):
        Npy().create(tmp_path, specs[:1])


@pytest.fixture
def copy(npy_pack, tmp_path) -> Path:
    for file in npy_pack.rglob("*"):
        target = tmp_path / file.relative_to(npy_pack)
        if file.is_dir():
            target.mkdir()
        else:
            target.write_bytes(file.read_bytes())
    return Path(tmp_path)


NAMES = ["train/images-00000", "valid/labels", "test/sources", "train/names"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("change", [-1, 1, 4096, -10_000])
def test_a_truncated_or_extended_file_is_refused(copy, name, change):
    file = copy / f"{name}.npy"
    content = file.read_bytes()
    size = max(0, len(content) + change)
    file.write_bytes((content + bytes(4096))[:size])
    with pytest.raises(PackError) as caught:
        cinicpack.open_pack(copy)
    expected = (
        f"{file}: expected {len(content)} bytes, found {size}; restore the file or pack again"
    )
    assert str(caught.value) == expected


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"\x93NUMPY", b"\x92NUMPY"),
        (b"NUMPY\x01\x00", b"NUMPY\x02\x00"),
        (b"'fortran_order': False", b"'fortran_order': True "),
        (b"(12,", b"(21,"),
        (b"|", b">"),
        (b" \n", b"\n\n"),
    ],
)
def test_another_header_is_refused(copy, name, old, new):
    file = copy / f"{name}.npy"
    content = file.read_bytes()
    assert old in content[:128]
    file.write_bytes(content.replace(old, new, 1))
    with pytest.raises(PackError, match=r"expected the header .*, found .*; restore the file") as e:
        cinicpack.open_pack(copy)
    assert str(e.value).startswith(f"{file}: ")


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_named(copy, name):
    file = copy / f"{name}.npy"
    file.unlink()
    for make in (lambda: None, file.mkdir):
        make()
        with pytest.raises(
            PackError, match=r"missing from the pack; restore it or pack again"
        ) as e:
            cinicpack.open_pack(copy)
        assert str(e.value).startswith(f"{file}: ")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", ["pack.json", *(f"{name}.npy" for name in NAMES)])
def test_a_pipe_in_place_of_a_file_is_refused_at_once(copy, name):
    (copy / name).unlink()
    os.mkfifo(copy / name)
    with pytest.raises(PackError, match=r"expected a regular file, found a pipe") as caught:
        cinicpack.open_pack(copy)
    assert str(caught.value).startswith(f"{copy / name}: ")


def test_a_folder_in_place_of_a_split_and_a_file_in_place_of_a_folder(copy):
    for file in (copy / "valid").iterdir():
        file.unlink()
    (copy / "valid").rmdir()
    (copy / "valid").write_bytes(b"")
    with pytest.raises(PackError, match=r"images-00000\.npy: missing from the pack"):
        cinicpack.open_pack(copy)


@pytest.mark.parametrize("make", [lambda path: path.unlink(), None])
def test_a_directory_without_a_manifest_is_no_pack(copy, make):
    file = copy / "pack.json"
    file.unlink()
    if make is None:
        file.mkdir()
    with pytest.raises(PackError, match=r"found a directory without pack\.json; make one with"):
        cinicpack.open_pack(copy)


def test_the_manifest_names_itself_in_errors(copy):
    text = (copy / "pack.json").read_bytes()
    (copy / "pack.json").write_bytes(text.replace(b"airplane", b"airplana", 1))
    with pytest.raises(PackError) as caught:
        cinicpack.open_pack(copy)
    assert str(caught.value).startswith(f"{copy / 'pack.json'}: the manifest was changed")


def test_a_split_that_the_manifest_has_and_the_disk_has_not(copy):
    shutil.rmtree(copy / "train")
    with pytest.raises(PackError, match=r"train/images-00000\.npy: missing"):
        cinicpack.open_pack(copy)


NAME = st.sampled_from(["train", "runs", "labels.npy", "pack.json", "images-00001.npy", "a", ".x"])


@settings(max_examples=30)
@given(
    st.lists(NAME, min_size=1, max_size=3).map("/".join),
    st.sampled_from(["file", "folder", "link"]),
    st.booleans(),
)
def test_anything_beside_a_pack_is_named(npy_pack, path, kind, damaged):
    with TemporaryDirectory() as name:
        copy = Path(name, "a")
        copy_pack(npy_pack, copy)
        if damaged:
            text = (copy / "pack.json").read_bytes()
            (copy / "pack.json").write_bytes(text[:100])
        assert Npy().find_others(copy) == []
        extra = copy / path
        try:
            extra.parent.mkdir(parents=True, exist_ok=True)
            if kind == "link":
                extra.symlink_to(npy_pack)
            elif kind == "folder":
                extra.mkdir()
            else:
                extra.touch(exist_ok=False)
        except OSError:
            # There is such a file or folder in the pack.
            reject()
        # Only a further shard may be of a pack, as far as can be told when the manifest is gone.
        if damaged and kind == "file" and path == "train/images-00001.npy":
            assert Npy().find_others(copy) == []
        else:
            [found] = Npy().find_others(copy)
            assert path.startswith(found.removesuffix(" (not a file)").rstrip("/"))


def test_a_damaged_pack_or_a_newer_one_is_a_pack_still(copy):
    manifest = copy / "pack.json"
    text = manifest.read_bytes()
    newer = resign({**json.loads(text), "version": 2})
    for damage in (newer, text[:100], text.replace(b"airplane", b"airplana")):
        manifest.write_bytes(damage)
        assert Npy().find_others(copy) == []
    (copy / "train/labels.npy").write_bytes(b"")
    assert Npy().find_others(copy) == []
    # Without a manifest that can be read, a folder with one array may be of anything.
    (copy / "train/names.npy").unlink()
    assert Npy().find_others(copy) == ["train/"]
    manifest.write_bytes(text)
    assert Npy().find_others(copy) == []
    shutil.rmtree(copy / "valid")
    assert Npy().find_others(copy) == []
    for other in (b"", b"{}", b'{"name": "cinicpack"}', b'{"format": "cinicpacks"}', b"\0" * 99):
        manifest.write_bytes(other)
        assert Npy().find_others(copy) == ["a pack.json that is not a pack's"]
    manifest.unlink()
    assert Npy().find_others(copy) == ["no pack.json in it"]
    manifest.mkdir()
    assert Npy().find_others(copy) == ["no pack.json in it"]


def bind(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("make", [os.mkfifo, bind, lambda path: path.symlink_to(path)])
def test_what_is_no_file_in_place_of_the_manifest_is_not_read(copy, make, monkeypatch):
    # The path of a socket has 107 bytes at most.
    monkeypatch.chdir(copy)
    (copy / "pack.json").unlink()
    make(copy / "pack.json")
    assert Npy().find_others(copy) == ["no pack.json in it"]
