import os
import resource
import struct
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

import cinicpack
from cinicpack.errors import FormatVersionError, PackError
from cinicpack.store.format import MANIFEST_NAME
from cinicpack.store.hdf5 import Hdf5
from cinicpack.store.reader import find_other, locate_pack
from tests.packs import copy_pack
from tests.store.manifests import FOOTER_BYTES, read_content, resign, sha256, write_content

NO_HDF5 = "no HDF5 that can be read as a pack"
NO_PACK = "HDF5 that is not as a pack was written (something was added, or it is damaged)"


@pytest.fixture
def copy(hdf5_pack, tmp_path) -> Path:
    return copy_pack(hdf5_pack, tmp_path / hdf5_pack.name)


def spans_of(path: Path) -> list[tuple[int, int]]:
    """Say where the arrays are."""
    return [(at, at + spec.nbytes) for spec, _, at in locate_pack(path)[2]]


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


def test_the_manifest_is_a_dataset(hdf5_pack):
    with h5py.File(hdf5_pack, "r") as h5:
        text = h5[MANIFEST_NAME][()].tobytes()
    assert text == cinicpack.open_pack(hdf5_pack).manifest.to_json()


def test_no_hdf5_is_needed_to_open_verify_and_load(hdf5_pack):
    # Every import of h5py fails in this process.
    program = f"""
import sys
sys.modules["h5py"] = None
import cinicpack
from tests.packs import copy_pack
from cinicpack.cli import main
path = {str(hdf5_pack)!r}
loader = cinicpack.Loader(path, "train", batch_size=5, num_workers=0)
print(sum(len(labels) for images, labels in loader))
print(cinicpack.PackedDataset(path, "test")[3][0].size)
assert main(["verify", path]) == main(["info", path]) == 0
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("12\n(12, 12)\n")


@pytest.mark.parametrize("mode", ["r", "r+"])
def test_programs_that_write_nothing_leave_the_file_as_it_is(copy, mode):
    before = copy.read_bytes()
    with h5py.File(copy, mode) as h5:
        assert h5["train/labels"][-1] == 1
    assert copy.read_bytes() == before


@pytest.mark.timeout(60)
def test_every_changed_byte_outside_of_the_arrays_is_found_at_opening(copy):
    # HDF5 would loop for ever, and take half a gigabyte a second, with some of these.
    content = copy.read_bytes()
    outside = np.ones(len(content), bool)
    for start, stop in spans_of(copy):
        outside[start:stop] = False
    random = np.random.default_rng(0)
    # All that are not zero, as most of those between structures are, and some of these.
    chosen = (np.frombuffer(content, np.uint8) != 0) | (random.random(len(content)) < 0.01)
    places = np.flatnonzero(outside & chosen).tolist()
    assert len(places) > 1_000
    with open(copy, "r+b", buffering=0) as file:
        for place, mask in zip(places, random.integers(1, 256, len(places)), strict=True):
            file.seek(place)
            file.write(bytes([content[place] ^ int(mask)]))
            with pytest.raises(PackError) as caught:
                cinicpack.open_pack(copy)
            assert str(caught.value).startswith(str(copy)), place
            file.seek(place)
            file.write(content[place : place + 1])
    assert cinicpack.open_pack(copy).format == "hdf5"


@pytest.mark.parametrize("change", [1, 72, 4096, -1, -72, -2000, -5000, -20_000, -(10**9)])
def test_a_truncated_or_extended_file_is_refused(copy, change):
    content = copy.read_bytes()
    copy.write_bytes((content + bytes(4096))[: max(0, len(content) + change)])
    with pytest.raises(PackError) as caught:
        cinicpack.open_pack(copy)
    assert str(caught.value).startswith(f"{copy}: expected a pack, found ")
    assert find_other(copy) == (NO_PACK if copy.stat().st_size else NO_HDF5)


def test_a_file_with_something_in_its_middle_is_refused(copy):
    content = copy.read_bytes()
    copy.write_bytes(content[:-FOOTER_BYTES] + bytes(5) + content[-FOOTER_BYTES:])
    with pytest.raises(PackError) as caught:
        cinicpack.open_pack(copy)
    assert str(caught.value) == (
        f"{copy}: expected {len(content)} bytes, found {len(content) + 5}; "
        "restore the file or pack again"
    )


def test_a_file_that_cannot_be_opened_for_a_moment_is_not_called_damaged(hdf5_pack):
    cinicpack.open_pack(hdf5_pack)
    # The next descriptor, which there will not be.
    os.close(limit := os.dup(0))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        for call in (Hdf5().open, Hdf5().find_others):
            with pytest.raises(OSError, match="Too many open files"):
                call(hdf5_pack)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"\x89HDF\r\n\x1a\n", bytes(5000)])
def test_what_is_no_hdf5_is_refused(tmp_path, content):
    path = tmp_path / "x.h5"
    path.write_bytes(content)
    expected = r"x.h5: expected a pack, found HDF5 that does not end with the footer of one; if"
    if not content.startswith(b"\x89HDF"):
        expected = (
            r"found a file that is not HDF5 .*; if it holds images, make .* 'cinicpack pack .*x.h5"
        )
    with pytest.raises(PackError, match=expected):
        cinicpack.open_pack(path)
    assert find_other(path) == (NO_PACK if content.startswith(b"\x89HDF") else NO_HDF5)


@pytest.mark.parametrize("name", ["data", MANIFEST_NAME])
def test_other_hdf5_is_refused(tmp_path, name):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as h5:
        h5[name] = np.arange(1000)
    with pytest.raises(PackError, match=r"x.h5: expected a pack, found HDF5 that does not end"):
        cinicpack.open_pack(path)
    assert Hdf5().find_others(path) == [NO_PACK]


def test_what_was_added_to_a_pack_is_found(copy):
    assert Hdf5().find_others(copy) == []
    content = copy.read_bytes()

    def add(change):
        copy.write_bytes(content)
        with h5py.File(copy, "r+") as h5:
            change(h5)
        assert Hdf5().find_others(copy) == [NO_PACK]

    add(lambda h5: h5.create_dataset("results", data=np.arange(3)))
    add(lambda h5: h5.create_dataset("train/mine", data=np.arange(3)))
    add(lambda h5: h5.create_group("runs"))
    add(lambda h5: h5.__setitem__("valid/labels-2", h5py.SoftLink("/valid/labels")))
    add(lambda h5: h5.__setitem__("elsewhere", h5py.ExternalLink("no.h5", "/nowhere")))
    for name in ("/", "test", "test/labels"):
        add(lambda h5, name=name: h5[name].attrs.__setitem__("mine", 1))
    copy.write_bytes(content + b"thesis")
    assert Hdf5().find_others(copy) == [NO_PACK]


def test_damaged_images_and_another_version_are_a_pack_still(copy):
    with h5py.File(copy, "r+") as h5:
        h5["train/images-00000"][0] = 0
    assert Hdf5().find_others(copy) == []
    write_content(copy, {**read_content(copy), "version": 3}, spans_of(copy))
    assert Hdf5().find_others(copy) == []


def test_a_pack_that_was_written_to_is_refused(copy):
    with h5py.File(copy, "r+") as h5:
        h5["results"] = np.arange(3)
    assert Hdf5().find_others(copy) == [NO_PACK]
    with pytest.raises(PackError, match=r"it was cut off or written to: restore it or pack again"):
        cinicpack.open_pack(copy)


def write_former(path: Path, npy: Path, content: dict[str, object]) -> None:
    """Write an HDF5 pack as version 1 had it."""
    with h5py.File(path, "w", libver=("earliest", "v110")) as h5:
        for file in sorted(npy.rglob("*.npy")):
            h5[str(file.relative_to(npy).with_suffix(""))] = np.load(file)
        h5.create_dataset(MANIFEST_NAME, (8192,), np.uint8)
        h5[MANIFEST_NAME][...] = 0
    signed = resign({**content, "file_bytes": path.stat().st_size}).decode()
    # One member a line.
    for key in [*content, "file_bytes", "digest"]:
        signed = signed.replace(f'"{key}": ', f'\n"{key}": ', 1)
    with h5py.File(path, "r+") as h5:
        text = signed.replace(", \n", ",\n").encode().ljust(8192)
        h5[MANIFEST_NAME][...] = np.frombuffer(text, np.uint8)


def test_packs_of_version_1_are_to_be_made_again(tree, npy_pack, tmp_path):
    path = tmp_path / "a.h5"
    write_former(path, npy_pack, read_content(npy_pack))
    with pytest.raises(FormatVersionError) as caught:
        cinicpack.open_pack(path)
    assert str(caught.value) == (
        f"{path}: found an HDF5 pack of format version 1, this cinicpack reads version 2 of them; "
        "pack the images again (--overwrite replaces this file)"
    )
    assert Hdf5().find_others(path) == []
    with h5py.File(path, "r+") as h5:
        h5["results"] = np.arange(3)
    assert Hdf5().find_others(path) != []
    write_former(path, npy_pack, read_content(npy_pack))
    pack = cinicpack.pack(tree, path, format="hdf5", overwrite=True, progress=False)
    assert pack.fingerprint == cinicpack.open_pack(npy_pack).fingerprint


@pytest.mark.parametrize("version", [1, 3, True])
def test_another_version_is_refused(copy, version):
    write_content(copy, {**read_content(copy), "version": version}, spans_of(copy))
    with pytest.raises(FormatVersionError, match=r"h5:pack.json: found .*, .*reads version 2; op"):
        cinicpack.open_pack(copy)


def test_a_manifest_may_be_anywhere(copy):
    content = read_content(copy)
    write_content(copy, {**content, "skipped": [["a", "b"]]}, spans_of(copy))
    assert cinicpack.open_pack(copy).manifest.skipped == (("a", "b"),)


@pytest.mark.parametrize("offset", [0, 5, 10**6, 2**63, 10**400])
def test_arrays_lie_apart_within_the_file(copy, offset):
    content = read_content(copy)
    content["offsets"]["valid/labels"] = offset
    write_content(copy, content, spans_of(copy))
    with pytest.raises(PackError, match=r"; restore the file or pack again") as caught:
        cinicpack.open_pack(copy)
    assert str(caught.value).startswith(f"{copy}:")


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("value", [0, 1, 2**40, 2**64 - 1])
def test_a_footer_that_leads_nowhere_is_refused(copy, number, value):
    content = copy.read_bytes()
    fields = [*struct.unpack("<3Q", content[-56:-32])]
    fields[number] = value
    footer = content[-72:-56] + struct.pack("<3Q", *fields)
    copy.write_bytes(content[:-72] + footer + sha256(footer))
    with pytest.raises(PackError, match=r"; (restore|pack it again)") as caught:
        cinicpack.open_pack(copy)
    assert str(caught.value).startswith(str(copy))


@pytest.mark.parametrize("locking", [None, True, False])
def test_a_pack_opens_while_h5py_has_it_open(hdf5_pack, locking):
    with h5py.File(hdf5_pack, "r", locking=locking):
        assert cinicpack.open_pack(hdf5_pack).format == "hdf5"


@pytest.mark.parametrize("kind", [OSError, ValueError, RuntimeError])
def test_an_error_of_the_system_is_that_alone(tmp_path, monkeypatch, kind):
    # As h5py puts it: two lines, with an address in memory, in an exception of one kind or another.
    text = "Unable to synchronously create file (file write failed: time = Thu Nov 26 21:40:12\n"
    text += ", errno = 5, error message = 'Input/output error', buf = 0x55d0f3a2c4d0)"

    def fail(*_: object, **__: object) -> None:
        raise kind(text)

    monkeypatch.setattr(h5py, "File", fail)
    with pytest.raises(OSError, match=r"^\[Errno 5\] Input/output error: '.*a\.h5'$"):
        Hdf5().create(tmp_path / "a.h5", [])
