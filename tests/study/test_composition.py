import errno
import gzip
import io
import json
import os
import tarfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

import cinicpack
from cinicpack import cinic10
from cinicpack.cinic10 import CLASSES, SPLITS, Origin
from cinicpack.cli import main
from cinicpack.errors import ArgumentError, DestinationError, SourceError
from cinicpack.formats.cifar10 import Cifar10, Cifar10Set, write_batches
from cinicpack.study.composition import compose_dataset

pytestmark = pytest.mark.filterwarnings("ignore:.*like CINIC-10, but:UserWarning")

# Two synsets of each class; the one of ten thousand is in two classes.
SYNSETS = {name: (100 + label, 10_000 - label % 9) for label, name in enumerate(CLASSES)}
JPEGS = 5


class Inputs(NamedTuple):
    cifar10: Path
    imagenet: Path
    synsets: Path


def jpeg(synset: int, number: int) -> bytes:
    """Encode an image whose size and colours follow from its name."""
    rng = np.random.default_rng([synset, number])
    height, width = rng.integers(20, 90, 2).tolist()
    colours = rng.integers(0, 256, (3, 3, 3), np.uint8)
    image = Image.fromarray(colours).resize((width, height))
    out = io.BytesIO()
    (image.convert("L") if number == 2 else image).save(out, "JPEG")
    return out.getvalue()


def tar_of(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def jpegs_of(synset: int) -> dict[str, bytes]:
    return {f"n{synset:08d}_{number}.JPEG": jpeg(synset, number) for number in range(1, JPEGS + 1)}


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    """CIFAR-10 with 6 images of each class, one for testing; 10 JPEGs of each, half in tars."""
    made = Inputs(tmp_path / "cifar", tmp_path / "imagenet", tmp_path / "synsets.txt")
    made.cifar10.mkdir()
    made.imagenet.mkdir()
    records = np.random.default_rng(0).integers(0, 256, (60, 3073), np.uint8)
    records[:, 0] = np.arange(60) % 10
    parts = [Cifar10Set(np.arange(len(part)), part, []) for part in (records[:50], records[50:])]
    write_batches(Cifar10(*parts), made.cifar10, "bin")
    lines = []
    for name, synsets in SYNSETS.items():
        lines += [name, *(f"----n{synset:08d}: words" for synset in synsets)]
        lines.append("--------n09999999: not there")
    made.synsets.write_text("\n".join(lines))
    for first, second in SYNSETS.values():
        (made.imagenet / f"n{first:08d}.tar").write_bytes(tar_of(jpegs_of(first)))
        (made.imagenet / f"n{second:08d}").mkdir(exist_ok=True)
        for file, content in jpegs_of(second).items():
            (made.imagenet / f"n{second:08d}" / file).write_bytes(content)
    return made


def compiled(inputs: Inputs, destination: Path, **options: object) -> dict[str, bytes]:
    """Compile a tree, and read the pixels of all its files."""
    compose(inputs, destination, **options)
    return read(destination)


def compose(inputs: Inputs, destination: Path, **options: Any) -> Any:
    given: dict[str, Any] = {"per_class": 9, "synsets": inputs.synsets, "progress": False}
    return compose_dataset(inputs.cifar10, inputs.imagenet, destination, **given | options)


def read(tree: Path) -> dict[str, bytes]:
    images = {}
    for path in sorted(tree.rglob("*.png")):
        with Image.open(path) as image:
            assert (image.mode, image.size) == ("RGB", (32, 32))
            images[path.relative_to(tree).as_posix()] = image.tobytes()
    return images


def test_tree_has_the_authors_shape(inputs, tmp_path):
    images = compiled(inputs, tmp_path / "made")
    folders: dict[tuple[str, str], Counter[Origin]] = {}
    for path in images:
        split, name, file = path.split("/")
        origin = cinic10.parse_name(file).origin
        folders.setdefault((split, name), Counter())[origin] += 1
    train_and_valid = {Origin.CIFAR10_TRAIN: 2, Origin.IMAGENET: 3}
    test = {Origin.CIFAR10_TRAIN: 1, Origin.CIFAR10_TEST: 1, Origin.IMAGENET: 3}
    assert folders == {
        (split, name): test if split == "test" else train_and_valid
        for split in SPLITS
        for name in CLASSES
    }
    assert sorted(os.listdir(tmp_path)) == ["cifar", "imagenet", "made", "synsets.txt"]


def test_every_image_is_the_original_reduced(inputs, tmp_path):
    records = {
        Origin.CIFAR10_TRAIN: np.concatenate(
            [np.fromfile(inputs.cifar10 / f"data_batch_{k}.bin", np.uint8) for k in range(1, 6)]
        ).reshape(-1, 3073),
        Origin.CIFAR10_TEST: np.fromfile(inputs.cifar10 / "test_batch.bin", np.uint8).reshape(
            -1, 3073
        ),
    }
    seen = set()
    for path, pixels in compiled(inputs, tmp_path / "made").items():
        _, name, file = path.split("/")
        origin, synset, number = cinic10.parse_name(file)
        if origin is Origin.IMAGENET:
            assert synset in SYNSETS[name]
            with Image.open(io.BytesIO(jpeg(synset, number))) as image:
                expected = image.convert("RGB").resize((32, 32), Image.Resampling.BOX).tobytes()
        else:
            seen.add((origin, number))
            record = records[origin][number]
            assert CLASSES[record[0]] == name
            expected = record[1:].reshape(3, 32, 32).transpose(1, 2, 0).tobytes()
        assert pixels == expected, path
    assert len(seen) == 60


def test_an_image_is_once_in_its_class(inputs, tmp_path):
    files = [path.split("/", 1)[1] for path in compiled(inputs, tmp_path / "made")]
    assert len(files) == len(set(files))


def test_seed_decides_and_nothing_else(inputs, tmp_path):
    first = compiled(inputs, tmp_path / "a", num_workers=1)
    assert compiled(inputs, tmp_path / "b", num_workers=3, seed=0) == first
    other = compiled(inputs, tmp_path / "c", seed=1)
    assert other != first
    moved = {path for path in other if "cifar10" in path} - set(first)
    assert moved
    assert {path for path in moved if "cifar10-test" in path} == set()


@pytest.mark.parametrize(("name", "format"), [("a.pack", "npy"), ("a.h5", "hdf5")])
def test_packs_are_those_of_the_trees(inputs, tmp_path, name, format):  # noqa: A002
    compiled(inputs, tmp_path / "made")
    expected = cinicpack.pack(tmp_path / "made", tmp_path / "expected.pack", progress=False)
    compiled(inputs, tmp_path / name)
    made = cinicpack.open_pack(tmp_path / name)
    assert (made.format, made.fingerprint) == (format, expected.fingerprint)
    left = ["cifar", "imagenet", "made", "expected.pack", "synsets.txt", name]
    assert sorted(os.listdir(tmp_path)) == sorted(left)


# What is broken


def broken_tars(content: bytes) -> dict[str, bytes]:
    return {
        "empty": b"",
        "cut in a file": content[: len(content) // 2],
        "cut in a header": content[:300],
        "damaged": b"x" * 512 + content[512:],
        "a page of HTML": b"<html>" * 100,
        "compressed": gzip.compress(content),
    }


@pytest.mark.parametrize("kind", broken_tars(b""))
def test_broken_tars_are_left_out(inputs, tmp_path, kind):
    path = inputs.imagenet / "n00000103.tar"
    path.write_bytes(broken_tars(path.read_bytes())[kind])
    made = compose(inputs, tmp_path / "made", per_class=3)
    [(where, reason)] = made.left_out
    assert where == str(path)
    assert "expected a whole tar, found" in reason
    assert made.absent == ["n09999999"]
    assert made.imagenet == dict.fromkeys(SPLITS, 10)
    images = read(tmp_path / "made")
    assert not any("n00000103" in name for name in images)
    with pytest.raises(
        SourceError,
        match=r"9 JPEGs of every class, found cat 5; 1 synset is not there; left out: "
        r".*n00000103.tar: expected a whole tar, .* or take fewer with --per-class",
    ):
        compiled(inputs, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_unreadable_jpegs_are_replaced_and_the_others_stay(inputs, tmp_path):
    before = compiled(inputs, tmp_path / "before", per_class=6)
    drawn = sorted(path for path in before if "/dog/n" in path)
    spoiled = [path.split("/")[-1].removesuffix(".png") for path in drawn[:3]]
    for synset in SYNSETS["dog"]:
        files = jpegs_of(synset)
        for name in spoiled:
            if f"{name}.JPEG" in files:
                files[f"{name}.JPEG"] = files[f"{name}.JPEG"][:40]
        if (inputs.imagenet / f"n{synset:08d}").is_dir():
            for name, content in files.items():
                (inputs.imagenet / f"n{synset:08d}" / name).write_bytes(content)
        else:
            (inputs.imagenet / f"n{synset:08d}.tar").write_bytes(tar_of(files))
    made = compose(inputs, tmp_path / "after", per_class=6)
    assert len(made.left_out) == 3
    for (where, reason), name in zip(made.left_out, sorted(spoiled), strict=True):
        assert name in where
        assert "Pillow cannot decode it" in reason
    after = read(tmp_path / "after")
    assert {path: before[path] for path in before if path not in drawn[:3]}.items() <= after.items()
    assert len(after) == len(before)
    message = r"too few of dog 7 of 9: .*_[1-5].*: Pillow cannot decode it"
    with pytest.raises(SourceError, match=message):
        compiled(inputs, tmp_path / "again")


@pytest.mark.parametrize("name", ["n00000103.tar", ".JPEG"])
@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "a reason"), MemoryError("a reason")])
def test_files_that_cannot_be_read_for_a_moment_are_not_left_out(
    inputs, tmp_path, monkeypatch, name, error
):
    real = open
    opened: list[str] = []

    def fail_once(file, *arguments, **options):
        if str(file).endswith(name) and not opened:
            opened.append(str(file))
            raise error
        return real(file, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr("builtins.open", fail_once)
        patched.setattr("tarfile.bltn_open", fail_once)
        with pytest.raises(SourceError, match=rf"{name}.*: could not be read \(.*a reason"):
            compiled(inputs, tmp_path / "made", num_workers=0)
    assert opened
    assert not (tmp_path / "made").exists()


def test_files_with_other_names_are_left_out(inputs, tmp_path):
    tar = inputs.imagenet / "n00000100.tar"
    files = {"n00000101_1.JPEG": b"", "thumbs.db": b"", **jpegs_of(100)}
    tar.write_bytes(tar_of(files))
    folder = inputs.imagenet / "n00010000"
    (folder / "readme").touch()
    made = compose(inputs, tmp_path / "made")
    assert made.left_out == [
        (f"{tar}:n00000101_1.JPEG", "expected a name like n00000100_1.JPEG"),
        (f"{tar}:thumbs.db", "expected a name like n00000100_1.JPEG"),
        (f"{folder}/readme", "expected a name like n00010000_1.JPEG"),
    ]


def test_what_is_no_file_is_left_out(inputs, tmp_path):
    """To open a pipe would wait for ever."""
    folder = inputs.imagenet / "n00010000"
    os.mkfifo(folder / "n00010000_9.JPEG")
    (folder / "n00010000_8.JPEG").mkdir()
    made = compose(inputs, tmp_path / "made")
    assert made.left_out == [
        (f"{folder}/n00010000_{number}.JPEG", "expected a regular file") for number in (8, 9)
    ]


def test_too_few_images_say_how_many(inputs, tmp_path):
    with pytest.raises(
        SourceError,
        match=r"expected 21,000 JPEGs of every class, found airplane 10, automobile 10, .* truck 10"
        r"; 1 synset is not there; add more",
    ):
        compiled(inputs, tmp_path / "made", per_class=21_000)


# Contributors


def test_contributors_are_taken_instead(inputs, tmp_path):
    rows = [(103, 5, "train", "cat"), (10_000, 2, "test", "airplane"), (103, 1, "train", "cat")]
    lines = [f"n{synset:08d}, {number}, {split}, {name}" for synset, number, split, name in rows]
    contributors = tmp_path / "contributors.csv"
    contributors.write_text("\n".join(["synset, image_num, cinic_set, class", *lines, ""]))
    images = compiled(inputs, tmp_path / "made", synsets=None, contributors=contributors)
    assert {path for path in images if "/n" in path} == {
        "train/cat/n00000103_5.png",
        "train/cat/n00000103_1.png",
        "test/airplane/n00010000_2.png",
    }
    assert len(images) == 63
    contributors.write_text(contributors.read_text() + "n00000103, 9, train, cat\n")
    with pytest.raises(SourceError, match=r"expected all images of .*, found no n00000103_9$"):
        compiled(inputs, tmp_path / "again", synsets=None, contributors=contributors)
    folder = inputs.imagenet / "n00010000"
    (folder / "n00010000_2.JPEG").write_bytes(b"")
    contributors.write_text(contributors.read_text().replace("103, 9", "103, 2"))
    with pytest.raises(SourceError, match=r"airplane 0 of 1: .*n00010000_2.JPEG: Pillow cannot"):
        compiled(inputs, tmp_path / "again", synsets=None, contributors=contributors)


# Arguments


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"synsets": None}, r"found neither"),
        ({"contributors": "c.csv"}, r"found both"),
        ({"per_class": 20}, r"a multiple of 3, to deal it to the splits, found 20"),
        ({"per_class": -3}, r"found -3"),
    ],
)
def test_wrong_arguments_are_refused(inputs, tmp_path, options, message):
    with pytest.raises(ArgumentError, match=message):
        compiled(inputs, tmp_path / "made", **options)


def test_destination_is_checked_before_anything_is_read(inputs, tmp_path):
    nothing = inputs._replace(cifar10=tmp_path / "none")
    for name in ("a.pack", "tree"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").touch()
        with pytest.raises(DestinationError, match="expected nothing there"):
            compiled(nothing, tmp_path / name)
        with pytest.raises(DestinationError, match="folder"):
            compiled(nothing, tmp_path / "none" / name)


def test_what_was_left_beside_a_pack_is_removed(inputs, tmp_path):
    compiled(inputs, tmp_path / "a.pack")
    work = tmp_path / ".a.pack.tmp"
    work.mkdir()
    for name in ("cinicpack.lock", "a.tar"):
        (work / name).touch()
    with pytest.raises(DestinationError, match="expected nothing there"):
        compiled(inputs, tmp_path / "a.pack")
    assert not work.exists()


def test_other_inputs_are_refused(inputs, tmp_path):
    with pytest.raises(SourceError, match=r"none: expected a directory with ImageNet's"):
        compiled(inputs._replace(imagenet=tmp_path / "none"), tmp_path / "made")
    inputs.synsets.write_text("cat\n----n00000103: cat\n")
    with pytest.raises(SourceError, match=r"synsets.txt: expected the classes .*, found cat$"):
        compiled(inputs, tmp_path / "made")
    # What is quick to read is read first.
    elsewhere = inputs._replace(cifar10=inputs.imagenet)
    with pytest.raises(SourceError, match=r"synsets.txt: expected the classes .*, found cat$"):
        compiled(elsewhere, tmp_path / "made")
    inputs.synsets.write_text("".join(f"{name}\n----n00000103: a\n" for name in CLASSES))
    with pytest.raises(SourceError, match=r"expected a .tar.gz of CIFAR-10, or a folder"):
        compiled(elsewhere, tmp_path / "made")
    assert sorted(os.listdir(tmp_path)) == ["cifar", "imagenet", "synsets.txt"]


# The command


def test_warnings_that_are_errors_leave_no_image_out(inputs, tmp_path, monkeypatch):
    convert = Image.Image.convert

    def warn(*arguments: Any) -> Image.Image:
        warnings.warn_explicit("Corrupt EXIF data", UserWarning, "a.py", 1, module="PIL.Image")
        return convert(*arguments)

    monkeypatch.setattr(Image.Image, "convert", warn)
    images = compiled(inputs, tmp_path / "made")
    assert len(images) == 60 + 9 * len(CLASSES)


def test_warnings_name_the_pack_and_not_the_archive_on_the_way(inputs, tmp_path):
    pack = tmp_path / "a.pack"
    options = {"synsets": inputs.synsets, "per_class": 3, "progress": False}
    with pytest.warns(UserWarning, match=rf"^{pack}: like CINIC-10, but with") as caught:
        compose_dataset(inputs.cifar10, inputs.imagenet, pack, **options)
    assert not any(".tmp" in str(warning.message) for warning in caught)


def test_many_synsets_that_are_not_there_are_counted(inputs, tmp_path, capsys):
    absent = "".join(f"----n{number:08d}: a\n" for number in range(1, 1200))
    inputs.synsets.write_text(inputs.synsets.read_text() + absent)
    command = ["compile", "--cifar10", str(inputs.cifar10), "--imagenet", str(inputs.imagenet)]
    command += ["--synsets", str(inputs.synsets), "--per-class", "3", str(tmp_path / "made")]
    assert main(command) == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if "are not there" in line]
    assert len(line) < 200
    assert line.endswith(" more")


def test_command(inputs, tmp_path, capsys):
    (inputs.imagenet / "n00000103.tar").write_bytes(b"")
    command = ["compile", "--cifar10", str(inputs.cifar10), "--imagenet", str(inputs.imagenet)]
    command += ["--synsets", str(inputs.synsets), "--per-class", "3"]
    assert main([*command, str(tmp_path / "made")]) == 0
    out = capsys.readouterr().out
    assert "n00000103.tar: expected a whole tar" in out
    assert "1 synset is not there: n09999999" in out
    assert "test         20 of CIFAR-10        10 of ImageNet" in out
    assert main([*command, "--json", str(tmp_path / "a.pack")]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["cifar10"] == {"train": 20, "valid": 20, "test": 20}
    pack = cinicpack.open_pack(tmp_path / "a.pack")
    assert [len(pack[split]) for split in SPLITS] == [30, 30, 30]
    assert main([*command, str(tmp_path / "made")]) == 1
