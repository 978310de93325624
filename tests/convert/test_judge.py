import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

import cinicpack
from cinicpack import cinic10
from cinicpack.cinic10 import CLASSES
from cinicpack.convert.packer import Pace
from cinicpack.errors import BadImagesError, SourceError
from cinicpack.store.summary import describe_pack
from cinicpack.store.verify import verify_pack
from cinicpack.study.unpack import unpack
from cinicpack.synthetic import write_tree
from tests.convert.sources_here import (
    ANT_CAT,
    bytes_of,
    make_source,
    make_tar,
    pack,
    pack_slowly,
    put,
    tiny,
)
from tests.png_images import SIGNATURE, chunk, header, png, random_samples

# Images that cannot be packed.

GOOD = {f"{s}/{c}/{n}.png": tiny(n) for s in ("test", "train") for c in "ab" for n in range(3)}
WHOLE = tiny(77)
BOMB = SIGNATURE + chunk(b"IHDR", header(60_000, 60_000)) + chunk(b"IDAT", b"") + chunk(b"IEND")
BAD = {
    "test/a/2x3.png": (tiny(1, 2, 3), "has 2x3 pixels (height x width), most images 2x2"),
    "test/a/bomb.png": (BOMB, "too large: it is 60000x60000 pixels"),
    "test/b/9x9.png": (tiny(1, 9, 9), "has 9x9 pixels (height x width), most images 2x2"),
    "train/a/cut.png": (WHOLE[:-20], "truncated"),
    "train/a/gif.png": (
        b"GIF89a",
        "no PNG, JPEG, PPM, BMP, TIFF or WebP file: it starts with b'GIF89a'",
    ),
    "train/b/crc.png": (WHOLE[:-25] + bytes([WHOLE[-25] ^ 1]) + WHOLE[-24:], "CRC mismatch"),
    "train/b/empty.png": (b"", "truncated: it ends at byte 0"),
}


@pytest.fixture
def bad_tree(tmp_path) -> Path:
    return put(tmp_path / "tree", {**GOOD, **{path: content for path, (content, _) in BAD.items()}})


def check_listed(found: list[tuple[str, str]]) -> None:
    assert [path for path, _ in found] == sorted(BAD)
    for path, reason in found:
        assert BAD[path][1] in reason


@pytest.mark.parametrize("num_workers", [0, 2])
def test_all_bad_images_are_listed_and_nothing_is_published(bad_tree, tmp_path, num_workers):
    with pytest.raises(BadImagesError) as caught:
        pack_slowly(bad_tree, tmp_path / "a.pack", num_workers=num_workers)
    check_listed(caught.value.images)
    first, *lines = str(caught.value).splitlines()
    assert first == (
        f"{bad_tree}: 7 of 19 images cannot be packed; repair them, give all images one size "
        "with --resize 32 (resize=32), or leave them out with --skip-bad (skip_bad=True):"
    )
    assert lines == [f"  {path}: {reason}" for path, reason in caught.value.images]
    assert os.listdir(tmp_path) == ["tree"]


def test_bad_images_are_left_out_on_request(bad_tree, tmp_path):
    make_tar(bad_tree, tmp_path / "a.tar.gz", "./top/", "w:gz")
    (tmp_path / "nested").mkdir()
    shutil.copytree(bad_tree, tmp_path / "nested/top")
    good = pack_slowly(put(tmp_path / "good", GOOD), tmp_path / "good.pack")
    packs = []
    for number, source in enumerate(["tree", "a.tar.gz", "nested"]):
        with pytest.warns(UserWarning, match=r"7 images that cannot be packed are left out"):
            packs.append(pack_slowly(tmp_path / source, tmp_path / f"{number}.pack", skip_bad=True))
    for one in packs:
        check_listed([*one.manifest.skipped])
        assert one.fingerprint == good.fingerprint
        assert bytes_of(one.path) == bytes_of(packs[0].path)
    assert good.manifest.skipped == ()


def test_what_is_no_file_is_bad_too(tmp_path):
    put(tmp_path / "tree", GOOD)
    (tmp_path / "tree/test/a/self.png").symlink_to("self.png")
    os.mkfifo(tmp_path / "tree/test/b/pipe.png")
    with pytest.raises(BadImagesError) as caught:
        pack(tmp_path / "tree", tmp_path / "a")
    circle, pipe = caught.value.images
    assert circle == ("test/a/self.png", "Too many levels of symbolic links")
    assert pipe == ("test/b/pipe.png", "expected a regular file, found a named pipe")


def test_bad_images_of_other_splits_do_not_matter(bad_tree, tmp_path):
    put(bad_tree, {f"fine/{c}/1.png": tiny(1) for c in "ab"})
    for source in (bad_tree, make_tar(bad_tree, tmp_path / "a.tar")):
        fine = pack(source, tmp_path / f"{source.name}.pack", splits=["fine"])
        assert len(fine["fine"]) == 2
        with pytest.raises(BadImagesError, match=r"4 of 12 images cannot be packed"):
            pack(source, tmp_path / "a", splits=["train", "fine"])


def test_images_of_16_bits_are_told_if_they_are_kept(tmp_path):
    deep = png(random_samples(2, 16, 2, 2), 2, 16)
    put(tmp_path / "tree", {f"{s}/a/{n}.png": WHOLE for s in ("test", "train") for n in range(9)})
    put(tmp_path / "tree", {f"test/a/{n}.png": deep for n in (3, 7)})
    archive = make_tar(tmp_path / "tree", tmp_path / "a.tar")
    pack_slowly(archive, tmp_path / "train", splits=["train"])
    for source in (archive, tmp_path / "tree"):
        with pytest.warns(UserWarning, match=r"2 images have 16 bits .* first is test/a/[37]\.png"):
            pack_slowly(source, tmp_path / f"{source.name}.pack")


def test_the_first_of_many_bad_images_are_shown_and_all_are_told(tmp_path):
    put(tmp_path / "tree", {f"a/{n:02}.png": b"" for n in range(25)} | {"a/x.png": WHOLE})
    with pytest.raises(BadImagesError) as caught:
        pack(tmp_path / "tree", tmp_path / "b")
    lines = str(caught.value).splitlines()
    assert len(lines) == 22
    assert lines[-1] == "  and 5 more"
    assert len(caught.value.images) == 25


def test_where_nothing_is_left_nothing_is_packed(tmp_path):
    put(tmp_path / "tree", {"train/a/1.png": WHOLE, "test/a/1.png": b""})
    with pytest.raises(BadImagesError, match=r"no image of split 'test' can be packed"):
        pack(tmp_path / "tree", tmp_path / "b", skip_bad=True)
    (tmp_path / "tree/train/a/1.png").write_bytes(b"")
    with pytest.raises(BadImagesError, match=r"2 of 2 images cannot be packed; repair them:"):
        pack(tmp_path / "tree", tmp_path / "b", skip_bad=True)
    assert os.listdir(tmp_path) == ["tree"]


def test_workers_that_had_bad_images_only(tmp_path):
    # Nothing of the second can be kept, and of the third less than an image.
    put(tmp_path / "tree", {"a/1.png": WHOLE, "a/2.png": b"", "a/3.png": tiny(1, 3, 1)})
    with pytest.warns(UserWarning, match=r"2 images that cannot be packed are left out"):
        one = pack_slowly(
            tmp_path / "tree", tmp_path / "b", Pace(task_images=1), skip_bad=True, num_workers=3
        )
    assert one["train"].names.tolist() == [b"1.png"]


# What is missing.


@pytest.mark.parametrize("kind", ["tree", "tar", "tar.gz", "zip"])
@pytest.mark.parametrize(
    ("files", "empty", "told"),
    [
        ({}, ["train/bee", "test/bee"], "no images in 'train/bee', 'test/bee'"),
        ({}, ["train/bee/deep"], "no images in 'train/bee', 'test/bee'"),
        ({"train/bee/1.png": tiny(9)}, [], "no images in 'test/bee'"),
        ({"train/bee/README": b""}, [], "no images in 'train/bee', 'test/bee'"),
        ({"train/bee/1.gif": b""}, [], "no images in 'train/bee', 'test/bee'"),
    ],
)
def test_what_is_missing_is_refused_or_keeps_its_label(tmp_path, kind, files, empty, told):
    source = make_source(kind, {**ANT_CAT, **files}, empty, tmp_path)
    with pytest.raises(SourceError, match=f"^{source}: .*{told}.*--allow-missing") as caught:
        pack(source, tmp_path / "a.pack")
    assert "allow_missing=True" in str(caught.value)
    assert not (tmp_path / "a.pack").exists()
    with warnings.catch_warnings(action="ignore"):
        one = pack(source, tmp_path / "a.pack", allow_missing=True)
    assert one.classes == ("ant", "bee", "cat")
    assert one["test"].labels.tolist() == [0, 0, 2, 2]
    assert not verify_pack(one.path).problems


@pytest.mark.parametrize("container", ["npy", "hdf5"])
def test_a_pack_with_empty_classes_is_as_any_other(tmp_path, container):
    tree = make_source("tree", ANT_CAT, ["train/bee", "test/bee", "test/yak"], tmp_path)
    one = pack(tree, tmp_path / "one", format=container, allow_missing=True)
    assert cinicpack.open_pack(tmp_path / "one").classes == ("ant", "bee", "cat", "yak")
    assert not verify_pack(tmp_path / "one").problems
    shown = describe_pack(one)["splits"]["test"]["classes"]
    assert shown == {"ant": 2, "bee": 0, "cat": 2, "yak": 0}
    loader = cinicpack.Loader(one, "train", shuffle=False, output="numpy", num_workers=0)
    assert [labels.tolist() for _, labels in loader] == [[0, 0, 2, 2]]
    loader.close()
    unpack(one, tmp_path / "made", progress=False)
    assert sorted(os.listdir(tmp_path / "made" / "train")) == ["ant", "bee", "cat", "yak"]
    again = pack(tmp_path / "made", tmp_path / "again", format=container, allow_missing=True)
    assert bytes_of(again.path) == bytes_of(one.path)


@pytest.mark.parametrize("kind", ["tree", "tar"])
def test_some_of_cinic10s_classes_are_refused_or_have_its_labels(tmp_path, kind):
    write_tree(tmp_path / "tree", 1, classes=["dog", "cat"], size=2)
    source = make_source(kind, {}, [], tmp_path)
    with pytest.raises(SourceError, match=r"not its classes airplane, .*, truck\. Add"):
        pack(source, tmp_path / "a")
    with pytest.warns(UserWarning, match=r"like CINIC-10, but with .*0 to 1 images per class"):
        one = pack(source, tmp_path / "a", allow_missing=True)
    assert one.classes == CLASSES
    assert one["valid"].labels.tolist() == [3, 5]
    with pytest.raises(SourceError, match="expected CINIC-10, found"):
        pack(source, tmp_path / "b", allow_missing=True, expect="cinic10")


def test_a_class_of_which_all_images_are_bad_is_not_lost(tmp_path):
    put(tmp_path / "tree", {**ANT_CAT, "test/cat/0.png": b"", "test/cat/1.png": b""})
    with pytest.raises(BadImagesError, match="no image of class 'cat' in split 'test' can be"):
        pack(tmp_path / "tree", tmp_path / "a", skip_bad=True)
    with pytest.warns(UserWarning, match="2 images that cannot be packed are left out"):
        one = pack(tmp_path / "tree", tmp_path / "a", skip_bad=True, allow_missing=True)
    assert one["train"].labels.tolist() == [0, 0, 1, 1]
    assert one["test"].labels.tolist() == [0, 0]


# What is, and is not, CINIC-10.


@pytest.fixture
def cinic(tmp_path, monkeypatch) -> Path:
    """The whole of CINIC-10, had it one image per class and split."""
    write_tree(tmp_path / "cinic", 1)
    monkeypatch.setattr(cinic10, "PER_CLASS", 1)
    return Path(tmp_path / "cinic")


def test_cinic10_is_recognised(cinic, tmp_path):
    for source in (cinic, make_tar(cinic, tmp_path / "a.tar")):
        one = pack(source, tmp_path / f"{source.name}.pack", expect="cinic10")
        assert (one.mean, one.std) == (cinic10.MEAN, cinic10.STD)
        assert one.manifest.normalization.origin == "published"
        assert np.unique(one["train"].sources["origin"]).tolist() == [cinic10.Origin.IMAGENET]
    pack(cinic, tmp_path / "some", splits=["valid"], expect="cinic10")


def _add(tree: Path, name: str, content: bytes | None = None) -> None:
    put(tree, {name: content or next(tree.rglob("*.png")).read_bytes()})


def _add_to_all(tree: Path) -> None:
    for split, classes in {"train": CLASSES, "valid": ["cat"], "test": CLASSES}.items():
        for name in classes:
            _add(tree, f"{split}/{name}/n02123394_999999.png")


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (
            lambda tree: _add(tree, "test/cat/n02123394_999999.png"),
            "1 to 2 images per class in test (CINIC-10 has 1)",
        ),
        (
            _add_to_all,
            "2 images per class in train, test (CINIC-10 has 1); 1 to 2 images per class in valid "
            "(CINIC-10 has 1)",
        ),
        (
            lambda tree: next((tree / "train/cat").iterdir()).rename(tree / "train/cat/a.png"),
            "1 image in train that is not named as in CINIC-10",
        ),
        (lambda tree: shutil.rmtree(tree / "valid"), "no split valid"),
        (lambda tree: shutil.copytree(tree / "test", tree / "more"), "a split 'more'"),
    ],
)
def test_what_differs_from_cinic10_is_told(cinic, tmp_path, change, found):
    change(cinic)
    with pytest.raises(SourceError) as caught:
        pack(cinic, tmp_path / "a", expect="cinic10")
    assert str(caught.value) == f"{cinic}: expected CINIC-10, found {found}"
    assert os.listdir(tmp_path) == ["cinic"]
    with pytest.warns(UserWarning, match=r"like CINIC-10") as warned:
        cinicpack.pack(cinic, tmp_path / "a", progress=False)
    own = "; so mean and std are its own, not the published ones" if "not named" in found else ""
    assert [str(warning.message) for warning in warned] == [
        f"{cinic}: like CINIC-10, but with {found}{own}"
    ]
    assert warned[0].filename == __file__


def test_other_classes_and_sizes_are_not_cinic10(tree, tmp_path, monkeypatch):
    with pytest.raises(SourceError, match=r"expected CINIC-10, found classes airplane, cat$"):
        pack(tree, tmp_path / "a", expect="cinic10")
    write_tree(tmp_path / "large", 1, size=33)
    monkeypatch.setattr(cinic10, "PER_CLASS", 1)
    with pytest.raises(SourceError, match=r"expected CINIC-10, found images of 33x33 pixels$"):
        pack(tmp_path / "large", tmp_path / "a", expect="cinic10")


@pytest.mark.parametrize("name", ["a.png", "cifar10-train-{}.png"])
def test_of_other_trees_nothing_is_expected(tmp_path, monkeypatch, name):
    # CINIC-10's classes, but with names that say that the images are others, or CIFAR-10's.
    files = [f"{class_name}/{name}".format(n) for n, class_name in enumerate(cinic10.CLASSES)]
    put(tmp_path / "tree", dict.fromkeys(files, WHOLE))
    one = pack(tmp_path / "tree", tmp_path / "a")
    assert one.classes == cinic10.CLASSES
    assert one.manifest.normalization.origin == "train"
    monkeypatch.setattr(cinic10, "PER_CLASS", 1)
    with pytest.raises(SourceError, match=r"found .*no image that is named as one of ImageNet"):
        pack(tmp_path / "tree", tmp_path / "b", expect="cinic10")
