"""Inputs: small sources of every kind, and packs of them, in one folder that stays as it is."""

import io
import shutil
import tarfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

import cinicpack
from cinicpack.cinic10 import CLASSES
from cinicpack.formats.cifar10 import Cifar10, Cifar10Set, write_batches
from cinicpack.synthetic import write_tree
from tests.convert.sources_here import make_tar, make_zip, tar_bytes
from tests.parquet_files import write as write_parquet

__all__ = ["make_inputs"]

_TWO: Final = CLASSES[:2]
_SPLITS: Final = ("train", "test")


def make_inputs(folder: Path) -> None:
    """Write all inputs into a new folder."""
    folder.mkdir()
    tree = folder / "tree"
    write_tree(tree, 2, classes=_TWO, size=8, splits=_SPLITS)
    for split in _SPLITS:
        # A name that is not CINIC-10's, so that two classes are not two out of its ten.
        first = min((tree / split / _TWO[0]).iterdir())
        first.rename(first.with_stem("a"))
    make_tar(tree, folder / "tree.tar")
    make_tar(tree, folder / "tree.tar.gz", "", "w:gz")
    make_zip(tree, folder / "tree.zip")
    for split in _SPLITS:
        _write_parquet(tree / split, folder / "hub" / f"{split}-00000-of-00001.parquet")
    _make_cifar10(folder)
    _make_imagenet(folder)
    _make_packs(folder)


def _write_parquet(split: Path, path: Path) -> None:
    files = sorted(split.glob("*/*.png"))
    images = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
    labels = [_TWO.index(file.parent.name) for file in files]
    write_parquet(path, {"image": images, "label": labels}, classes=_TWO)


def _make_cifar10(folder: Path) -> None:
    """Write CIFAR-10 with three images of each class for training and one for testing."""
    records = np.random.default_rng(0).integers(0, 256, (40, 3073), np.uint8)
    records[:, 0] = np.arange(40) % 10
    parts = [Cifar10Set(np.arange(len(part)), part, []) for part in (records[:30], records[30:])]
    for layout in ("bin", "py"):
        (folder / f"cifar-{layout}").mkdir()
        write_batches(Cifar10(*parts), folder / f"cifar-{layout}", layout)
    with tarfile.open(folder / "cifar-10-python.tar.gz", "w:gz") as archive:
        archive.add(folder / "cifar-py", "cifar-10-batches-py")


def _make_imagenet(folder: Path) -> None:
    """Write a tar with three JPEGs of a synset for each class, and the list of synsets."""
    (folder / "imagenet").mkdir()
    lines = []
    for label, name in enumerate(CLASSES):
        synset = f"n{100 + label:08d}"
        jpegs = {f"{synset}_{number}.JPEG": _draw_jpeg(label, number) for number in range(1, 4)}
        (folder / "imagenet" / f"{synset}.tar").write_bytes(tar_bytes(jpegs))
        lines += [name, f"----{synset}: words"]
    (folder / "synsets.txt").write_text("\n".join(lines))


def _draw_jpeg(*seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(pixels).save(out := io.BytesIO(), "JPEG")
    return out.getvalue()


def _make_packs(folder: Path) -> None:
    """Pack the small tree in every form, and one of the ten classes with CIFAR-10 in it."""
    forms: Mapping[str, dict[str, object]] = {
        "npy.pack": {},
        "shards.pack": {"shard_rows": 3},
        "pack.h5": {"format": "hdf5"},
    }
    options = {"progress": False, "num_workers": 0}
    for name, form in forms.items():
        cinicpack.pack(folder / "tree", folder / name, **options, **form)  # type: ignore[arg-type]
    ten = folder / "ten"
    write_tree(ten, 9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cinicpack.pack(ten, folder / "ten.pack", progress=False, num_workers=0)
    shutil.rmtree(ten)
