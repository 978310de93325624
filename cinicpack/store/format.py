"""The pack format, version 1.

A pack holds the images of one data set as uint8 arrays beside a manifest. It is a directory of npy
files or one HDF5 file; both hold the same arrays under the same names and the same manifest.

Arrays
------
For every split S of N images of H x W pixels:

    S/images-00000   uint8 (n, 3, H, W)   red, green and blue planes; further shards count up
    S/labels         uint8 (N,)           index into ``classes``; little-endian uint16 above 256
    S/sources        9-byte records (N,)  origin u1, synset <u4, number <u4 (`cinic10.Provenance`)
    S/names          bytes (N,)           file names, UTF-8, padded with NUL to the longest

Row i of a split is image i of ``torchvision.datasets.ImageFolder(S)``: classes in the order of
their names, within a class files in the order of theirs. All arrays are in C order.

Splits are named as visible folders, in UTF-8, without ``+`` or a backslash, and not "pack.json".
Classes and files are named as folders and files can be; a byte that is not UTF-8 is in JSON the
surrogate that Python's surrogateescape makes of it.

In a directory, array S/x is the file ``S/x.npy`` (npy format 1.0, with exactly the header that
`store.npy` writes) and the manifest is ``pack.json``. In HDF5, it is the contiguous, unfiltered
dataset ``S/x``, and the manifest is the uint8 dataset ``pack.json`` (padded with spaces).

Manifest
--------
A JSON object:

    format          "cinicpack"
    version         1
    image_shape     [H, W, 3]
    classes         class names, in the order of their labels
    normalization   mean and std (per channel, pixels in [0, 1]) and their origin: "published"
                    (CINIC-10's constants, if the images are of CINIC-10: `cinic10.is_cinic10`) or
                    the name of the split they were computed on, train or the first. Older packs of
                    other images in CINIC-10's ten classes, as of CIFAR-10, have the constants too
    splits          by name: shards (rows of each), name_bytes (longest name), fingerprint, and
                    groups: [label, origin, count, sum r, g, b, sum of squares r, g, b] for every
                    class and origin that occurs, exact integers over pixels in 0..255
    fingerprint     of the whole pack
    piece_bytes     arrays are hashed in pieces of so many bytes, so that checking uses all cores
    arrays          by name: SHA-256 of every piece of its data (for npy: what follows the header)
    skipped         [path, reason] of every image that was left out on request
    file_bytes      HDF5 only: the size of the file
    digest          SHA-256 of the canonical JSON (sorted keys, no spaces, ASCII) of all the rest

Sizes, types and file names follow from it and are stored nowhere else: they cannot disagree. It
begins with its format, by which a pack is known that is damaged or of another version
(`list_others`).

Fingerprints
------------
The digest of an image is the SHA-256 of: class name, file name (each with its length in bytes
before it, <u4), H, W and 3 (<u4 each), then its pixels in H, W, channel order. The fingerprint of
a split is the SHA-256 of the sorted digests of its images; that of a pack is the SHA-256 of, for
every split in the order of the names: the name (with its length), the split's fingerprint (32
bytes). Fingerprints depend on the images alone: not on container, shards, order or kind of source.
"""

import hashlib
import json
import math
import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NamedTuple, Self

import numpy as np

from cinicpack import cinic10
from cinicpack.errors import FormatVersionError, PackError

__all__ = [
    "MANIFEST_NAME",
    "PIECE_BYTES",
    "SOURCE_DTYPE",
    "VERSION",
    "ArraySpec",
    "Group",
    "Manifest",
    "Normalization",
    "SplitInfo",
    "channel_statistics",
    "digest_image",
    "fingerprint_images",
    "fingerprint_splits",
    "image_header",
    "is_folder_name",
    "is_split_name",
    "list_others",
    "plan_arrays",
]

VERSION: Final = 1
MANIFEST_NAME: Final = "pack.json"
PIECE_BYTES: Final = 16 << 20
SOURCE_DTYPE: Final = np.dtype([("origin", "u1"), ("synset", "<u4"), ("number", "<u4")])
CHANNELS: Final = 3

_START: Final = re.compile(rb'\s*\{\s*"format":\s*"cinicpack"')
_ARRAY: Final = re.compile(r"images-\d{5,}|labels|sources|names")
# A split has at least these arrays.
_WHOLE: Final = ("images-00000", "labels", "sources", "names")


class ArraySpec(NamedTuple):
    """Name, dtype and shape of one array of a pack."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size of the data in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


class Group(NamedTuple):
    """Count and exact channel sums of the images of one class and origin in one split."""

    label: int
    origin: int
    rows: int
    sums: tuple[int, int, int]
    squares: tuple[int, int, int]


class Normalization(NamedTuple):
    """Mean and standard deviation per channel for pixels in [0, 1], and where they come from."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    origin: str


@dataclass(frozen=True)
class SplitInfo:
    """What the manifest says of one split."""

    shards: tuple[int, ...]
    name_bytes: int
    fingerprint: str
    groups: tuple[Group, ...]

    @property
    def rows(self) -> int:
        """Number of images."""
        return sum(self.shards)


@dataclass(frozen=True)
class Manifest:
    """What is in a pack."""

    image_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    normalization: Normalization
    splits: dict[str, SplitInfo]
    fingerprint: str
    arrays: dict[str, tuple[str, ...]]
    skipped: tuple[tuple[str, str], ...] = ()
    file_bytes: int | None = None

    @property
    def is_cinic10(self) -> bool:
        """Whether the images are of CINIC-10, as far as the names of classes and files tell."""
        groups = [group for info in self.splits.values() for group in info.groups]
        return cinic10.is_cinic10(self.classes, [group.origin for group in groups])

    def specs(self) -> Iterator[ArraySpec]:
        """Iterate over the arrays of the pack, in the order in which they are written."""
        splits = {name: (info.shards, info.name_bytes) for name, info in self.splits.items()}
        return plan_arrays(self.image_shape, len(self.classes), splits)

    def to_json(self) -> bytes:
        """Write the manifest as JSON, one member a line, with its digest."""
        content: dict[str, Any] = {
            "format": "cinicpack",
            "version": VERSION,
            "image_shape": self.image_shape,
            "classes": self.classes,
            "normalization": self.normalization._asdict(),
            "splits": {
                name: {
                    "shards": info.shards,
                    "name_bytes": info.name_bytes,
                    "fingerprint": info.fingerprint,
                    "groups": [[*group[:3], *group.sums, *group.squares] for group in info.groups],
                }
                for name, info in self.splits.items()
            },
            "fingerprint": self.fingerprint,
            "piece_bytes": PIECE_BYTES,
            "arrays": self.arrays,
            "skipped": self.skipped,
        }
        if self.file_bytes is not None:
            content["file_bytes"] = self.file_bytes
        content["digest"] = _digest(content)
        members = (f'"{key}": {json.dumps(value)}' for key, value in content.items())
        return ("{\n" + ",\n".join(members) + "\n}\n").encode("ascii")

    @classmethod
    def from_json(cls, text: bytes, where: str) -> Self:
        """Read a manifest and check it against its own digest.

        ``where`` names the file in errors. Raises `FormatVersionError` for a newer format and
        `PackError` for anything that `to_json` does not write.
        """
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise PackError(f"{where}: expected JSON, found {error}; pack it again") from None
        if not isinstance(content, dict) or content.get("format") != "cinicpack":
            raise PackError(f"{where}: expected the manifest of a pack, found other JSON")
        version = content.get("version")
        if version != VERSION:
            raise FormatVersionError(
                f"{where}: found format version {version!r}, this cinicpack reads version "
                f"{VERSION}; open it with the cinicpack that wrote it, or a newer one"
            )
        recorded = content.pop("digest", None)
        if recorded != _digest(content):
            raise PackError(
                f"{where}: the manifest was changed or damaged (expected digest "
                f"{_digest(content)}, found {recorded}); restore it or pack again"
            )
        try:
            return cls._from_content(content)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise PackError(f"{where}: not a valid manifest ({error!r}); pack again") from None

    @classmethod
    def _from_content(cls, content: dict[str, Any]) -> Self:
        height, width, channels = map(_positive, content["image_shape"])
        if channels != CHANNELS or content["piece_bytes"] != PIECE_BYTES:
            raise ValueError("image_shape or piece_bytes")
        classes = tuple(map(str, content["classes"]))
        splits = {}
        for name, split in content["splits"].items():
            if not is_split_name(name):
                raise ValueError(f"split name {name!r}")
            if not split["shards"]:
                raise ValueError(f"shards of {name}")
            splits[name] = SplitInfo(
                shards=tuple(map(_positive, split["shards"])),
                name_bytes=_positive(split["name_bytes"]),
                fingerprint=str(split["fingerprint"]),
                groups=tuple(_group(row, len(classes)) for row in split["groups"]),
            )
            if sum(group.rows for group in splits[name].groups) != splits[name].rows:
                raise ValueError(f"groups of {name}")
        norm = content["normalization"]
        manifest = cls(
            image_shape=(height, width, channels),
            classes=classes,
            normalization=Normalization(
                _triple(norm["mean"]), _triple(norm["std"]), norm["origin"]
            ),
            splits=splits,
            fingerprint=str(content["fingerprint"]),
            arrays={name: tuple(pieces) for name, pieces in content["arrays"].items()},
            skipped=tuple((str(path), str(reason)) for path, reason in content["skipped"]),
            file_bytes=content.get("file_bytes"),
        )
        if not splits or not all(map(is_folder_name, manifest.classes)):
            raise ValueError("splits or classes")
        for spec in manifest.specs():
            if len(manifest.arrays[spec.name]) != -(-spec.nbytes // PIECE_BYTES):
                raise ValueError(f"number of digests of {spec.name}")
        return manifest


def list_others(text: bytes, found: Iterable[str], suffix: str = "") -> list[str]:
    """Name what keeps a container from being a pack and nothing else; nothing, if it is that.

    A container is a pack, of any version and be it damaged, if its manifest begins as one. Nothing
    else is in it if the rest are arrays of the manifest, some of which may be missing. Where the
    manifest cannot be read, these are all that are called as arrays in whole splits.

    Args:
        text: what stands in the manifest's place.
        found: the names of all else, arrays with ``suffix``, folders with a slash at the end.
        suffix: what a container adds to the names of arrays.
    """
    if not _START.match(text):
        return [f"a {MANIFEST_NAME} that is not a pack's"]
    found = set(found)
    try:
        manifest = Manifest.from_json(text, MANIFEST_NAME)
    except PackError:
        splits = {name for name in found if is_split_name(name[:-1]) and name[-1] == "/"}
        splits = {
            name for name in splits if {f"{name}{array}{suffix}" for array in _WHOLE} <= found
        }
        mine = {
            name
            for name in found
            if name[: name.find("/") + 1] in splits
            and _ARRAY.fullmatch(name[name.find("/") + 1 :].removesuffix(suffix))
        }
    else:
        splits = {f"{name}/" for name in manifest.splits}
        mine = {f"{spec.name}{suffix}" for spec in manifest.specs()}
    others: list[str] = []
    for name in sorted(found - mine - splits):
        # What is in a folder is named with the folder.
        if not (others and others[-1].endswith("/") and name.startswith(others[-1])):
            others.append(name)
    return others


def is_split_name(name: str) -> bool:
    """Tell whether a split can have this name: a visible folder's, in UTF-8, without ``+``."""
    return (
        is_folder_name(name)
        and not name.startswith(".")
        and not set(name) & set("+\\")
        and name != MANIFEST_NAME
        and name == name.encode(errors="replace").decode()
    )


def is_folder_name(name: str) -> bool:
    """Tell whether this is one component of a path, and leads nowhere else."""
    return name not in ("", ".", "..") and not set(name) & set("/\0")


def plan_arrays(
    image_shape: tuple[int, int, int],
    num_classes: int,
    splits: Mapping[str, tuple[Sequence[int], int]],
) -> Iterator[ArraySpec]:
    """Iterate over the arrays of a pack, in the order in which they are written.

    ``splits`` has for each the rows of its shards and the bytes of its longest name.
    """
    height, width, channels = image_shape
    label_dtype = np.dtype("u1" if num_classes <= 256 else "<u2")
    for split, (shards, name_bytes) in splits.items():
        for number, rows in enumerate(shards):
            shape = (rows, channels, height, width)
            yield ArraySpec(f"{split}/images-{number:05d}", np.dtype("u1"), shape)
        yield ArraySpec(f"{split}/labels", label_dtype, (sum(shards),))
        yield ArraySpec(f"{split}/sources", SOURCE_DTYPE, (sum(shards),))
        yield ArraySpec(f"{split}/names", np.dtype(("S", name_bytes)), (sum(shards),))


def image_header(class_name: bytes, name: bytes, image_shape: tuple[int, ...]) -> bytes:
    """Build what is hashed before the pixels of an image (see Fingerprints above)."""
    return b"%b%b%b%b" % (
        _sized(class_name),
        len(name).to_bytes(4, "little"),
        name,
        _shape_bytes(image_shape),
    )


@lru_cache
def _sized(text: bytes) -> bytes:
    return len(text).to_bytes(4, "little") + text


@lru_cache
def _shape_bytes(shape: tuple[int, ...]) -> bytes:
    return struct.pack("<3I", *shape)


def digest_image(header: bytes, pixels: memoryview) -> bytes:
    """Hash one image: ``header`` from `image_header`, ``pixels`` contiguous, H, W, channel."""
    digest = hashlib.sha256(header)
    digest.update(pixels)
    return digest.digest()


def fingerprint_images(digests: Iterable[bytes]) -> str:
    """Combine the digests of the images of a split into its fingerprint."""
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()


def fingerprint_splits(fingerprints: dict[str, str]) -> str:
    """Combine the fingerprints of splits, by name, into that of a pack."""
    digest = hashlib.sha256()
    for name, fingerprint in sorted(fingerprints.items()):
        encoded = name.encode()
        digest.update(struct.pack("<I", len(encoded)) + encoded + bytes.fromhex(fingerprint))
    return digest.hexdigest()


def channel_statistics(
    groups: Iterable[Group], image_shape: tuple[int, int, int]
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Compute the population mean and standard deviation per channel, pixels in [0, 1].

    Exact integers up to one division and one square root per figure.
    """
    groups = list(groups)
    pixels = sum(group.rows for group in groups) * image_shape[0] * image_shape[1]
    mean, std = [], []
    for channel in range(CHANNELS):
        total = sum(group.sums[channel] for group in groups)
        square = sum(group.squares[channel] for group in groups)
        mean.append(total / (255 * pixels))
        std.append(math.sqrt((pixels * square - total * total) / (255 * pixels) ** 2))
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])


def _digest(content: dict[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def _positive(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ValueError(f"expected a positive integer, found {value!r}")
    return value


def _group(row: Any, classes: int) -> Group:
    label, origin, rows, *sums = row
    red, green, blue, *squares = sums
    if not all(type(value) is int and value >= 0 for value in row) or label >= classes or not rows:
        raise ValueError(f"group {row!r}")
    red_squares, green_squares, blue_squares = squares
    return Group(
        label, origin, rows, (red, green, blue), (red_squares, green_squares, blue_squares)
    )


def _triple(values: Any) -> tuple[float, float, float]:
    red, green, blue = map(float, values)
    return red, green, blue
