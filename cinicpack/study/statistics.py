"""Channel statistics of a pack, of any part of it, beside the published ones."""

from typing import Any, Final, Literal, NamedTuple

from cinicpack import cinic10, text
from cinicpack.cinic10 import Origin
from cinicpack.errors import ArgumentError
from cinicpack.store.manifest import Group, channel_statistics
from cinicpack.store.pack import Pack
from cinicpack.store.selection import ORIGINS_OF_SOURCE

__all__ = [
    "SOURCE_OF_ORIGIN",
    "Statistics",
    "StatisticsTable",
    "compute_statistics",
    "describe_statistics",
    "format_statistics",
]

#: For every origin the ``source=`` that selects it, or "unknown".
SOURCE_OF_ORIGIN: Final = {
    Origin.UNKNOWN: "unknown",
    **{origin: name for name, origins in ORIGINS_OF_SOURCE.items() for origin in origins},
}

_COLOURS: Final = ("red", "green", "blue")


class Statistics(NamedTuple):
    """Population mean and standard deviation per channel, for pixels in [0, 1]."""

    images: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class StatisticsTable(NamedTuple):
    """Statistics of some images, and of the groups that they fall into, by name."""

    total: Statistics
    groups: dict[str, Statistics]


def compute_statistics(
    pack: Pack,
    split: str | None = None,
    *,
    source: str | None = None,
    by: Literal["class", "source", "split"] | None = None,
) -> StatisticsTable:
    """Compute what the authors give as ``cinic_mean_RGB`` and ``cinic_std_RGB`` in their README.

    From the exact integer sums in the manifest: no pixels are read, and the only rounding is that
    of one division and one square root a figure.

    Args:
        pack: an open pack.
        split: a split, or several joined by ``+``; all by default.
        source: "cifar10" or "imagenet"; every image by default.
        by: what to group by; groups without images are left out.

    Raises:
        SelectionError: for a split or source that the pack does not have.
        ArgumentError: ``by`` is something else.

    >>> import cinicpack
    >>> pack = cinicpack.open_pack("cinic10.pack")
    >>> compute_statistics(pack, "train", by="source").groups["cifar10"].images
    20
    """
    if by not in (None, "class", "source", "split"):
        raise ArgumentError(f"by: expected 'class', 'source', 'split' or None, found {by!r}")
    split = "+".join(pack.splits) if split is None else split
    # Only for its errors: select() refuses a source that does not exist or has no images here. It
    # reads no image.
    pack[split].select(source=source)
    chosen = [
        (name, group)
        for name in split.split("+")
        for group in pack.manifest.splits[name].groups
        if source is None or group.origin in ORIGINS_OF_SOURCE[source]
    ]
    members: dict[str, list[Group]] = {}
    if by is not None:
        order = {"class": pack.classes, "source": SOURCE_OF_ORIGIN.values(), "split": pack.splits}
        members = {name: [] for name in order[by]}
        for name, group in chosen:
            key = {
                "class": pack.classes[group.label],
                "source": SOURCE_OF_ORIGIN[Origin(group.origin)],
                "split": name,
            }
            members[key[by]].append(group)
    return StatisticsTable(
        _compute([group for _, group in chosen], pack),
        {name: _compute(groups, pack) for name, groups in members.items() if groups},
    )


def describe_statistics(table: StatisticsTable, pack: Pack) -> dict[str, Any]:
    """Collect a table as JSON has it, with the published values and the differences from them.

    ``published`` and ``difference`` (of the total) are None where the pack is not of CINIC-10
    (`cinic10.is_cinic10`). Where it is, a part of it is compared with the published values of the
    whole.
    """
    published = difference = None
    if pack.manifest.is_cinic10:
        published = {"mean": cinic10.MEAN, "std": cinic10.STD}
        difference = {
            "mean": _subtract(table.total.mean, cinic10.MEAN),
            "std": _subtract(table.total.std, cinic10.STD),
        }
    return {
        "path": str(pack.path),
        "groups": {name: group._asdict() for name, group in table.groups.items()},
        "total": table.total._asdict(),
        "published": published,
        "difference": difference,
    }


def format_statistics(table: StatisticsTable, pack: Pack) -> str:
    """Lay a table out for people to read: figures to 8 digits, as the published ones are."""
    rows = [("", "images", *(f"{kind} {c}" for kind in ("mean", "std") for c in _COLOURS))]
    for name, (images, mean, std) in [*table.groups.items(), ("all", table.total)]:
        rows.append((name, f"{images:,}", *(f"{value:.8f}" for value in (*mean, *std))))
    summary = describe_statistics(table, pack)
    for name, pattern in (("published", "{:.8f}"), ("difference", "{:+.8f}")):
        if values := summary[name]:
            cells = (pattern.format(value) for value in (*values["mean"], *values["std"]))
            rows.append((name, "", *cells))
    return "\n".join(text.table(rows, (0, 9, *[11] * 6)))


def _compute(groups: list[Group], pack: Pack) -> Statistics:
    return Statistics(
        sum(group.rows for group in groups), *channel_statistics(groups, pack.image_shape)
    )


def _subtract(found: tuple[float, ...], published: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(a - b for a, b in zip(found, published, strict=True))
