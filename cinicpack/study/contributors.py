"""The ImageNet images of a pack: the authors' list of contributors, and counts per synset."""

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cinicpack.cells import format_cell
from cinicpack.cinic10 import CLASSES, SPLITS
from cinicpack.errors import SourceError
from cinicpack.paths import naming_file
from cinicpack.store.pack import Pack
from cinicpack.study.synsets import Synset, format_synset
from cinicpack.text import counted

__all__ = [
    "SynsetCount",
    "count_synsets",
    "format_contributors",
    "format_counts",
    "format_unlisted",
    "read_contributors",
]

_COLUMNS: Final = ("synset", "image_num", "cinic_set", "class")

Synsets = Mapping[str, Sequence[Synset]]


class SynsetCount(NamedTuple):
    """How many images of one class come from one synset.

    Attributes:
        number: WordNet's: ``n02691156`` is 2691156.
        class_name: the class.
        images: their number, by split.
        listed: the classes under which the synset is listed; this one may not be among them.
        words: the synset's words; empty if it is not listed under this class.
        place: the way from the class's topmost synset to it, ``"airplane > jet > twinjet"``, or
            several, joined by ``" | "``; empty if it is not listed under this class.
    """

    number: int
    class_name: str
    images: dict[str, int]
    listed: tuple[str, ...]
    words: str
    place: str


def format_contributors(pack: Pack, synsets: Synsets | None = None) -> str:
    """List the ImageNet images of a pack like the authors' ``imagenet-contributors.csv``.

    Columns synset, image_num, cinic_set and class, and with ``synsets`` (from `read_synsets`) also
    words and place, as in `SynsetCount`. In the order of the pack, and like the authors' list with
    a space after every comma.

    >>> import cinicpack
    >>> text = format_contributors(cinicpack.open_pack("cinic10.pack"))
    >>> text.splitlines()[0]
    'synset, image_num, cinic_set, class'
    """
    lines = [", ".join(_COLUMNS if synsets is None else (*_COLUMNS, "words", "place"))]
    places = _find_places(synsets)
    for split in pack.splits:
        pairs, pair_of_row, numbers = _find_pairs(pack, split)
        # Of a line only the number differs between images of one class and synset: the text before
        # and after it is made once for them.
        heads = [format_synset(synset) for _, synset in pairs]
        tails = []
        for pair in pairs:
            known = () if synsets is None else places.get(pair, ("", ""))
            tails.append(", ".join(map(format_cell, (split, pair[0], *known))))
        lines += [
            f"{heads[pair]}, {number}, {tails[pair]}"
            for pair, number in zip(pair_of_row.tolist(), numbers.tolist(), strict=True)
        ]
    return "\n".join(lines) + "\n"


def read_contributors(path: str | os.PathLike[str]) -> dict[tuple[str, str], list[tuple[int, int]]]:
    """Read a list as `format_contributors` writes it, or the authors' own.

    Other columns than synset, image_num, cinic_set and class are passed over.

    Returns:
        For every split and class that occurs its images, by synset and number, in the order of the
        list.

    Raises:
        SourceError: a column is lacking, a line is none of an image of ImageNet in a split and
            class of CINIC-10, an image is there twice in the same, or there are no images.

    >>> import cinicpack
    >>> from cinicpack.study.output import write_text
    >>> write_text("contributors.csv", format_contributors(cinicpack.open_pack("cinic10.pack")))
    >>> len(read_contributors("contributors.csv")["train", "cat"])
    7
    """
    listed: dict[tuple[str, str], dict[tuple[int, int], None]] = {}
    rows = _read_rows(path)
    _, header = next(rows, (0, []))
    if not set(_COLUMNS) <= set(header):
        raise SourceError(
            f"{path}: expected the columns {', '.join(_COLUMNS)}, found {', '.join(header)}"
        )
    places = [header.index(column) for column in _COLUMNS]
    for line, row in rows:
        try:
            synset, number, split, name = (row[place].strip() for place in places)
            key = (int(synset.removeprefix("n")), int(number))
            if split not in SPLITS or name not in CLASSES:
                raise ValueError
        except (ValueError, IndexError):
            raise SourceError(
                f"{path}:{line}: expected a line like 'n02691156, 10153, train, airplane', found "
                f"{', '.join(row)!r}"
            ) from None
        keys = listed.setdefault((split, name), {})
        if key in keys:
            raise SourceError(
                f"{path}:{line}: expected every image of a class once, found {', '.join(row)!r} "
                "again"
            )
        keys[key] = None
    if not listed:
        raise SourceError(f"{path}: expected images of ImageNet, found no line")
    return {folder: list(keys) for folder, keys in listed.items()}


def _read_rows(path: str | os.PathLike[str]) -> Iterator[tuple[int, list[str]]]:
    """Read the rows of a CSV file that are not empty, each with the number of its line."""
    with naming_file(path), open(path, encoding="utf-8", errors="replace", newline="") as file:
        rows = csv.reader(file, skipinitialspace=True)
        try:
            for row in filter(None, rows):
                yield rows.line_num, row
        except csv.Error as error:
            raise SourceError(f"{path}:{rows.line_num}: expected a CSV file: {error}") from error


def count_synsets(pack: Pack, synsets: Synsets | None = None) -> list[SynsetCount]:
    """Count the ImageNet images of every class and synset that occur.

    In the order of the classes, within a class the synset with the most images first. What
    ``synsets`` (from `read_synsets`) says of them is empty without it.
    """
    places = _find_places(synsets)
    counts: dict[tuple[str, int], dict[str, int]] = {}
    for split in pack.splits:
        pairs, pair_of_row, _ = _find_pairs(pack, split)
        for pair, images in zip(pairs, np.bincount(pair_of_row).tolist(), strict=True):
            counts.setdefault(pair, dict.fromkeys(pack.splits, 0))[split] = images
    listed: dict[int, list[str]] = {}
    for name, number in places:
        listed.setdefault(number, []).append(name)
    found = [
        SynsetCount(
            number,
            name,
            images,
            tuple(listed.get(number, ())),
            *places.get((name, number), ("", "")),
        )
        for (name, number), images in counts.items()
    ]
    return sorted(
        found,
        key=lambda count: (pack.class_to_idx[count.class_name], -sum(count.images.values())),
    )


def format_counts(counts: Sequence[SynsetCount]) -> str:
    """Write counts in the style of the authors' list: synset, class, splits, words and place."""
    splits = list(counts[0].images) if counts else []
    rows = [("synset", "class", *splits, "words", "place")]
    for count in counts:
        images = map(str, count.images.values())
        rows.append(
            (format_synset(count.number), count.class_name, *images, count.words, count.place)
        )
    return "".join(", ".join(map(format_cell, row)) + "\n" for row in rows)


def format_unlisted(counts: Sequence[SynsetCount]) -> str:
    """Report the images whose synset is not listed under their class, if there are any."""
    unlisted = [count for count in counts if count.class_name not in count.listed]
    images = sum(sum(count.images.values()) for count in unlisted)
    lines = [
        f"{counted(images, 'image has', 'images have')} a synset that is not listed "
        "under their class"
    ]
    for count in unlisted:
        where = f"listed under {' and '.join(count.listed)}" if count.listed else "not listed"
        own = sum(count.images.values())
        lines.append(f"  {own:,} of {format_synset(count.number)} in {count.class_name}: {where}")
    return "\n".join(lines)


def _find_pairs(
    pack: Pack, split: str
) -> tuple[list[tuple[str, int]], NDArray[np.int64], NDArray[np.uint32]]:
    """Find the ImageNet images of a split.

    Returns:
        Pairs of class and synset; for every image the place of its pair among these; for every
        image its number.
    """
    images = pack[split]
    rows = images.where(source="imagenet")
    sources = images.sources[rows]
    codes = images.labels[rows].astype(np.int64) << 32 | sources["synset"]
    unique, pair_of_row = np.unique(codes, return_inverse=True)
    pairs = [(pack.classes[code >> 32], code & 0xFFFFFFFF) for code in unique.tolist()]
    return pairs, pair_of_row, sources["number"]


def _find_places(synsets: Synsets | None) -> dict[tuple[str, int], tuple[str, str]]:
    """Look up words and place of every class and synset."""
    places: dict[tuple[str, int], tuple[str, str]] = {}
    for name, members in (synsets or {}).items():
        first_words = {synset.number: synset.words.split(",")[0] for synset in members}
        for synset in members:
            place = " > ".join(first_words[number] for number in synset.path)
            if known := places.get((name, synset.number)):
                place = f"{known[1]} | {place}"
            places[name, synset.number] = (synset.words, place)
    return places
