import json
import math
import struct
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import cinicpack
from cinicpack.errors import FormatVersionError, PackError
from cinicpack.store.fingerprints import fingerprint_splits
from cinicpack.store.format import (
    HDF5_VERSION,
    PIECE_BYTES,
    Group,
    Manifest,
    Normalization,
    SplitInfo,
    channel_statistics,
    is_split_name,
)
from cinicpack.store.verify import verify_pack
from tests.png_images import png
from tests.store.manifests import resign, sha256, sign

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


@pytest.fixture
def manifest() -> Manifest:
    group = Group(0, 1, 3, (1, 2, 3), (1, 4, 5))
    norm = Normalization((0.1, 0.2, 0.3), (0.4, 0.5, 0.0), "a")
    split = SplitInfo(shards=(2, 1), name_bytes=7, fingerprint="f" * 64, groups=(group,))
    digest = ("d" * 64,)
    arrays = ("images-00000", "images-00001", "labels", "sources", "names")
    return Manifest(
        image_shape=(4, 5, 3),
        classes=("x", "y"),
        normalization=norm,
        splits={"a": split},
        fingerprint=fingerprint_splits({"a": "f" * 64}),
        arrays={f"a/{name}": digest for name in arrays},
        skipped=(("a/x/1.png", "broken"),),
    )


def test_a_manifest_survives_writing_and_reading(manifest):
    assert Manifest.from_json(manifest.to_json(), "x") == manifest
    written = replace(manifest, offsets=dict.fromkeys(manifest.arrays, 2**40))
    assert Manifest.from_json(written.to_json(), "x", version=HDF5_VERSION) == written


@given(st.lists(st.text(min_size=1, max_size=60), min_size=1), st.text(), st.text())
def test_any_text_survives_in_a_manifest(names, path, reason):
    classes = tuple({f"c{name.replace('/', '').replace(chr(0), '')}" for name in names})
    written = Manifest(
        image_shape=(1, 1, 3),
        classes=classes,
        normalization=Normalization((0, 0, 0), (0, 0, 0), "train"),
        splits={"train": SplitInfo((1,), 1, "f" * 64, (Group(0, 0, 1, (0, 0, 0), (0, 0, 0)),))},
        fingerprint=fingerprint_splits({"train": "f" * 64}),
        arrays={f"train/{x}": ("d" * 64,) for x in DATA},
        skipped=((path, reason),),
    )
    assert Manifest.from_json(written.to_json(), "x") == written


def test_arrays_have_the_specified_types_and_shapes(manifest):
    specs = [(spec.name, spec.dtype.str, spec.shape, spec.nbytes) for spec in manifest.specs()]
    assert specs == [
        ("a/images-00000", "|u1", (2, 3, 4, 5), 120),
        ("a/images-00001", "|u1", (1, 3, 4, 5), 60),
        ("a/labels", "|u1", (3,), 3),
        ("a/sources", "|V9", (3,), 27),
        ("a/names", "|S7", (3,), 21),
    ]
    many = replace(manifest, classes=tuple(map(str, range(257))))
    assert [spec.dtype.str for spec in many.specs()][2] == "<u2"


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"[" * 100_000, b'{"a": 1e', b"9" * 5000])
def test_what_is_no_json_is_refused(text):
    with pytest.raises(PackError, match=r"^here: expected JSON, found .*; pack it again"):
        Manifest.from_json(text, "here")


@pytest.mark.parametrize("text", [b"[]", b"1", b"null", b"{}", b'{"format": "zarr"}'])
def test_other_json_is_refused(text):
    with pytest.raises(
        PackError, match=r"^here: expected the manifest of a pack, found other JSON"
    ):
        Manifest.from_json(text, "here")


@pytest.mark.parametrize("version", [2, 99, 0, "1", None, [1], True, 1.0, 1e400, "9" * 10**6])
def test_another_version_is_refused_saying_what_is_needed(manifest, version):
    content = json.loads(manifest.to_json())
    text = resign({**content, "version": version})
    with pytest.raises(FormatVersionError, match=r"^here: .*version .*reads version 1; open") as e:
        Manifest.from_json(text, "here")
    assert len(str(e.value)) < 200


def test_lists_in_lists_are_refused_however_deep(manifest):
    # At one depth, which depends on the stack, they can be read but not be hashed.
    for depth in range(2, 1000):
        text = manifest.to_json().replace(b'"broken"', b"[" * depth + b"]" * depth)
        with pytest.raises(PackError, match=r"^here: "):
            Manifest.from_json(text, "here")


def test_any_change_is_refused(manifest):
    text = manifest.to_json()
    for old, new in [
        (b'"shards": [2, 1]', b'"shards": [1, 2]'),
        (b'"x", "y"', b'"x", "z"'),
        (b"0.4", b"0.7"),
        (b"ddd", b"ddc"),
        (b"broken", b"brokem"),
        (b'"skipped"', b'"Skipped"'),
    ]:
        assert old in text
        with pytest.raises(PackError, match=r"^here: the manifest was changed or damaged"):
            Manifest.from_json(text.replace(old, new, 1), "here")


@pytest.mark.parametrize(
    "changed",
    [
        {"image_shape": [4, 5]},
        {"image_shape": [4, 5, 1]},
        {"image_shape": [4, 0, 3]},
        {"image_shape": [4, -5, 3]},
        {"image_shape": [4, 5.0, 3]},
        {"image_shape": [True, 5, 3]},
        {"image_shape": None},
        {"piece_bytes": 1},
        {"splits": {}},
        {"splits": []},
        {"arrays": {}},
        {"classes": ["x", "../../etc"]},
        {"classes": ["x", ".."]},
        {"classes": ["x", ""]},
        {"classes": ["x", "a\0"]},
        {"classes": 3},
        {"classes": ["x", 3]},
        {"classes": ["x", "x"]},
        {"classes": ["x", "y" * 10**6]},
        {"classes": ["x", "é" * 128]},
        {"classes": ["x", "\ud800"]},
        {"classes": ["x", "\udcc3\udca9"]},
        {"classes": "xy"},
        {"image_shape": [2**32, 5, 3]},
        {"image_shape": [10**400, 5, 3]},
        {"normalization": {"mean": [0, 0], "std": [0, 0, 0], "origin": "a"}},
        {"normalization": {"mean": [0, 0, 10**400], "std": [0, 0, 0], "origin": "a"}},
        {"normalization": {"mean": [0, 0, -0.1], "std": [0, 0, 0], "origin": "a"}},
        {"normalization": {"mean": [0, 0, 0], "std": [0, 0, math.nan], "origin": "a"}},
        {"normalization": {"mean": [0, 0, 0], "std": [0, 0, math.inf], "origin": "a"}},
        {"normalization": {"mean": [0, 0, 0], "std": [0, 0, 0.6], "origin": "a"}},
        {"normalization": {"mean": [0, 0, True], "std": [0, 0, 0], "origin": "a"}},
        {"normalization": {"mean": ["0", 0, 0], "std": [0, 0, 0], "origin": "a"}},
        {"normalization": {"mean": [0, 0, 0], "std": [0, 0, 0], "origin": "b"}},
        {"normalization": {"mean": [0, 0, 0], "std": [0, 0, 0], "origin": ["a"]}},
        {"normalization": {}},
        {"skipped": [1]},
        {"skipped": [["a"]]},
        {"skipped": [["a", 1]]},
        {"skipped": {}},
        {"fingerprint": "e" * 64},
        {"fingerprint": None},
        {"offsets": {}},
        {"more": 1},
    ],
)
def test_a_signed_manifest_that_makes_no_sense_is_refused(manifest, changed):
    content = json.loads(manifest.to_json())
    with pytest.raises(PackError, match=r"^here: not a valid manifest .*; pack again"):
        Manifest.from_json(resign({**content, **changed}), "here")


@pytest.mark.parametrize(
    "changed",
    [
        {"shards": []},
        {"shards": [3, 0]},
        {"shards": [-1, 4]},
        {"shards": [PIECE_BYTES, 1]},
        {"shards": ["3"]},
        {"name_bytes": 0},
        {"groups": [[0, 0]]},
        {"groups": []},
        {"groups": ["123456789"]},
        {"groups": [[0, 0, 3, *6 * [1.5]]]},
        {"groups": [[0, 0, 3, *5 * [1], -1]]},
        {"groups": [[0, 0, 2, *6 * [1]]]},
        {"groups": [[0, 0, 3, *6 * [1]], [0, 1, 0, *6 * [1]]]},
        {"groups": [[99, 0, 3, *6 * [1]]]},
        {"groups": [[0, 0, 3, *7 * [1]]]},
        {"groups": [[0, 1, 3, 256, 2, 3, 256, 4, 5]]},
        {"groups": [[0, 1, 3, 10**400, 2, 3, 10**400, 4, 5]]},
        {"groups": [[0, 1, 3, 15301, 2, 3, 15301 * 255, 4, 5]]},
        {"groups": [[0, 1, 3, 2, 2, 3, 1, 4, 5]]},
        {"groups": [[0, 1, 3, 2, 2, 3, 3, 4, 5]]},
        {"groups": [[0, 1, 3, 100, 2, 3, 150, 4, 5]]},
        {"groups": [[0, 4, 3, 1, 2, 3, 1, 4, 5]]},
        {"groups": [[0, 1, 1, 1, 2, 3, 1, 4, 5], [0, 1, 2, 1, 2, 3, 1, 4, 5]]},
        {"groups": [[1, 1, 1, 1, 2, 3, 1, 4, 5], [0, 1, 2, 1, 2, 3, 1, 4, 5]]},
        {"shards": [10**400]},
        {"name_bytes": 10**400},
        {"name_bytes": 2**31},
        {"fingerprint": "F" * 64},
        {"fingerprint": None, "groups": None},
        {"more": 1},
    ],
)
def test_a_signed_split_that_makes_no_sense_is_refused(manifest, changed):
    content = json.loads(manifest.to_json())
    content["splits"]["a"].update(changed)
    with pytest.raises(PackError, match=r"^here: not a valid manifest"):
        Manifest.from_json(resign(content), "here")


@pytest.mark.parametrize("name", ["b/labels", "a/images-00002", "labels", "a/labels"])
def test_the_arrays_are_those_of_the_splits(manifest, name):
    content = json.loads(manifest.to_json())
    if content["arrays"].pop(name, None) is None:
        content["arrays"][name] = ["d" * 64]
    with pytest.raises(PackError, match=rf"not a valid manifest \(arrays: .*{name[-6:]}"):
        Manifest.from_json(resign(content), "here")


@pytest.mark.parametrize("pieces", [[], ["d" * 63], ["D" * 64], [1], 2 * ["d" * 64], "d" * 64])
def test_the_digests_of_an_array_are_those_of_its_pieces(manifest, pieces):
    content = json.loads(manifest.to_json())
    content["arrays"]["a/labels"] = pieces
    with pytest.raises(PackError, match=r"not a valid manifest \(expected .*a/labels"):
        Manifest.from_json(resign(content), "here")


@pytest.mark.parametrize("offset", [-1, 1.0, None, "4096", True])
def test_the_offsets_of_arrays_are_whole_numbers(manifest, offset):
    written = replace(manifest, offsets=dict.fromkeys(manifest.arrays, 2**40))
    content = json.loads(written.to_json())
    content["offsets"]["a/labels"] = offset
    with pytest.raises(PackError, match=r"not a valid manifest \(expected offsets"):
        Manifest.from_json(resign(content), "here", version=HDF5_VERSION)


def test_a_split_without_images_is_refused(manifest):
    content = json.loads(manifest.to_json())
    content["splits"]["a"]["shards"] = []
    with pytest.raises(PackError, match=r"not a valid manifest .*shards of a"):
        Manifest.from_json(resign(content), "here")


BAD_SPLITS = [
    "x" * 256,
    "\ud800",
    "",
    ".",
    "..",
    "../a",
    "a/b",
    "/etc",
    ".hidden",
    "a+b",
    "a\\b",
    "a\0",
    "pack.json",
]


@pytest.mark.parametrize("name", [*BAD_SPLITS, "\udcff"])
def test_a_split_cannot_lead_out_of_the_pack(manifest, name):
    assert not is_split_name(name)
    content = json.loads(manifest.to_json())
    content["splits"] = {name: content["splits"]["a"]}
    content["arrays"] = {f"{name}/{key[2:]}": value for key, value in content["arrays"].items()}
    with pytest.raises(PackError, match=r"not a valid manifest .*split name"):
        Manifest.from_json(resign(content), "here")


@pytest.mark.parametrize("name", ["train", "a b", "é", "a.b", "-", "train 2"])
def test_visible_folders_can_be_splits(name):
    assert is_split_name(name)


@given(
    st.lists(
        st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=6, max_size=6),
        min_size=1,
        max_size=9,
    ),
    st.integers(1, 8),
)
def test_statistics_are_those_of_the_population(images, cut):
    pixels = np.array(images).reshape(-1, 2, 3, 3)
    parts = [part for part in (pixels[:cut], pixels[cut:]) if len(part)]
    groups = [
        Group(
            label,
            0,
            len(part),
            tuple(part.sum((0, 1, 2)).tolist()),
            tuple((part**2).sum((0, 1, 2)).tolist()),
        )
        for label, part in enumerate(parts)
    ]
    mean, std = channel_statistics(groups, (2, 3, 3))
    np.testing.assert_allclose(mean, (pixels / 255).mean((0, 1, 2)), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(std, (pixels / 255).std((0, 1, 2)), rtol=1e-9, atol=1e-9)


def test_statistics_of_a_full_size_split_are_exact():
    # 90,000 images of 32x32, all 255 but for one channel of one pixel.
    count, pixels = 90_000, 90_000 * 1024
    full = 255 * pixels
    group = Group(
        0, 0, count, (full, full, full - 255), (255 * full, 255 * full, 255 * full - 255**2)
    )
    mean, std = channel_statistics([group], (32, 32, 3))
    assert mean[:2] == (1.0, 1.0)
    assert std[:2] == (0.0, 0.0)
    assert mean[2] == (pixels - 1) / pixels
    assert std[2] == pytest.approx(math.sqrt((pixels - 1) / pixels**2), rel=1e-14)
