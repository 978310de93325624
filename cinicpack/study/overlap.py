"""The overlap of two packs: the images that both have, by split and class."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from cinicpack.cells import format_cell
from cinicpack.errors import ArgumentError
from cinicpack.store.pack import Pack
from cinicpack.study.audit import FINDINGS, Place, locate
from cinicpack.study.duplicates import find_duplicates
from cinicpack.text import counted, some, table

__all__ = [
    "Overlap",
    "Picture",
    "compare_packs",
    "describe_overlap",
    "format_common",
    "format_overlap",
]


class Picture(NamedTuple):
    """A picture that both packs have.

    Attributes:
        mine: where it is in the pack, once or more.
        theirs: where it is in the other.
    """

    mine: list[Place]
    theirs: list[Place]


@dataclass(frozen=True)
class Overlap:
    """What `compare_packs` found.

    Attributes:
        pack: the pack.
        against: the other pack.
        pictures: in the order of the pack's rows.
    """

    pack: Pack
    against: Pack
    pictures: list[Picture]


def compare_packs(pack: Pack, against: Pack) -> Overlap:
    """Find the images that two packs have in common: exactly the same pixels, whatever their names.

    Every pixel of both is hashed. So the CIFAR-10 part of CINIC-10 is found in a pack of CIFAR-10's
    own archive.

    Raises `ArgumentError` if the images of the two differ in size, so that none could be the same.

    >>> import cinicpack
    >>> pack = cinicpack.open_pack("cinic10.pack")
    >>> len(compare_packs(pack, pack).pictures)
    270
    """
    shapes = [one.manifest.image_shape for one in (pack, against)]
    if shapes[0] != shapes[1]:
        sizes = ["x".join(map(str, shape[:2])) for shape in shapes]
        raise ArgumentError(
            f"{against.path}: expected images of {sizes[0]} pixels, as {pack.path} has, found "
            f"{sizes[1]}; only images of one size can be the same"
        )
    splits = [one[name] for one in (pack, against) for name in one.splits]
    count = _count_images(pack)
    groups = [rows for rows in find_duplicates(splits) if rows[0] < count <= rows[-1]]
    rows = np.concatenate([np.empty(0, np.int64), *groups])
    # The rows of a picture come together, so each next one of either pack is the next there.
    mine = iter(locate(pack, rows[rows < count]))
    theirs = iter(locate(against, rows[rows >= count] - count))
    pictures = []
    for group in groups:
        number = int(np.searchsorted(group, count))
        pictures.append(Picture([*islice(mine, number)], [*islice(theirs, len(group) - number)]))
    return Overlap(pack, against, pictures)


def describe_overlap(overlap: Overlap) -> dict[str, Any]:
    """Summarise an overlap as JSON has it: the pack's images by split, class and split there."""
    pack, pictures = overlap.pack, overlap.pictures
    both: Counter[tuple[str, str]] = Counter()
    there: Counter[tuple[str, str, str]] = Counter()
    for mine, theirs in pictures:
        for place in mine:
            both[place.split, place.class_name] += 1
            for split in {place.split for place in theirs}:
                there[place.split, place.class_name, split] += 1
    classes = {
        split: {
            name: {
                "common": both[split, name],
                "in": {other: there[split, name, other] for other in overlap.against.splits},
            }
            for name in pack.classes
        }
        for split in pack.splits
    }
    return {
        "path": str(pack.path),
        "against": str(overlap.against.path),
        "images": _count_images(pack),
        "against_images": _count_images(overlap.against),
        "common": both.total(),
        "against_common": sum(len(picture.theirs) for picture in pictures),
        "pictures": len(pictures),
        "other_class": sum(
            not {place.class_name for place in mine} & {place.class_name for place in theirs}
            for mine, theirs in pictures
        ),
        "splits": {
            split: {"images": info.rows, "classes": classes[split]}
            for split, info in pack.manifest.splits.items()
        },
    }


def format_overlap(summary: dict[str, Any]) -> str:
    """Lay out what `describe_overlap` collected for people to read."""
    lines = [
        f"{summary['common']:,} of {counted(summary['images'], 'image')} of {summary['path']}",
        f"{summary['against_common']:,} of {counted(summary['against_images'], 'image')} of "
        f"{summary['against']}",
        f"are the same {counted(summary['pictures'], 'picture')}, {summary['other_class']:,} of "
        "them under another class there",
    ]
    rows: list[Sequence[str]] = []
    for split, info in summary["splits"].items():
        for name, found in info["classes"].items():
            if found["common"]:
                counts = (found["common"], *found["in"].values())
                rows.append((split, name, *(f"{count:,}" for count in counts)))
    if rows:
        first = next(iter(summary["splits"].values()))
        others = next(iter(first["classes"].values()))["in"]
        rows.insert(0, ("", "", "common", *(f"in {split}" for split in others)))
        lines += table(rows, left=(0, 1))
    return "\n".join(lines)


def format_common(overlap: Overlap) -> str:
    """Write the pack's images that the other pack has too as CSV, like `audit.format_findings`.

    So ``select(exclude=FILE)`` leaves them out. The finding is "common"; the detail names the
    images in the other pack.
    """
    lines: list[tuple[str | int, ...]] = [FINDINGS]
    for number, (mine, theirs) in enumerate(overlap.pictures, 1):
        names = [f"{place.split}/{place.class_name}/{place.name}" for place in theirs]
        for place in mine:
            line = ("common", number, place.split, place.class_name, place.name)
            lines.append((*line, f"in the other pack {some(names)}"))
    return "".join(",".join(map(format_cell, line)) + "\n" for line in lines)


def _count_images(pack: Pack) -> int:
    return sum(info.rows for info in pack.manifest.splits.values())
