"""The ImageNet images of a pack: the authors' list of contributors, and counts per synset."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cinicpack.store.pack import Pack
from cinicpack.study.synsets import Synset

__all__ = [
    "SynsetCount",
    "count_synsets",
    "format_contributors",
    "format_counts",
    "format_unlisted",
]

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
    >>> pack = cinicpack.open_pack("cinic10.pack")  # doctest: +SKIP
    >>> print(format_contributors(pack)[:69])  # doctest: +SKIP
    synset, image_num, cinic_set, class
    n02686568, 10011, train, airplane
    """
    header = ["synset", "image_num", "cinic_set", "class"]
    lines = [", ".join(header if synsets is None else [*header, "words", "place"])]
    places = _find_places(synsets)
    for split in pack.splits:
        pairs, pair_of_row, numbers = _find_pairs(pack, split)
        # What stands before and after the number is the same for all images of a pair.
        heads = [_wnid(synset) for _, synset in pairs]
        tails = []
        for pair in pairs:
            known = () if synsets is None else places.get(pair, ("", ""))
            tails.append(", ".join(map(_cell, (split, pair[0], *known))))
        lines += [
            f"{heads[pair]}, {number}, {tails[pair]}"
            for pair, number in zip(pair_of_row.tolist(), numbers.tolist(), strict=True)
        ]
    return "\n".join(lines) + "\n"


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
        rows.append((_wnid(count.number), count.class_name, *images, count.words, count.place))
    return "".join(", ".join(map(_cell, row)) + "\n" for row in rows)


def format_unlisted(counts: Sequence[SynsetCount]) -> str:
    """Report the images whose synset is not listed under their class, if there are any."""
    unlisted = [count for count in counts if count.class_name not in count.listed]
    images = sum(sum(count.images.values()) for count in unlisted)
    lines = [f"{images:,} images have a synset that is not listed under their class"]
    for count in unlisted:
        where = f"listed under {' and '.join(count.listed)}" if count.listed else "not listed"
        own = sum(count.images.values())
        lines.append(f"  {own:,} of {_wnid(count.number)} in {count.class_name}: {where}")
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


def _wnid(number: int) -> str:
    return f"n{number:08d}"


def _cell(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if set(text) & set(',"\n') else text
