"""Contact sheets: of one class, of all classes, of duplicates."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cinicpack.errors import ArgumentError
from cinicpack.store.split import Split
from cinicpack.study.audit import Audit, Place, name_spread
from cinicpack.study.picture import draw_bands, draw_grid

__all__ = ["draw_classes", "draw_duplicates", "draw_sheet"]

Pixels = NDArray[np.uint8]


def draw_sheet(split: Split, *, rows: int = 10, columns: int = 20, seed: int = 0) -> Pixels:
    """Draw a random sample of images as the authors do in ``images/cinic-CLASS.png``.

    Tile (r, c) of 32x32 pixels starts at pixel (1 + 33 * r, 1 + 33 * c). Where there are fewer
    than ``rows * columns`` images all of them are shown, in as many rows as that takes.

    Args:
        split: what to sample from; ``split.select(classes="cat")`` for one class.
        rows: of the sheet.
        columns: of the sheet.
        seed: which images are drawn, and in which order.

    Returns:
        uint8 (331, 661, 3) for 10 rows and 20 columns.

    Raises `ArgumentError` for a seed below 0.
    """
    if seed < 0:
        raise ArgumentError(f"expected seed of at least 0, found {seed}")
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(split), min(rows * columns, len(split)), replace=False)
    return draw_grid(split.images[chosen], columns)


def draw_classes(split: Split, *, rows: int = 2, columns: int = 20, seed: int = 0) -> Pixels:
    """Draw a labelled sheet of a few rows for every class that occurs, one below the other."""
    names = [split.pack.classes[label] for label in np.unique(split.labels)]
    return draw_bands(
        [
            (name, draw_sheet(split.select(classes=name), rows=rows, columns=columns, seed=seed))
            for name in names
        ]
    )


def draw_duplicates(audit: Audit, *, limit: int = 40) -> Pixels:
    """Draw the pictures that are in a pack more than once, with the places where they are.

    A number is that of the picture in `format_findings`. Where there are too many, those in several
    splits are chosen first, then those in several classes, then those with the most copies.

    Args:
        audit: what `audit_pack` found.
        limit: how many pictures are drawn at most.

    Raises `ArgumentError` if there are none.
    """
    if not audit.duplicates:
        raise ArgumentError(f"{audit.pack.path}: expected duplicates to draw, found none")
    numbered = sorted(
        enumerate(audit.duplicates, 1),
        key=lambda entry: (name_spread(entry[1]), len(entry[1])),
        reverse=True,
    )
    bands = []
    for number, places in sorted(numbered[:limit]):
        image = audit.pack[places[0].split].images[places[0].row]
        bands.append((_label(number, places), draw_grid(image[None], 1, scale=2)))
    half = -(-len(bands) // 2)
    halves = [draw_bands(part) for part in (bands[:half], bands[half:]) if part]
    below = [(0, max(map(len, halves)) - len(picture)) for picture in halves]
    return np.concatenate(
        [
            np.pad(picture, (pad, (0, 0), (0, 0)), constant_values=255)
            for picture, pad in zip(halves, below, strict=True)
        ],
        axis=1,
    )


def _label(number: int, places: Sequence[Place]) -> str:
    """Name the places of a picture in the four lines that fit beside it."""
    lines = [f"{place.split}/{place.class_name}/{place.name}" for place in places]
    if len(lines) > 4:
        lines[3:] = [f"and {len(lines) - 3:,} more"]
    lines[0] = f"{number}.  {lines[0]}"
    return "\n".join(lines)
