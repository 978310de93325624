"""Judgement: which images are packed, and what is said about them and about the whole."""

import logging
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cinicpack import cinic10
from cinicpack.convert.plan import Plan, Rows, Wanted
from cinicpack.convert.results import ConvertedImages
from cinicpack.convert.source import Source
from cinicpack.errors import BadImagesError, SourceError
from cinicpack.text import counted

__all__ = ["drop_bad", "judge", "judge_names", "tell_remarks"]

_SHOWN: Final = 20
# Warnings name the caller of `packer.pack` and of functions like it, which call `packer.make_pack`,
# which calls `packer.build`, which calls this module.
_STACK_LEVEL: Final = 5


def tell_remarks(source: Source) -> None:
    """Warn of what a source has passed over."""
    remarks = source.remarks
    if remarks.ignored:
        one, several = "file that is no image is", "files that are no images are"
        ignored = counted(remarks.ignored, one, several)
        warnings.warn(
            f"{source.path}: {ignored} ignored",
            stacklevel=_STACK_LEVEL,
        )


def drop_bad(plan: Plan, images: ConvertedImages, wanted: Wanted) -> Plan:
    """Take out the images that cannot be decoded or have another size than most.

    Raises `BadImagesError`, which lists all of them, unless they are to be skipped and leave some
    in every split, and in every class of it or ``wanted.allow_missing``.
    """
    bad = _find_bad(plan, images)
    if not bad:
        return plan
    listed = sorted((_name_alike(plan.paths[number]), reason) for number, reason in bad.items())
    if not wanted.skip_bad or len(bad) == len(plan.rows):
        advice = "repair them"
        if bad.keys() - images.bad.keys():
            advice += ", give all images one size with --resize 32 (resize=32)"
        if not wanted.skip_bad:
            advice += ", or leave them out with --skip-bad (skip_bad=True)"
        shown = "".join(f"\n  {path}: {reason}" for path, reason in listed[:_SHOWN])
        more = f"\n  and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
        raise BadImagesError(
            f"{plan.source}: {len(bad)} of {len(plan.rows)} images cannot be packed; "
            f"{advice}:{shown}{more}",
            listed,
        )
    splits = {}
    for name, (order, labels) in plan.splits.items():
        good = ~np.isin(order, list(bad))
        if not good.any():
            raise BadImagesError(f"{plan.source}: no image of split {name!r} can be packed", listed)
        if not wanted.allow_missing and (lost := np.setdiff1d(labels, labels[good]).tolist()):
            raise BadImagesError(
                f"{plan.source}: no image of class {plan.classes[lost[0]]!r} in split {name!r} can "
                "be packed; repair some, or accept that with --allow-missing (allow_missing=True)",
                listed,
            )
        splits[name] = Rows(order[good], labels[good])
    return replace(plan, splits=splits, skipped=tuple(listed))


def judge(plan: Plan, images: ConvertedImages, wanted: Wanted) -> None:
    """Say what a user would want to know; raise if CINIC-10 is expected and not found."""
    if plan.skipped:
        one, several = "image that cannot be packed is", "images that cannot be packed are"
        skipped = counted(len(plan.skipped), one, several)
        warnings.warn(
            f"{plan.source}: {skipped} left out; the manifest lists them",
            stacklevel=_STACK_LEVEL,
        )
    if reduced := _take_kept(images.reduced, plan):
        warnings.warn(
            f"{plan.source}: {counted(len(reduced), 'image has', 'images have')} 16 bits per "
            "channel, of which Pillow keeps "
            f"8 (grey above 255 becomes white); the first is {plan.paths[reduced[0]]}",
            stacklevel=_STACK_LEVEL,
        )
    _, *counts = np.bincount(images.former[plan.rows], minlength=len(images.kinds)).tolist()
    if any(counts):
        kinds = sorted(zip(counts, images.kinds[1:], strict=True), key=lambda kind: -kind[0])
        each = ", ".join(f"{count:,} {kind}" for count, kind in kinds if count)
        became = counted(sum(counts), "image", "images")
        logging.getLogger(__name__).info(f"{plan.source}: {became} became RGB: {each}")
    of_each, image_shape = images.provenance["origin"], images.image_shape(plan.rows)
    whole = wanted.splits is None
    differences = list(_find_differences(plan, of_each, image_shape, whole=whole))
    _refuse_unexpected(plan, wanted, differences)
    origins = images.origins(plan.rows)
    resembles = plan.classes == cinic10.CLASSES and cinic10.Origin.IMAGENET in origins
    if resembles and differences:
        text = f"{plan.source}: like CINIC-10, but with {'; '.join(differences)}"
        if not cinic10.is_cinic10(plan.classes, origins):
            text += "; so mean and std are its own, not the published ones"
        warnings.warn(text, stacklevel=_STACK_LEVEL)


def judge_names(plan: Plan, wanted: Wanted) -> None:
    """Raise if CINIC-10 is expected, and names and numbers say already that these images are not.

    None of the images has to be decoded for that.
    """
    if wanted.expect == "cinic10":
        names = plan.paths.names(slice(None))
        of_each = np.array([origin for origin, _, _ in cinic10.parse_names(names)], np.uint8)
        whole = wanted.splits is None
        _refuse_unexpected(plan, wanted, list(_find_differences(plan, of_each, None, whole=whole)))


def _refuse_unexpected(plan: Plan, wanted: Wanted, differences: list[str]) -> None:
    if wanted.expect == "cinic10" and differences:
        raise SourceError(f"{plan.source}: expected CINIC-10, found {'; '.join(differences)}")


def _find_bad(plan: Plan, images: ConvertedImages) -> Mapping[int, str]:
    """Find the rows that cannot be packed, with the reasons."""
    readable = plan.rows[images.offsets[plan.rows] >= 0]
    bad = {number: images.bad[number] for number in _take_kept(images.bad, plan)}
    if len(readable):
        # Sizes as one number each, since np.unique takes half a second for 270,000 pairs.
        sizes = images.shapes[readable, 0].astype(np.int64)
        sizes <<= 32
        sizes += images.shapes[readable, 1]
        found_sizes, counts = np.unique(sizes, return_counts=True)
        height, width = divmod(int(found_sizes[counts.argmax()]), 1 << 32)
        for number in readable[sizes != (height << 32) + width].tolist():
            found = "x".join(map(str, images.shapes[number].tolist()))
            bad[number] = f"has {found} pixels (height x width), most images {height}x{width}"
    return bad


def _take_kept(numbers: Collection[int], plan: Plan) -> list[int]:
    """Return those of some images that are rows of the pack."""
    found = np.fromiter(numbers, np.int64)
    kept: list[int] = found[np.isin(found, plan.rows)].tolist() if len(found) else []
    return kept


def _name_alike(path: str) -> str:
    """Name an image alike whether or not a lone folder lies above the splits."""
    return "/".join(path.split("/")[-3:])


def _find_differences(
    plan: Plan,
    of_each: NDArray[np.uint8],
    image_shape: tuple[int, int, int] | None,
    *,
    whole: bool,
) -> Iterator[str]:
    """Say in what the images differ from CINIC-10, as far as names, numbers and sizes tell.

    Args:
        plan: which images there are.
        of_each: (n,), the origin of every image of the plan's paths.
        image_shape: of all images; None: it is not known yet.
        whole: all splits of CINIC-10 should be there.
    """
    if plan.classes != cinic10.CLASSES:
        yield f"classes {', '.join(plan.classes)}"
        return
    if image_shape not in (None, cinic10.IMAGE_SHAPE):
        height, width, _ = image_shape
        yield f"images of {height}x{width} pixels"
    if cinic10.Origin.IMAGENET not in of_each[plan.rows]:
        yield "no image that is named as one of ImageNet"
    if whole and (missing := [name for name in cinic10.SPLITS if name not in plan.splits]):
        yield f"no split {' or '.join(missing)}"
    spans: dict[tuple[int, int], list[str]] = {}
    for name, rows in plan.splits.items():
        if name not in cinic10.SPLITS:
            yield f"a split {name!r}"
        counts = np.bincount(rows.labels, minlength=len(plan.classes))
        if (counts != cinic10.PER_CLASS).any():
            spans.setdefault((counts.min(), counts.max()), []).append(name)
        if unknown := int(np.count_nonzero(of_each[rows.order] == cinic10.Origin.UNKNOWN)):
            named = counted(unknown, f"image in {name} that is", f"images in {name} that are")
            yield f"{named} not named as in CINIC-10"
    for (low, high), names in spans.items():
        span = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        where = ", ".join(names)
        yield f"{span} images per class in {where} (CINIC-10 has {cinic10.PER_CLASS:,})"
