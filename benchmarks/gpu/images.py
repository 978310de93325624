"""Packs to measure a GPU with: of noise, and of real JPEG files.

They are written straight from arrays, so that a machine with torch, numba and NumPy is enough; only
JPEG files need Pillow as well.
"""

import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import say
from cinicpack import cinic10
from cinicpack.store.container import named
from cinicpack.store.fingerprints import (
    digest_image,
    fingerprint_images,
    fingerprint_splits,
    image_header,
)
from cinicpack.store.format import plan_arrays
from cinicpack.store.manifest import Group, Manifest, Normalization, SplitInfo, channel_statistics
from cinicpack.store.verify import hash_regions

__all__ = ["LabelledImages", "make_noise", "read_jpegs", "write_pack"]


class LabelledImages(NamedTuple):
    """The images of a split, in the order of its rows.

    Attributes:
        pixels: (N, 3, H, W) uint8.
        labels: (N,) integers.
        names: (N,) bytes, the file names.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.integer]
    names: NDArray[np.bytes_]


def make_noise(per_class: int, size: tuple[int, int] = (32, 32)) -> LabelledImages:
    """Make images of random bytes in ten classes: no time that is measured depends on pixels."""
    count = per_class * len(cinic10.CLASSES)
    rng = np.random.default_rng(0)
    return LabelledImages(
        rng.integers(0, 256, (count, 3, *size), np.uint8),
        np.repeat(np.arange(len(cinic10.CLASSES)), per_class),
        np.array([b"%08d.png" % number for number in range(count)]),
    )


def read_jpegs(archive: Path) -> tuple[tuple[str, ...], dict[str, LabelledImages]]:
    """Read a tar archive of SPLIT/CLASS/NAME.jpg; returns the classes and the splits.

    Raises ``ImportError`` without Pillow.
    """
    from PIL import Image

    found: list[tuple[str, str, str, NDArray[np.uint8]]] = []
    with tarfile.open(archive) as members:
        for member in members:
            parts = member.name.split("/")
            if member.isfile() and member.name.endswith(".jpg") and len(parts) >= 3:
                stream = members.extractfile(member)
                assert stream is not None
                image = np.asarray(Image.open(stream).convert("RGB"))
                split, class_name, name = parts[-3:]
                found.append((split, class_name, name, image.transpose(2, 0, 1)))
    found.sort(key=lambda image: image[:3])
    classes = tuple(sorted({class_name for _, class_name, *_ in found}))
    splits = {}
    for split in sorted({split for split, *_ in found}):
        mine = [image for image in found if image[0] == split]
        splits[split] = LabelledImages(
            np.stack([pixels for *_, pixels in mine]),
            np.array([classes.index(class_name) for _, class_name, *_ in mine]),
            np.array([name.encode() for _, _, name, _ in mine]),
        )
    return classes, splits


def write_pack(path: Path, classes: Sequence[str], splits: Mapping[str, LabelledImages]) -> Path:
    """Write a pack of npy files at ``path``, which must not be there."""
    say(f"making {path}")
    height, width = next(iter(splits.values())).pixels.shape[2:]
    shape = (height, width, 3)
    plan = {split: ((len(given.labels),), given.names.itemsize) for split, given in splits.items()}
    container = named("npy")
    regions = container.create(path, list(plan_arrays(shape, len(classes), plan)))
    for region in regions:
        split, field = region.spec.name.rsplit("/", 1)
        given = splits[split]
        arrays = {"labels": given.labels, "names": given.names}
        if field.startswith("images"):
            arrays[field] = given.pixels
        values = arrays.get(field, np.zeros(region.spec.shape, region.spec.dtype))
        with open(region.file, "r+b") as stream:
            stream.seek(region.offset)
            stream.write(np.ascontiguousarray(values, region.spec.dtype).data.cast("B"))
    described = {split: _describe(given, classes) for split, given in splits.items()}
    origin = "train" if "train" in splits else next(iter(splits))
    mean, std = channel_statistics(described[origin].groups, shape)
    manifest = Manifest(
        image_shape=shape,
        classes=tuple(classes),
        normalization=Normalization(mean, std, origin),
        splits=described,
        fingerprint=fingerprint_splits(
            {split: info.fingerprint for split, info in described.items()}
        ),
        arrays=hash_regions(regions),
    )
    container.finish(path, manifest, regions)
    return path


def _describe(given: LabelledImages, classes: Sequence[str]) -> SplitInfo:
    groups = []
    for label in np.unique(given.labels).tolist():
        pixels = given.pixels[given.labels == label].astype(np.int64)
        sums, squares = pixels.sum((0, 2, 3)).tolist(), (pixels**2).sum((0, 2, 3)).tolist()
        groups.append(Group(label, 0, len(pixels), tuple(sums), tuple(squares)))
    images = np.ascontiguousarray(given.pixels.transpose(0, 2, 3, 1))
    digests = [
        digest_image(
            image_header(classes[label].encode(), name, image.shape), memoryview(image).cast("B")
        )
        for label, name, image in zip(
            given.labels.tolist(), given.names.tolist(), images, strict=True
        )
    ]
    return SplitInfo(
        shards=(len(images),),
        name_bytes=given.names.itemsize,
        fingerprint=fingerprint_images(digests),
        groups=tuple(groups),
    )
