import json
import math
import struct
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

import cinicpack
from cinicpack.store.format import is_split_name
from cinicpack.store.verify import verify_pack
from tests.png_images import png
from tests.store.manifests import sha256, sign

# Two images of one row and two columns in each of two classes: red, green, blue, red, ...
GOLDEN = {
    "ant/b.png": [[[1, 2, 3], [4, 5, 6]]],
    "ant/cifar10-test-258.png": [[[7, 8, 9], [10, 11, 12]]],
    "bee/n02691156_10153.png": [[[13, 14, 15], [16, 17, 18]]],
    "bee/é.png": [[[255, 0, 255], [0, 255, 0]]],
}
PLANES = bytes(
    [1, 4, 2, 5, 3, 6, 7, 10, 8, 11, 9, 12, 13, 16, 14, 17, 15, 18, 255, 0, 0, 255, 255, 0]
)
LABELS = bytes([0, 0, 1, 1])
# origin, synset and number; 2691156 is 0x291054 and 10153 is 0x27A9.
SOURCES = b"".join(
    (
        b"\x00" + b"\x00\x00\x00\x00" + b"\x00\x00\x00\x00",
        b"\x02" + b"\x00\x00\x00\x00" + b"\x02\x01\x00\x00",
        b"\x03" + b"\x54\x10\x29\x00" + b"\xa9\x27\x00\x00",
        b"\x00" + b"\x00\x00\x00\x00" + b"\x00\x00\x00\x00",
    )
)
NAMES = b"".join(
    name.ljust(20, b"\0")
    for name in (b"b.png", b"cifar10-test-258.png", b"n02691156_10153.png", b"\xc3\xa9.png")
)
HEADERS = {
    "images-00000": "{'descr': '|u1', 'fortran_order': False, 'shape': (4, 3, 1, 2), }",
    "labels": "{'descr': '|u1', 'fortran_order': False, 'shape': (4,), }",
    "sources": "{'descr': [('origin', '|u1'), ('synset', '<u4'), ('number', '<u4')], "
    "'fortran_order': False, 'shape': (4,), }",
    "names": "{'descr': '|S20', 'fortran_order': False, 'shape': (4,), }",
}
# What today's readers must read for ever: a pack of version 1, made by the first release.
GOLDEN_PACK = Path(__file__).parent / "golden"
DATA = {"images-00000": PLANES, "labels": LABELS, "sources": SOURCES, "names": NAMES}


@pytest.fixture(scope="module")
def golden_tree(tmp_path_factory) -> Path:
    root: Path = tmp_path_factory.mktemp("golden")
    for name, pixels in GOLDEN.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(png(np.array(pixels, np.uint16)))
    return root


def with_length(text: bytes) -> bytes:
    return len(text).to_bytes(4, "little") + text


def golden_fingerprint() -> str:
    digests = []
    for path, pixels in GOLDEN.items():
        class_name, name = path.encode().split(b"/")
        shape = b"\x01\x00\x00\x00\x02\x00\x00\x00\x03\x00\x00\x00"
        flat = bytes(value for row in pixels for pixel in row for value in pixel)
        digests.append(sha256(with_length(class_name), with_length(name), shape, flat))
    return sha256(*sorted(digests)).hex()


def golden_manifest(offsets: dict[str, int] | None = None) -> str:
    """Write the manifest out again, as the specification has it."""
    split = golden_fingerprint()
    pack = sha256(with_length(b"train"), bytes.fromhex(split)).hex()
    # Mean and standard deviation of each channel over all eight pixels.
    values = np.array([*GOLDEN.values()]).reshape(8, 3)
    norm = {
        "mean": [sum(channel) / (255 * 8) for channel in values.T.tolist()],
        "std": [
            math.sqrt((8 * sum(v * v for v in channel) - sum(channel) ** 2) / (255 * 8) ** 2)
            for channel in values.T.tolist()
        ],
        "origin": "train",
    }
    groups = [
        [0, 0, 1, 1 + 4, 2 + 5, 3 + 6, 1 + 16, 4 + 25, 9 + 36],
        [0, 2, 1, 7 + 10, 8 + 11, 9 + 12, 49 + 100, 64 + 121, 81 + 144],
        [1, 0, 1, 255, 255, 255, 65025, 65025, 65025],
        [1, 3, 1, 13 + 16, 14 + 17, 15 + 18, 169 + 256, 196 + 289, 225 + 324],
    ]
    content: dict[str, object] = {
        "format": "cinicpack",
        "version": 1 if offsets is None else 2,
        "image_shape": [1, 2, 3],
        "classes": ["ant", "bee"],
        "normalization": norm,
        "splits": {
            "train": {"shards": [4], "name_bytes": 20, "fingerprint": split, "groups": groups}
        },
        "fingerprint": pack,
        "piece_bytes": 16777216,
        "arrays": {f"train/{field}": [sha256(data).hex()] for field, data in DATA.items()},
        "skipped": [],
    }
    if offsets is not None:
        content["offsets"] = offsets
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    content["digest"] = sha256(canonical.encode()).hex()
    return "{\n" + ",\n".join(f'"{k}": {json.dumps(v)}' for k, v in content.items()) + "\n}\n"


def test_every_byte_of_an_npy_pack_is_as_specified(golden_tree, tmp_path):
    cinicpack.pack(golden_tree, tmp_path / "golden.pack", progress=False)
    files = {
        path.relative_to(tmp_path / "golden.pack").as_posix(): path.read_bytes()
        for path in (tmp_path / "golden.pack").rglob("*")
        if path.is_file()
    }
    expected = {"pack.json": golden_manifest().encode()}
    for field, data in DATA.items():
        header = HEADERS[field].encode()
        header += b" " * (-(len(header) + 11) % 64) + b"\n"
        start = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header))
        expected[f"train/{field}.npy"] = start + header + data
    assert files == expected
    for name, content in expected.items():
        assert (GOLDEN_PACK / name).read_bytes() == content


def test_npy_packs_of_version_1_open_for_ever():
    pack = cinicpack.open_pack(GOLDEN_PACK)
    assert pack.classes == ("ant", "bee")
    assert pack.fingerprint == "077b7646581faf85cd4fa1d3640a8fa83a514b12bdf81ff31b9e592c6ee90f69"
    assert pack.mean == (0.15, 0.15294117647058825, 0.15588235294117647)
    split = pack["train"]
    np.testing.assert_array_equal(split.images, [*GOLDEN.values()])
    assert split.labels.tobytes() == LABELS
    assert split.sources.tobytes() == SOURCES
    assert split.names.tobytes() == NAMES
    assert verify_pack(GOLDEN_PACK) == (len(PLANES + LABELS + SOURCES + NAMES), [])


def test_an_hdf5_pack_is_as_specified(golden_tree, tmp_path):
    path = tmp_path / "golden.h5"
    cinicpack.pack(golden_tree, path, format="hdf5", progress=False)
    content = path.read_bytes()
    with h5py.File(path, "r") as h5:
        assert set(h5) == {"train", "pack.json"}
        assert set(h5["train"]) == set(DATA)
        for field, data in DATA.items():
            dataset = h5["train"][field]
            assert dataset.chunks is None
            assert dataset.compression is None
            assert dataset[()].tobytes() == data
            offset = dataset.id.get_offset()
            assert content[offset : offset + len(data)] == data
        assert h5["train/images-00000"].shape == (4, 3, 1, 2)
        fields = [("origin", "|u1"), ("synset", "<u4"), ("number", "<u4")]
        assert h5["train/sources"].dtype.descr == fields
        assert h5["pack.json"].dtype == np.uint8
        text = h5["pack.json"][()].tobytes()
        start = h5["pack.json"].id.get_offset()
        names = [f"train/{field}" for field in DATA]
        offsets = {name: h5[name].id.get_offset() for name in names}
    assert text == golden_manifest(offsets).encode()
    spans = [(offsets[name], offsets[name] + len(DATA[name[6:]])) for name in names]
    assert content == sign(content[:-72], spans, start, len(text))
    # The end of the address space, in HDF5's superblock.
    assert struct.unpack_from("<Q", content, 40) == (len(content),)


def test_fingerprints_are_those_of_the_specification(tree, any_pack):
    pack = cinicpack.open_pack(any_pack)
    splits = {}
    for split in ("train", "valid", "test"):
        digests = []
        for file in (tree / split).rglob("*.png"):
            with Image.open(file) as image:
                pixels = np.asarray(image.convert("RGB"))
            shape = b"".join(size.to_bytes(4, "little") for size in pixels.shape)
            head = with_length(file.parent.name.encode()) + with_length(file.name.encode())
            digests.append(sha256(head, shape, pixels.tobytes()))
        splits[split] = sha256(*sorted(digests))
        assert pack[split].fingerprint == splits[split].hex()
    parts = [with_length(name.encode()) + digest for name, digest in sorted(splits.items())]
    assert pack.fingerprint == sha256(*parts).hex()


@pytest.mark.parametrize("name", ["train", "a b", "é", "a.b", "-", "train 2"])
def test_visible_folders_can_be_splits(name):
    assert is_split_name(name)
