import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cinicpack.errors import FormatVersionError, PackError
from cinicpack.store.fingerprints import fingerprint_splits
from cinicpack.store.format import HDF5_VERSION, PIECE_BYTES, is_split_name
from cinicpack.store.manifest import (
    Group,
    Manifest,
    Normalization,
    Resize,
    SplitInfo,
    channel_statistics,
)
from tests.store.manifests import resign


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


def test_a_manifest_has_a_word_of_resizing_where_images_were(manifest):
    assert b"resize" not in manifest.to_json()
    resized = replace(manifest, resize=Resize((4, 5), "bicubic", "crop"))
    text = resized.to_json()
    assert json.loads(text)["resize"] == {"size": [4, 5], "filter": "bicubic", "fit": "crop"}
    assert Manifest.from_json(text, "here") == resized


@given(st.lists(st.text(min_size=1, max_size=60), min_size=1), st.text(), st.text())
def test_any_text_survives_in_a_manifest(names, path, reason):
    classes = tuple({f"c{name.replace('/', '').replace(chr(0), '')}" for name in names})
    written = Manifest(
        image_shape=(1, 1, 3),
        classes=classes,
        normalization=Normalization((0, 0, 0), (0, 0, 0), "train"),
        splits={"train": SplitInfo((1,), 1, "f" * 64, (Group(0, 0, 1, (0, 0, 0), (0, 0, 0)),))},
        fingerprint=fingerprint_splits({"train": "f" * 64}),
        arrays={f"train/{x}": ("d" * 64,) for x in ("images-00000", "labels", "sources", "names")},
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
        {"resize": None},
        {"resize": {"size": [4, 5], "filter": "box"}},
        {"resize": {"size": [5, 4], "filter": "box", "fit": "crop"}},
        {"resize": {"size": [4, 5], "filter": "nearest", "fit": "crop"}},
        {"resize": {"size": [4, 5], "filter": "box", "fit": ["crop"]}},
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
