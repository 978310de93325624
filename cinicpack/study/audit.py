"""An audit of a pack: duplicates, empty images, leaks and balance."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cinicpack.cells import format_cell
from cinicpack.cinic10 import Origin
from cinicpack.jit import jit
from cinicpack.store.pack import Pack
from cinicpack.study.duplicates import find_duplicates
from cinicpack.study.planes import map_planes
from cinicpack.study.statistics import SOURCE_OF_ORIGIN
from cinicpack.text import counted

__all__ = [
    "FINDINGS",
    "FLAT_BELOW",
    "Audit",
    "Place",
    "audit_pack",
    "describe_audit",
    "format_audit",
    "format_findings",
    "locate",
    "measure_spread",
    "name_spread",
]

#: Standard deviation, of pixels in 0..255, that the liveliest channel of an image must reach. The
#: flattest of the 2,000 images that the authors show has 11.7.
FLAT_BELOW: Final = 5.0

#: The columns of the CSV with findings.
FINDINGS: Final = ("finding", "picture", "split", "class", "name", "detail")


class Place(NamedTuple):
    """Where an image is: ``pack[split].images[row]``, SPLIT/CLASS/NAME in a tree."""

    split: str
    row: int
    class_name: str
    name: str


@dataclass(frozen=True)
class Audit:
    """What `audit_pack` found.

    Attributes:
        pack: the pack.
        duplicates: for every picture that is there more than once, where.
        constant: images of a single colour.
        near_constant: other images that hardly vary in any channel.
        leaked: CIFAR-10's train images in the split "test".
        balance: by split and source, the number of images of every class.
    """

    pack: Pack
    duplicates: list[list[Place]]
    constant: list[Place]
    near_constant: list[Place]
    leaked: list[Place]
    balance: dict[str, dict[str, dict[str, int]]]


def audit_pack(pack: Pack, *, flat_below: float = FLAT_BELOW) -> Audit:
    """Look for blemishes; the authors' README says that ImageNet's images "were not vetted".

    Every pixel is read twice: to hash it and to measure how much it varies. An open issue of the
    data set (BayesWatch/cinic-10 #5) counts the duplicates in the classes of CINIC-10's train
    split: 121 airplane, 12 automobile, 24 bird, 27 cat, 139 deer, 25 dog, 319 frog, 80 horse, 22
    ship, 26 truck. ``split.select(exclude=FILE)`` leaves out what `format_findings` writes.

    Args:
        pack: an open pack.
        flat_below: images are near-constant if no channel has a standard deviation, of pixels in
            0..255, as high as this.

    >>> import cinicpack
    >>> len(audit_pack(cinicpack.open_pack("cinic10.pack")).leaked)
    10
    """
    splits = [pack[name] for name in pack.splits]
    spread = np.empty((sum(map(len, splits)), 3))
    map_planes(splits, lambda rows, planes: measure_spread(planes, spread[rows]))
    liveliest = spread.max(1)
    origins = np.concatenate([split.sources["origin"] for split in splits])
    tested = np.repeat([name == "test" for name in pack.splits], [len(split) for split in splits])

    groups = find_duplicates(splits)
    places = iter(locate(pack, np.concatenate([np.empty(0, np.int64), *groups])))
    return Audit(
        pack,
        duplicates=[[next(places) for _ in rows] for rows in groups],
        constant=locate(pack, np.flatnonzero(liveliest == 0)),
        near_constant=locate(pack, np.flatnonzero((liveliest > 0) & (liveliest < flat_below))),
        leaked=locate(pack, np.flatnonzero(tested & (origins == Origin.CIFAR10_TRAIN))),
        balance={name: _count_images(pack, name) for name in pack.splits},
    )


@jit
def measure_spread(planes: NDArray[np.uint8], out: NDArray[np.float64]) -> None:
    """Write the standard deviation of every channel: planes (n, 3, H * W), out (n, 3)."""
    pixels = np.uint64(planes.shape[2])
    for row in range(len(planes)):
        for channel in range(3):
            total = square = np.uint64(0)
            for value in planes[row, channel]:
                total += np.uint64(value)
                square += np.uint64(value) * np.uint64(value)
            # Whole numbers up to the square root: an image of one colour has exactly 0.
            out[row, channel] = np.sqrt(np.float64(pixels * square - total * total)) / pixels


def name_spread(places: Sequence[Place]) -> str:
    """Say over how many splits and classes some images are spread."""
    splits = "several splits" if len({place.split for place in places}) > 1 else "one split"
    classes = "several classes" if len({place.class_name for place in places}) > 1 else "one class"
    return f"{splits}, {classes}"


def format_findings(audit: Audit) -> str:
    """Write everything that was found as CSV, with an apostrophe before what looks like a formula.

    Columns: finding ("duplicate", "constant", "near-constant", "cifar10-train-in-test" or
    "imbalance"), picture (duplicates with the same number are the same picture), split, class,
    name and detail.
    """
    lines: list[tuple[str | int, ...]] = []
    for number, places in enumerate(audit.duplicates, 1):
        detail = f"one of {len(places)} in {name_spread(places)}"
        lines += [("duplicate", number, p.split, p.class_name, p.name, detail) for p in places]
    for finding, places, detail in (
        ("constant", audit.constant, "every pixel has the same colour"),
        ("near-constant", audit.near_constant, "hardly varies in any channel"),
        ("cifar10-train-in-test", audit.leaked, "models trained on CIFAR-10 have seen it"),
    ):
        lines += [(finding, "", p.split, p.class_name, p.name, detail) for p in places]
    for split, sources in audit.balance.items():
        for source, counts in sources.items():
            usual = _usual(counts)
            lines += [
                ("imbalance", "", split, name, "", f"{count} of {source}, not {usual} as usual")
                for name, count in counts.items()
                if count != usual
            ]
    return "".join(",".join(map(format_cell, line)) + "\n" for line in (FINDINGS, *lines))


def describe_audit(audit: Audit) -> dict[str, Any]:
    """Summarise an audit as JSON has it."""
    duplicates = audit.duplicates
    spreads = Counter(map(name_spread, duplicates))
    shared = Counter(
        pair
        for places in duplicates
        for pair in combinations(dict.fromkeys(place.split for place in places), 2)
    )
    return {
        "path": str(audit.pack.path),
        "images": sum(info.rows for info in audit.pack.manifest.splits.values()),
        "duplicates": {
            "pictures": len(duplicates),
            "images": sum(map(len, duplicates)),
            "spread": {name: spreads[name] for name in sorted(spreads, reverse=True)},
            "shared": [{"splits": pair, "pictures": count} for pair, count in shared.items()],
        },
        "constant": len(audit.constant),
        "near_constant": len(audit.near_constant),
        "cifar10_train_in_test": len(audit.leaked),
        "balance": audit.balance,
    }


def format_audit(summary: dict[str, Any]) -> str:
    """Lay out what `describe_audit` collected for people to read."""
    duplicates = summary["duplicates"]
    lines = [
        f"{summary['path']}: {counted(summary['images'], 'image')}",
        f"exact duplicates       {counted(duplicates['images'], 'image')} of "
        f"{counted(duplicates['pictures'], 'picture')}",
    ]
    lines += [f"  {count:,} in {spread}" for spread, count in duplicates["spread"].items()]
    for pair in duplicates["shared"]:
        lines.append(f"  {pair['pictures']:,} in both {' and '.join(pair['splits'])}")
    lines += [
        f"constant               {counted(summary['constant'], 'image')}",
        f"near-constant          {counted(summary['near_constant'], 'image')}",
        f"CIFAR-10 train in test {counted(summary['cifar10_train_in_test'], 'image')}",
        "images per class",
    ]
    for split, sources in summary["balance"].items():
        for source, counts in sources.items():
            usual = _usual(counts)
            others = [f"{count:,} {name}" for name, count in counts.items() if count != usual]
            exceptions = f", but {', '.join(others)}" if others else ""
            lines.append(f"  {split:<6} {source:<9} {usual:>6,}{exceptions}")
    return "\n".join(lines)


def locate(pack: Pack, rows: NDArray[np.int64]) -> list[Place]:
    """Say where rows, (n,) int64, are that count through all splits of a pack.

    >>> import cinicpack
    >>> locate(cinicpack.open_pack("cinic10.pack"), np.array([91]))[0].split
    'valid'
    """
    images = pack["+".join(pack.splits)]
    ends = np.cumsum([info.rows for info in pack.manifest.splits.values()])
    splits = np.searchsorted(ends, rows, "right")
    starts = np.concatenate([[0], ends])[splits]
    columns = (splits, rows - starts, images.labels[rows], images.names[rows])
    return [
        Place(pack.splits[split], row, pack.classes[label], os.fsdecode(name))
        for split, row, label, name in zip(*(column.tolist() for column in columns), strict=True)
    ]


def _count_images(pack: Pack, split: str) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for group in pack.manifest.splits[split].groups:
        of_source = counts.setdefault(
            SOURCE_OF_ORIGIN[Origin(group.origin)], dict.fromkeys(pack.classes, 0)
        )
        of_source[pack.classes[group.label]] += group.rows
    return counts


def _usual(counts: dict[str, int]) -> int:
    """Return the number of images that most classes have."""
    return Counter(counts.values()).most_common(1)[0][0]
