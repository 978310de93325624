"""What the golden files are made from: images by whole-number arithmetic, so no library matters."""

import io
import json
import tarfile
import zipfile
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cinicpack.cinic10 import CLASSES, SPLITS
from tests.png_images import BIT_DEPTHS, CHANNELS, png

# Paths, as SPLIT/CLASS/NAME, and what is in the files.
Files = Mapping[str, bytes]

# Height and width of the images of each pack of `write_sources`, beside those of CINIC-10's size.
SIZES = ((12, 12), (40, 40), (64, 64), (5, 7))
COUNTS = (1, 2, 257, 5_000)


def digest(*parts: bytes | str) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of some parts, and of where each ends."""
    found = sha256()
    for part in parts:
        content = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
        found.update(b"%d:" % len(content) + content)
    return found.hexdigest()[:16]


def make_samples(number: int, *shape: int, stop: int = 256) -> NDArray[np.uint16]:
    """Mix whole numbers below ``stop`` (at most 2**16) that differ for every ``number``."""
    word = np.uint64(0xFFFFFFFF)
    mixed = np.arange(int(np.prod(shape)), dtype=np.uint64) + np.uint64(number * 1_000_003)
    for factor, shift in ((2654435761, 15), (2246822519, 13), (3266489917, 16)):
        mixed = mixed * np.uint64(factor) & word
        mixed ^= mixed >> np.uint64(shift)
    return (mixed % np.uint64(stop)).astype(np.uint16).reshape(shape)


def make_png(number: int, height: int = 32, width: int = 32) -> bytes:
    return png(make_samples(number, height, width, 3), filters=(number % 5,))


def make_cinic10() -> dict[str, bytes]:
    """Make four images for each class and split, half of CIFAR-10; a few are double or grey."""
    files = {}
    for number, (split, name) in enumerate((split, name) for split in SPLITS for name in CLASSES):
        label = number % len(CLASSES)
        second = f"test-{label}" if split == "test" else f"train-{100 + number}"
        names = (
            f"cifar10-train-{number}.png",
            f"cifar10-{second}.png",
            f"n{2_000_000 + label:08d}_{number + 1}.png",
            f"n{2_000_100 + number:08d}_{number}.png",
        )
        for place, file in enumerate(names):
            files[f"{split}/{name}/{file}"] = make_png(4 * number + place)
    paths = list(files)
    files[paths[50]] = files[paths[90]] = files[paths[3]]
    files[paths[91]] = files[paths[17]]
    files[paths[20]] = png(np.full((32, 32, 3), 77, np.uint16))
    return files


def make_kinds() -> dict[str, bytes]:
    """Make an image of every colour type and depth, plain and interlaced, and two with 16 bits."""
    files = {}
    number = 0
    for kind, depths in BIT_DEPTHS.items():
        for depth in depths:
            for interlaced in (False, True):
                number += 1
                samples = make_samples(number, 9, 11, CHANNELS[kind], stop=2**depth)
                palette = make_samples(number, 2**depth, 3).astype(np.uint8).tobytes()
                files[f"train/kinds/{kind}-{depth}-{interlaced}.png"] = png(
                    samples,
                    kind,
                    depth,
                    filters=range(5),
                    interlaced=interlaced,
                    palette=palette if kind == 3 else b"",
                )
    return files


def write_tree(folder: Path, files: Files) -> None:
    for path, content in files.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def write_tar(path: Path, files: Files) -> None:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def write_zip(path: Path, files: Files) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)


def write_sources(folder: Path) -> None:
    """Write all that is packed, compiled and compared, each under its name in ``folder``."""
    cinic10 = make_cinic10()
    write_tree(folder / "tree", cinic10)
    write_tree(folder / "nested", {f"above/{path}": file for path, file in cinic10.items()})
    # An archive gives its images in any order.
    turned = dict(sorted(cinic10.items(), key=lambda item: digest(item[0])))
    write_tar(folder / "tree.tar", turned)
    write_tar(folder / "tree.tar.gz", turned)
    write_zip(folder / "tree.zip", turned)

    train = {path: file for path, file in cinic10.items() if path.startswith("train/")}
    few = {path: file for path, file in train.items() if "/cat/" in path or "/dog/" in path}
    bad = {"train/cat/empty.png": b"", "train/dog/small.png": make_png(1, 9, 9)}
    bad["train/dog/torn.png"] = make_png(2)[:-50]
    write_tree(folder / "bad", few | bad)
    write_tree(folder / "missing", {**few, "train/bird/photo.gif": b"", "train/cat/x.txt": b""})
    write_tree(folder / "missing", {"valid/cat/a.png": make_png(1)})
    (folder / "missing/test/horse").mkdir(parents=True)
    write_tree(folder / "kinds", make_kinds())
    many = {f"train/{n:03}-{'x' * (n % 17)}/a.png": make_png(n, 4, 4) for n in range(300)}
    write_tar(folder / "classes.tar", many)
    for height, width in SIZES:
        count = 600 if height == 12 else 24
        write_tar(
            folder / f"{height}x{width}.tar",
            {f"train/{n % 3}/{n}.png": make_png(n, height, width) for n in range(count)},
        )
    for count in COUNTS:
        rows = {f"train/only/{n:04}.png": make_png(n % 7, 1, 1) for n in range(count)}
        write_tar(folder / f"{count}.tar", rows)
    _write_originals(folder)


def _write_originals(folder: Path) -> None:
    """Write a CIFAR-10 of 60 images, JPEGs of twenty synsets, and the lists of both."""
    records = make_samples(60, 60, 3073).astype(np.uint8)
    records[:, 0] = np.arange(60) % 10
    (folder / "cifar").mkdir()
    for number in range(1, 6):
        (folder / f"cifar/data_batch_{number}.bin").write_bytes(b"")
    (folder / "cifar/data_batch_1.bin").write_bytes(records[:50].tobytes())
    (folder / "cifar/test_batch.bin").write_bytes(records[50:].tobytes())
    listed, contributors = [], ["synset, image_num, cinic_set, class"]
    for label, name in enumerate(CLASSES):
        first, second = f"n{2_000_000 + label:08d}", f"n{2_000_100 + label:08d}"
        listed += [name, f"----{first}: {name}, beast", f"--------{second}: small {name}"]
        listed.append(f"----n{2_000_110 + label:08d}: {name} of ten")
        jpegs = {f"{first}_{n}.JPEG": _make_jpeg(8 * label + n) for n in range(5)}
        if label == 4:
            # One that cannot be read, and one to take instead.
            jpegs |= {f"{first}_3.JPEG": b"torn", f"{first}_5.JPEG": _make_jpeg(5)}
        (folder / "imagenet").mkdir(exist_ok=True)
        write_tar(folder / f"imagenet/{first}.tar", jpegs)
        write_tree(folder / f"imagenet/{second}", {f"{second}_7.JPEG": _make_jpeg(label)})
        contributors.append(f"{first}, 2, {SPLITS[label % 3]}, {name}")
    (folder / "synsets.txt").write_text("\n".join(listed))
    (folder / "contributors.csv").write_text("\n".join(contributors))
    labels = make_samples(5, 40, stop=10)
    np.save(folder / "labels.npy", labels.astype(np.int64))
    np.save(folder / "half.npy", labels[:20].astype(np.uint8))
    np.save(folder / "scores.npy", make_samples(6, 40, 10).astype(np.float32))


def _make_jpeg(grey: int) -> bytes:
    """Make a JPEG of one grey without quantisation, which every decoder gives exactly."""
    file = io.BytesIO()
    Image.new("L", (40, 48), grey).save(file, "JPEG", quality=100)
    return file.getvalue()


def to_json(value: object) -> str:
    return json.dumps(value, indent=1, ensure_ascii=True) + "\n"
