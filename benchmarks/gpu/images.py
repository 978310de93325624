"""Images to measure a GPU with, as `cinicpack.pack_arrays` takes them: noise, and JPEG files."""

import tarfile
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cinicpack import cinic10

__all__ = ["LabelledImages", "make_noise", "read_jpegs"]

#: Images uint8, (N, 3, H, W) or (N, H, W, 3), and labels, (N,) integers.
LabelledImages: TypeAlias = tuple[NDArray[np.uint8], NDArray[np.integer[Any]]]


def make_noise(per_class: int, size: tuple[int, int] = (32, 32)) -> LabelledImages:
    """Make images of random bytes in ten classes: no time that is measured depends on pixels."""
    count = per_class * len(cinic10.CLASSES)
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(len(cinic10.CLASSES)), per_class)
    return rng.integers(0, 256, (count, 3, *size), np.uint8), labels


def read_jpegs(archive: Path) -> tuple[tuple[str, ...], dict[str, LabelledImages]]:
    """Read a tar archive of SPLIT/CLASS/NAME.jpg; returns the classes and the splits."""
    found: list[tuple[str, str, str, NDArray[np.uint8]]] = []
    with tarfile.open(archive) as members:
        for member in members:
            parts = member.name.split("/")
            if member.isfile() and member.name.endswith(".jpg") and len(parts) >= 3:
                stream = members.extractfile(member)
                assert stream is not None
                split, class_name, name = parts[-3:]
                pixels = np.asarray(Image.open(stream).convert("RGB"))
                found.append((split, class_name, name, pixels))
    found.sort(key=lambda image: image[:3])
    classes = tuple(sorted({class_name for _, class_name, *_ in found}))
    splits = {}
    for split in sorted({split for split, *_ in found}):
        mine = [image for image in found if image[0] == split]
        labels = np.array([classes.index(class_name) for _, class_name, *_ in mine])
        splits[split] = np.stack([pixels for *_, pixels in mine]), labels
    return classes, splits
