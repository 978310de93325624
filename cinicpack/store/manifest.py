"""Manifests: what a pack says of itself, written, read and checked (`store.format`)."""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, replace
from reprlib import repr as show
from typing import Any, Final, NamedTuple, Self

from cinicpack import cinic10
from cinicpack.cinic10 import Origin
from cinicpack.errors import FormatVersionError, PackError
from cinicpack.store.fingerprints import fingerprint_splits
from cinicpack.store.format import (
    CHANNELS,
    FILTERS,
    FITS,
    HDF5_VERSION,
    MAX_MANIFEST_BYTES,
    PIECE_BYTES,
    VERSION,
    ArraySpec,
    is_folder_name,
    is_split_name,
    plan_arrays,
)

__all__ = [
    "Group",
    "Manifest",
    "Normalization",
    "Resize",
    "SplitInfo",
    "channel_statistics",
]

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_MEMBERS: Final = frozenset(
    {
        *("format", "version", "image_shape", "classes", "normalization", "splits"),
        *("fingerprint", "piece_bytes", "arrays", "skipped"),
    }
)
# How errors call the items of a list, by their type.
_KINDS: Final[dict[type, str]] = {int: "whole numbers", str: "texts", list: "lists"}


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


class Resize(NamedTuple):
    """How images were given one size.

    Attributes:
        size: height and width.
        filter: Pillow's resampling filter, out of `FILTERS`.
        fit: "squash", both sides by themselves, or "crop", the shorter side first, of the longer
            then the middle; out of `FITS`.
    """

    size: tuple[int, int]
    filter: str
    fit: str


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
    resize: Resize | None = None

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
        if self.resize is not None:
            content["resize"] = self.resize._asdict()
        if self.offsets is not None:
            content["offsets"] = self.offsets
        content["digest"] = _digest(content)
        members = (f'"{key}": {json.dumps(value)}' for key, value in content.items())
        text = ("{\n" + ",\n".join(members) + "\n}\n").encode("ascii")
        if len(text) > MAX_MANIFEST_BYTES:
            raise PackError(
                f"expected a manifest of at most {MAX_MANIFEST_BYTES} bytes, found {len(text)}; "
                "choose larger shards (shard_rows) if there are many, or leave the bad images out "
                "of the source"
            )
        return text

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
        others = {"offsets"} if in_hdf5 else set()
        others |= content.keys() & {"resize"}
        _check_members(content, "the manifest", _MEMBERS | others)
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
            resize=_resize(content["resize"], (height, width)) if "resize" in content else None,
        )
        arrays = _arrays(content["arrays"], list(manifest.specs()))
        offsets = None
        if in_hdf5:
            offsets = _check_members(content["offsets"], "offsets", arrays.keys())
            _check_list([*offsets.values()], "offsets", int)
        return replace(manifest, arrays=arrays, offsets=offsets)


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
    right = isinstance(value, list) and {*map(type, value)} <= {kind}
    right = right and (kind is not int or min(value, default=0) >= 0)
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
        # A value from 0 to 255 is at most its square, at least a 255th of the square, and odd where
        # the square is. The condition on the square of the total is Cauchy's inequality.
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


def _resize(content: Any, size: tuple[int, int]) -> Resize:
    _check_members(content, "resize", {"size", "filter", "fit"})
    _check(content["size"] == [*size], "resize to the size of the images", content["size"])
    _check(content["filter"] in FILTERS, "a filter of resize", content["filter"])
    _check(content["fit"] in FITS, "a fit of resize", content["fit"])
    return Resize(size, content["filter"], content["fit"])


def _triple(values: Any, most: float) -> tuple[float, float, float]:
    right = isinstance(values, list) and len(values) == CHANNELS
    right = right and all(type(value) in (int, float) and 0 <= value <= most for value in values)
    _check(right, f"three numbers from 0 to {most} as mean or std", values)
    red, green, blue = map(float, values)
    return red, green, blue
