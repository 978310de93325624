"""The pack format, version 1 of npy packs and version 2 of HDF5 packs.

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
their names, within a class files in the order of theirs. Where a source declares its classes, as
CIFAR-10's own files do, classes and rows are in the order of the source. All arrays are in C order.

A class of a pack made with ``allow_missing=True`` may have no images, in a split or in all. It has
its label all the same, as in ``ImageFolder(S, allow_empty=True)`` with an empty folder for it.

Splits are named as visible folders, in UTF-8, without ``+`` or a backslash, and not "pack.json".
Classes and files are named as folders and files can be, splits and classes in at most 255 bytes; a
byte that is not UTF-8 is in JSON the surrogate that Python's surrogateescape makes of it. No two
images of a split have the same class and the same file name. Sources are what file names say.

In a directory, array S/x is the file ``S/x.npy`` (npy format 1.0, with exactly the header that
`store.npy` writes) and the manifest is ``pack.json``. In HDF5, it is the contiguous, unfiltered
dataset ``S/x``, and the manifest is the uint8 dataset ``pack.json``.

An HDF5 pack is read without HDF5, which can be led to loop for ever by one wrong byte. Its last 72
bytes are the footer:

    16 bytes   "cinicpack footer"
    3 x <u8    size of the file; where the manifest begins; how long it is
    32 bytes   SHA-256 of all bytes before these 32 that are in no array

The end of HDF5's own address space, which its superblock has, is behind the footer, so programs
that open the file to write and then write nothing leave it whole. Version 1 of HDF5 packs had no
footer. It is not read any more: such packs are made again.

Manifest
--------
A JSON object:

    format          "cinicpack"
    version         1, in HDF5 2
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
    offsets         HDF5 only: by name, the byte of the file at which the array begins
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
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from reprlib import repr as show
from typing import Any, Final, NamedTuple, Self

import numpy as np

from cinicpack import cinic10
from cinicpack.cinic10 import Origin
from cinicpack.errors import FormatVersionError, PackError
from cinicpack.store.fingerprints import fingerprint_splits

__all__ = [
    "HDF5_VERSION",
    "MANIFEST_NAME",
    "PIECE_BYTES",
    "PROVENANCE_DTYPE",
    "VERSION",
    "ArraySpec",
    "Group",
    "Manifest",
    "Normalization",
    "SplitInfo",
    "channel_statistics",
    "is_folder_name",
    "is_split_name",
    "list_others",
    "plan_arrays",
]

VERSION: Final = 1
HDF5_VERSION: Final = 2
MANIFEST_NAME: Final = "pack.json"
PIECE_BYTES: Final = 16 << 20
PROVENANCE_DTYPE: Final = np.dtype([("origin", "u1"), ("synset", "<u4"), ("number", "<u4")])
CHANNELS: Final = 3

_NAME_BYTES: Final = 255
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_MEMBERS: Final = frozenset(
    {
        *("format", "version", "image_shape", "classes", "normalization", "splits"),
        *("fingerprint", "piece_bytes", "arrays", "skipped"),
    }
)

# What the items of lists are called in errors.
_KINDS: Final[dict[type, str]] = {int: "whole numbers", str: "texts", list: "lists"}
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
    offsets: dict[str, int] | None = None

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
            "version": VERSION if self.offsets is None else HDF5_VERSION,
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
        if self.offsets is not None:
            content["offsets"] = self.offsets
        content["digest"] = _digest(content)
        members = (f'"{key}": {json.dumps(value)}' for key, value in content.items())
        return ("{\n" + ",\n".join(members) + "\n}\n").encode("ascii")

    @classmethod
    def from_json(cls, text: bytes, where: str, *, version: int = VERSION) -> Self:
        """Read a manifest, check it against its own digest, and check what it says.

        ``where`` names the file in errors, ``version`` is that of its container. Raises
        `FormatVersionError` for another version and `PackError` for what cannot be a pack's.
        """
        try:
            content = json.loads(text)
            recorded = content.pop("digest", None) if isinstance(content, dict) else None
            expected = _digest(content)
        except (ValueError, RecursionError) as error:
            raise PackError(f"{where}: expected JSON, found {error}; pack it again") from None
        if not isinstance(content, dict) or content.get("format") != "cinicpack":
            raise PackError(f"{where}: expected the manifest of a pack, found other JSON")
        found = content.get("version")
        if type(found) is not int or found != version:
            raise FormatVersionError(
                f"{where}: found format version {show(found)}, this cinicpack reads version "
                f"{version}; open it with the cinicpack that wrote it, or a newer one"
            )
        if recorded != expected:
            raise PackError(
                f"{where}: the manifest was changed or damaged (expected digest "
                f"{expected}, found {show(recorded)}); restore it or pack again"
            )
        try:
            return cls._from_content(content)
        except ValueError as error:
            raise PackError(f"{where}: not a valid manifest ({error}); pack again") from None

    @classmethod
    def _from_content(cls, content: dict[str, Any]) -> Self:
        """Build the manifest; raises ``ValueError`` for anything that `to_json` does not write."""
        in_hdf5 = content["version"] == HDF5_VERSION
        _check_members(content, "the manifest", _MEMBERS | ({"offsets"} if in_hdf5 else set()))
        height, width, channels = _check_list(content["image_shape"], "image_shape", int, 3)
        sides = 0 < height < 2**32 and 0 < width < 2**32
        _check(sides and channels == CHANNELS, "image_shape [H, W, 3]", content["image_shape"])
        _check(content["piece_bytes"] == PIECE_BYTES, "piece_bytes", content["piece_bytes"])
        classes = _check_list(content["classes"], "classes", str)
        for name in classes:
            _check(is_folder_name(name), "classes named as folders can be", name)
        _check(len(set(classes)) == len(classes), "every class once", classes)
        splits = {}
        named = isinstance(content["splits"], dict) and content["splits"]
        _check(named, "splits by their names", content["splits"])
        for name, split in content["splits"].items():
            _check(is_split_name(name), "a split name that a visible folder can have", name)
            splits[name] = _split(split, name, len(classes), height * width)
        fingerprint = fingerprint_splits({name: info.fingerprint for name, info in splits.items()})
        _check(content["fingerprint"] == fingerprint, "fingerprint", content["fingerprint"])
        skipped = _check_list(content["skipped"], "skipped", list)
        manifest = cls(
            image_shape=(height, width, channels),
            classes=tuple(classes),
            normalization=_normalization(content["normalization"], splits),
            splits=splits,
            fingerprint=fingerprint,
            arrays={},
            skipped=tuple((path, reason) for path, reason in map(_check_skip, skipped)),
        )
        arrays = _arrays(content["arrays"], list(manifest.specs()))
        offsets = None
        if in_hdf5:
            offsets = _check_members(content["offsets"], "offsets", arrays.keys())
            _check_list([*offsets.values()], "offsets", int)
        return replace(manifest, arrays=arrays, offsets=offsets)


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
    """Tell whether this is one component of a path, of 255 bytes at most, and leads nowhere else.

    A byte that is not UTF-8 is a surrogate in it, as Python has it.
    """
    try:
        encoded = name.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return False
    return (
        name not in ("", ".", "..")
        and not set(name) & set("/\0")
        and len(encoded) <= _NAME_BYTES
        and encoded.decode(errors="surrogateescape") == name
    )


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
        yield ArraySpec(f"{split}/sources", PROVENANCE_DTYPE, (sum(shards),))
        yield ArraySpec(f"{split}/names", np.dtype(("S", name_bytes)), (sum(shards),))


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


def _check(right: object, expected: str, found: object) -> None:
    if not right:
        raise ValueError(f"expected {expected}, found {show(found)}")


def _check_members(value: Any, what: str, names: Set[str]) -> dict[str, Any]:
    """Check that this is a JSON object with exactly these members."""
    _check(isinstance(value, dict), f"{what} as an object", value)
    if value.keys() != names:
        missing, more = show(sorted(names - value.keys())), show(sorted(value.keys() - names))
        raise ValueError(f"{what}: missing {missing}, not expected {more}")
    members: dict[str, Any] = value
    return members


def _check_list(value: Any, what: str, kind: type, count: int | None = None) -> list[Any]:
    """Check that this is a list of items of a kind, and of how many."""
    right = isinstance(value, list) and all(type(item) is kind for item in value)
    right = right and (kind is not int or all(item >= 0 for item in value))
    many = "" if count is None else f"{count} "
    right = right and count in (None, len(value))
    _check(right, f"{what} as a list of {many}{_KINDS[kind]}", value)
    items: list[Any] = value
    return items


def _check_skip(skip: list[Any]) -> list[str]:
    return _check_list(skip, "skipped", str, 2)


def _split(content: Any, name: str, classes: int, pixels: int) -> SplitInfo:
    what = f"split {show(name)}"
    _check_members(content, what, {"shards", "name_bytes", "fingerprint", "groups"})
    shards = _check_list(content["shards"], f"shards of {name}", int)
    _check(shards and all(shards), f"shards of {name} with rows", shards)
    [name_bytes] = _check_list([content["name_bytes"]], f"name_bytes of {name}", int)
    _check(0 < name_bytes < 2**31, f"name_bytes of {name}", name_bytes)
    fingerprint = content["fingerprint"]
    right = isinstance(fingerprint, str) and _SHA256.fullmatch(fingerprint)
    _check(right, f"fingerprint of {name}", fingerprint)
    rows = _check_list(content["groups"], f"groups of {name}", list)
    groups = tuple(_group(row, classes, pixels) for row in rows)
    kinds = [group[:2] for group in groups]
    _check(kinds == sorted(set(kinds)), f"groups of {name} in order, each once", rows)
    counted = sum(group.rows for group in groups)
    _check(counted == sum(shards), f"groups of {name} with {show(sum(shards))} rows", counted)
    return SplitInfo(tuple(shards), name_bytes, fingerprint, groups)


def _group(row: list[Any], classes: int, pixels: int) -> Group:
    label, origin, rows, *sums = _check_list(row, "group", int, 3 + 2 * CHANNELS)
    _check(label < classes and origin < len(Origin) and rows, "a group of a class and origin", row)
    totals, squares = sums[:CHANNELS], sums[CHANNELS:]
    for total, square in zip(totals, squares, strict=True):
        # A value is 0 to 255, and odd where its square is; the last is Cauchy's inequality.
        possible = total <= square <= 255 * total and (square - total) % 2 == 0
        possible = possible and total * total <= rows * pixels * square
        _check(possible, "a group with sums that pixels can have", row)
    return Group(label, origin, rows, tuple(totals), tuple(squares))


def _arrays(content: Any, specs: list[ArraySpec]) -> dict[str, tuple[str, ...]]:
    _check_members(content, "arrays", {spec.name for spec in specs})
    for spec in specs:
        pieces = _check_list(content[spec.name], spec.name, str, -(-spec.nbytes // PIECE_BYTES))
        _check(all(map(_SHA256.fullmatch, pieces)), f"digests of {spec.name}", pieces)
    return {name: tuple(pieces) for name, pieces in content.items()}


def _normalization(content: Any, splits: dict[str, SplitInfo]) -> Normalization:
    _check_members(content, "normalization", {"mean", "std", "origin"})
    origin = content["origin"]
    known = isinstance(origin, str) and (origin == "published" or origin in splits)
    _check(known, 'the origin of normalization, "published" or a split', origin)
    return Normalization(_triple(content["mean"], 1), _triple(content["std"], 0.5), origin)


def _triple(values: Any, most: float) -> tuple[float, float, float]:
    right = isinstance(values, list) and len(values) == CHANNELS
    right = right and all(type(value) in (int, float) and 0 <= value <= most for value in values)
    _check(right, f"three numbers from 0 to {most} as mean or std", values)
    red, green, blue = map(float, values)
    return red, green, blue
