"""Whether samples of batches are what they should be: shuffled, cropped, mirrored, normalised."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Sample", "check_samples", "read_sample"]

_PADDING = 4
_SHIFTS = [
    (down, right)
    for down in range(-_PADDING, _PADDING + 1)
    for right in range(-_PADDING, _PADDING + 1)
]
# Originals are looked up by eight pixels in the middle, which no crop loses.
_PATCH_HEIGHT, _PATCH_WIDTH = 2, 4
_MOST_CANDIDATES = 400
# How far rounding may bring a pixel from a whole grey level, of 255. Originals of bfloat16 images
# cannot be found, because bfloat16 rounds to half a level.
_TOLERANCE = {"float32": 0.02, "float16": 0.1}


class Sample(NamedTuple):
    """The first images of one epoch, as a rival gave them, and their labels."""

    images: NDArray[Any]
    labels: NDArray[Any]


class Found(NamedTuple):
    """Where an image came from; ``down`` and ``right`` are how far its window was moved."""

    row: int
    down: int
    right: int
    mirrored: bool


def read_sample(path: Path) -> Sample:
    with np.load(path) as arrays:
        images, labels = arrays["images"], arrays["labels"].reshape(-1)
    planar = images if images.shape[1] == 3 else images.transpose(0, 3, 1, 2)
    return Sample(planar, labels)


def check_samples(
    first: Sample,
    second: Sample,
    originals: NDArray[np.uint8],
    labels: NDArray[Any],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    dtype: str = "float32",
) -> dict[str, Any]:
    """Compare samples of two epochs with the images they were made of.

    ``originals`` are (N, 3, H, W). Each image is undone: its channels scaled back to grey levels,
    and the original found whose moved or mirrored pixels these are. ``left_out`` of what is
    returned names what the rival did not do.
    """
    images = np.concatenate([first.images, second.images])
    facts: dict[str, Any] = {
        "mean": round(float(images.mean(dtype=np.float64)), 3),
        "std": round(float(images.std(dtype=np.float64)), 3),
    }
    left_out = []
    if (
        np.array_equal(first.labels, second.labels)
        or (np.diff(first.labels.astype(int)) >= 0).all()
    ):
        left_out.append("shuffle")
    if (images.dtype == np.uint8) != (dtype == "uint8"):
        left_out.append("conversion to float")
    if dtype == "bfloat16":
        if abs(facts["mean"]) > 0.5 or not 0.7 < facts["std"] < 1.4:
            left_out.append("normalisation")
        return {**facts, "left_out": left_out}
    pixels, residual = _to_pixels(images, mean, std)
    if residual > _TOLERANCE.get(dtype, 0):
        left_out.append("normalisation")
    found = find_originals(pixels, originals)
    given = np.concatenate([first.labels, second.labels])
    known = [(place, label) for place, label in zip(found, given, strict=True) if place]
    if len(known) < 0.95 * len(images):
        left_out.append("exact pixels")
    if known:
        # Look at the first batch of one epoch, to see whether a whole batch has one crop.
        crops = {(place.down, place.right) for place in found[: len(first.images)] if place}
        mirrored = sum(place.mirrored for place, _ in known) / len(known)
        right = sum(int(labels[place.row] == label) for place, label in known) / len(known)
        if len(crops) == 1:
            moved = any(place.down or place.right for place, _ in known)
            left_out.append("a crop for each image" if moved else "crop")
        if not 0.35 < mirrored < 0.65:
            left_out.append("flip")
        if right < 1:
            left_out.append("labels")
        facts |= {"crops": len(crops), "mirrored": round(mirrored, 3), "labels": round(right, 3)}
    return {**facts, "found": round(len(known) / len(images), 3), "left_out": left_out}


def find_originals(images: NDArray[np.uint8], originals: NDArray[np.uint8]) -> list[Found | None]:
    """Look for the original of each image under all shifts, mirrored or not."""
    both = np.concatenate([images, images[..., ::-1]])
    wanted = _patch_keys(both, 0, 0)
    order = np.argsort(wanted)
    candidates: list[list[tuple[int, int, int]]] = [[] for _ in wanted]
    for down, right in _SHIFTS:
        keys = _patch_keys(originals, down, right)
        starts = np.searchsorted(wanted, keys, "left", sorter=order)
        stops = np.searchsorted(wanted, keys, "right", sorter=order)
        for row in np.flatnonzero(stops > starts).tolist():
            for query in order[starts[row] : stops[row]].tolist():
                if len(candidates[query]) < _MOST_CANDIDATES:
                    candidates[query].append((row, down, right))
    return [
        next(
            (
                Found(row, down, right, query >= len(images))
                for query in (number, number + len(images))
                for row, down, right in candidates[query]
                if _is_window(both[query], originals[row], down, right)
            ),
            None,
        )
        for number in range(len(images))
    ]


def _to_pixels(
    images: NDArray[Any], mean: tuple[float, ...], std: tuple[float, ...]
) -> tuple[NDArray[np.uint8], float]:
    """Return grey levels of 0 to 255, and how far the worst was from a whole one."""
    if images.dtype == np.uint8:
        return images, 0.0
    shape = (3, 1, 1)
    levels = (images * np.reshape(std, shape) + np.reshape(mean, shape)) * 255
    whole = np.rint(levels).clip(0, 255)
    return whole.astype(np.uint8), float(np.abs(levels - whole).max())


def _patch_keys(images: NDArray[np.uint8], down: int, right: int) -> NDArray[np.uint64]:
    """Return the middle of each image as one number, seen through a window moved so far."""
    height, width = images.shape[2:]
    top, left = (height - _PATCH_HEIGHT) // 2 + down, (width - _PATCH_WIDTH) // 2 + right
    patch = images[:, 1, top : top + _PATCH_HEIGHT, left : left + _PATCH_WIDTH]
    return np.ascontiguousarray(patch).reshape(len(images), 8).view(np.uint64).reshape(-1)


def _is_window(
    image: NDArray[np.uint8], original: NDArray[np.uint8], down: int, right: int
) -> bool:
    """Say if the image is the original seen through a moved window, whatever fills its edges."""
    height, width = image.shape[1:]
    top, bottom = max(0, -down), min(height, height - down)
    left, stop = max(0, -right), min(width, width - right)
    source = original[:, top + down : bottom + down, left + right : stop + right]
    return np.array_equal(image[:, top:bottom, left:stop], source)
