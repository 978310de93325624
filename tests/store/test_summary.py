import json
import shutil

import numpy as np
import pytest

import cinicpack
from cinicpack.cinic10 import CLASSES, MEAN, STD
from cinicpack.store.summary import describe_pack, format_summary
from cinicpack.synthetic import write_tree
from tests.packs import make_writable
from tests.png_images import png
from tests.store.manifests import resign


def test_a_description_says_what_the_arrays_hold(any_pack):
    pack = cinicpack.open_pack(any_pack)
    found = describe_pack(pack)
    assert json.loads(json.dumps(found))["bytes"] == found["bytes"]
    assert found["path"] == str(any_pack)
    assert found["format"] == pack.format
    assert found["fingerprint"] == pack.fingerprint
    assert tuple(found["image_shape"]) == (12, 12, 3)
    assert found["normalization"] == {"mean": pack.mean, "std": pack.std, "origin": "train"}
    assert found["skipped"] == []
    assert found["bytes"] == sum(
        np.asarray(getattr(pack[name], field)).nbytes
        for name in pack.splits
        for field in ("images", "labels", "sources", "names")
    )
    assert [*found["splits"]] == ["train", "valid", "test"]
    for name, split in found["splits"].items():
        pixels = np.asarray(pack[name].images) / 255
        np.testing.assert_allclose(split["mean"], pixels.mean((0, 1, 2)), rtol=1e-12)
        np.testing.assert_allclose(split["std"], pixels.std((0, 1, 2)), rtol=1e-9)
        assert split["images"] == 12
        assert split["image_bytes"] == 12 * 12 * 12 * 3
        assert split["shards"] == (3 if "sharded" in str(any_pack.parent.name) else 1)
        assert split["fingerprint"] == pack[name].fingerprint
        assert split["classes"] == {"airplane": 6, "cat": 6}
        origins = np.bincount(pack[name].sources["origin"], minlength=4).tolist()
        names = ("unknown", "cifar10 train", "cifar10 test", "imagenet")
        expected = {text: count for text, count in zip(names, origins, strict=True) if count}
        assert split["sources"] == expected


def test_the_text_for_people(npy_pack):
    pack = cinicpack.open_pack(npy_pack)
    lines = format_summary(describe_pack(pack)).splitlines()
    total = describe_pack(pack)["bytes"]
    assert lines[0] == f"{npy_pack}: npy pack, 36 images of 12x12, {total:,} bytes"
    assert lines[1].split() == ["fingerprint", pack.fingerprint]
    assert lines[2].startswith("normalization  mean 0.")
    assert lines[2].endswith("(computed on train)")
    cells = [line.split() for line in lines[3:]]
    assert cells[:12] == [
        [],
        ["train", "valid", "test"],
        ["images", "12", "12", "12"],
        ["MB", "in", "memory", "0.0", "0.0", "0.0"],
        ["shards", "1", "1", "1"],
        ["cifar10", "train", "2", "2", "0"],
        ["cifar10", "test", "0", "0", "2"],
        ["imagenet", "10", "9", "10"],
        ["unknown", "0", "1", "0"],
        ["airplane", "6", "6", "6"],
        ["cat", "6", "6", "6"],
        [
            "mean",
            "red",
            *(f"{describe_pack(pack)['splits'][s]['mean'][0]:.6f}" for s in pack.splits),
        ],
    ]
    assert cells[-1] == ["fingerprint", *(pack[s].fingerprint[:12] for s in pack.splits)]
    assert len({len(line) for line in lines[4:]}) == 1


def test_the_published_statistics_are_called_that(tmp_path):
    write_tree(tmp_path / "tree", 1, splits=("train",), size=2)
    with pytest.warns(UserWarning, match=r"like CINIC-10, but with"):
        pack = cinicpack.pack(tmp_path / "tree", tmp_path / "a.pack", progress=False)
    assert pack.classes == CLASSES
    assert (pack.mean, pack.std) == (MEAN, STD)
    text = format_summary(describe_pack(pack))
    figures = "mean 0.478895 0.472278 0.430474  std 0.242058 0.238280 0.258748"
    assert f"{figures}  (published for CINIC-10)\n" in text
    assert describe_pack(pack)["is_cinic10"]


def test_older_packs_keep_the_published_statistics_and_it_is_told(tmp_path):
    # Older packs of other images in CINIC-10's ten classes have them.
    for name in CLASSES:
        (tmp_path / "tree" / name).mkdir(parents=True)
        (tmp_path / "tree" / name / "a.png").write_bytes(png(np.full((2, 2, 3), 51, np.uint16)))
    cinicpack.pack(tmp_path / "tree", tmp_path / "a.pack", progress=False)
    make_writable(tmp_path / "a.pack")
    content = json.loads((tmp_path / "a.pack/pack.json").read_bytes())
    content["normalization"] = {"mean": MEAN, "std": STD, "origin": "published"}
    (tmp_path / "a.pack/pack.json").write_bytes(resign(content))
    pack = cinicpack.open_pack(tmp_path / "a.pack")
    assert (pack.mean, pack.std) == (MEAN, STD)
    assert cinicpack.Loader(pack, num_workers=0).pack.mean == MEAN
    text = format_summary(describe_pack(pack))
    expected = (
        "(published for CINIC-10, which these images are not of; pack again to have their own)"
    )
    assert expected in text


def test_a_split_may_be_called_published(tree, tmp_path):
    shutil.copytree(tree / "valid", tmp_path / "tree" / "published")
    pack = cinicpack.pack(tmp_path / "tree", tmp_path / "a.pack", progress=False)
    assert "(computed on published)" in format_summary(describe_pack(pack))


def test_images_that_were_left_out_are_listed(tree, tmp_path):
    shutil.copytree(tree / "train", tmp_path / "tree")
    (tmp_path / "tree/cat/a.png").write_bytes(b"GIF89a")
    (tmp_path / "tree/cat/b.png").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"2 images that cannot be packed are left out"):
        pack = cinicpack.pack(tmp_path / "tree", tmp_path / "a", skip_bad=True, progress=False)
    found = describe_pack(pack)
    assert [skip["path"] for skip in found["skipped"]] == ["cat/a.png", "cat/b.png"]
    lines = format_summary(found).splitlines()
    assert lines[-3] == "left out when packing: 2 images"
    assert lines[-2] == f"  cat/a.png: {found['skipped'][0]['reason']}"
    assert "GIF89a" in lines[-2]
    assert lines[-1].startswith("  cat/b.png: ")


def test_a_pack_of_resized_images_says_so(tree, tmp_path):
    pack = cinicpack.pack(tree, tmp_path / "a", resize=(6, 8), fit="crop", progress=False)
    found = describe_pack(pack)
    assert found["resize"] == {"size": (6, 8), "filter": "box", "fit": "crop"}
    assert "resized        with filter box and fit crop" in format_summary(found).splitlines()
    assert "images of 6x8" in format_summary(found)
