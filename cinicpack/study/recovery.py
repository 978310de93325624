"""CIFAR-10 back again: all of its images in their original order, from a pack of CINIC-10."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cinicpack.cinic10 import CLASSES, IMAGE_SHAPE, Origin
from cinicpack.errors import SelectionError
from cinicpack.formats.cifar10 import (
    ARCHIVE_MD5S,
    BLOB_IDS,
    RECORD_BYTES,
    Cifar10,
    Cifar10Set,
    check_layout,
    compute_blob_id,
    read_batches,
    split_batches,
    write_batches,
)
from cinicpack.paths import naming_file
from cinicpack.store.pack import Pack, open_pack
from cinicpack.store.publish import publishing
from cinicpack.text import counted

__all__ = [
    "Recovery",
    "Reference",
    "compare_cifar10",
    "describe_recovery",
    "extract_cifar10",
    "format_recovery",
    "recover_cifar10",
]

# Number of images in CIFAR-10's own two sets.
_WHOLE: Final = {"train": 50_000, "test": 10_000}
_ORIGINS: Final = {"train": Origin.CIFAR10_TRAIN, "test": Origin.CIFAR10_TEST}
_BLOCK: Final = 1024
_SHOWN: Final = 20


class Reference(NamedTuple):
    """How images compare with CIFAR-10's own.

    Attributes:
        path: where these are.
        official: the archive whose published MD5 the file has; None for any other file or folder.
        compared: number of images that are in both.
        absent: number of its images that were not recovered.
        differences: a line for every image that has other pixels or another label there, or is
            not there.
    """

    path: str
    official: str | None
    compared: int
    absent: int
    differences: list[str]

    @property
    def identical(self) -> bool:
        """Whether all that was recovered is in it, with the same pixels and labels."""
        return not self.differences


class Recovery(NamedTuple):
    """What was recovered.

    Attributes:
        images: number of images of the ``"train"`` and the ``"test"`` set.
        missing: for both, the rows of CIFAR-10 that were not found.
        blob_ids: Git's id of each batch's binary file.
        reference: the comparison, if there was one.
    """

    images: dict[str, int]
    missing: dict[str, list[int]]
    blob_ids: dict[str, str]
    reference: Reference | None


def recover_cifar10(
    pack: Pack | str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    layout: str = "bin",
    reference: str | os.PathLike[str] | None = None,
    allow_missing: bool = False,
) -> Recovery:
    """Write the CIFAR-10 that is in a pack of CINIC-10 as files, as CIFAR-10 comes.

    Reproduces what the README of BayesWatch/cinic-10 says of the notebook
    ``recover-cifar-and-validate``, which is not there. Labels are CIFAR-10's own, which are the
    classes in alphabetical order.

    Layout "bin" gives the files of cifar-10-binary.tar.gz, byte for byte. Layout "py" gives those
    of cifar-10-python.tar.gz as far as a pack can know: the images' file names are CINIC-10's. So
    the MD5 of the batches, which torchvision checks, is another; it loads them, from a folder
    ``cifar-10-batches-py`` in ROOT, with

        CIFAR10.train_list = [[name, None] for name, _ in CIFAR10.train_list]
        CIFAR10.test_list = [[name, None] for name, _ in CIFAR10.test_list]

    before ``CIFAR10(ROOT)``. Layout "npy" gives four arrays, images (n, 32, 32, 3) and labels.

    Args:
        pack: a pack, or its path.
        destination: the folder to make: not there yet, or an empty directory.
        layout: "bin", "py" or "npy".
        reference: an official archive, its folder, or a folder with such files, to compare with
            image by image. The comparison is in the result, whatever comes out.
        allow_missing: write what is there, in order, where rows of CIFAR-10 are missing. Files of
            batches of which there is nothing are empty.

    Raises:
        SelectionError: rows are missing, or there more than once, or the pack is not CIFAR-10's in
            its classes or the size of its images.
        ArgumentError: there is no such layout.
        SourceError: the reference is not CIFAR-10.
        DestinationError: ``destination`` is there, or cannot be written.

    >>> recover_cifar10("cinic10.pack", "cifar-10-batches-bin", allow_missing=True).images
    {'train': 50, 'test': 10}
    """
    check_layout(layout)
    pack = pack if isinstance(pack, Pack) else open_pack(pack)
    with publishing(Path(destination), overwrite=False, sync=False, empty_folder=True) as new:
        cifar10 = extract_cifar10(pack, allow_missing=allow_missing)
        compared = None if reference is None else compare_cifar10(cifar10, reference)
        new.mkdir()
        write_batches(cifar10, new, layout)
    parts = cifar10._asdict()
    return Recovery(
        images={name: len(part.rows) for name, part in parts.items()},
        missing={name: _find_missing(part, _WHOLE[name]).tolist() for name, part in parts.items()},
        blob_ids={
            name: compute_blob_id(part.records) for name, part in split_batches(cifar10).items()
        },
        reference=compared,
    )


def describe_recovery(recovery: Recovery) -> dict[str, Any]:
    """Arrange what was recovered as JSON has it."""
    reference = recovery.reference
    return {
        "images": recovery.images,
        "missing": recovery.missing,
        "batches": {
            name: {"git_id": found, "published": BLOB_IDS[name], "same": found == BLOB_IDS[name]}
            for name, found in recovery.blob_ids.items()
        },
        "reference": reference and {**reference._asdict(), "identical": reference.identical},
    }


def format_recovery(recovery: Recovery) -> str:
    """Lay out what was recovered for people to read."""
    lines = [
        " and ".join(f"{count:,} {name}" for name, count in recovery.images.items()) + " images"
    ]
    lines += [
        f"  {_counted(len(rows), name)} missing: {_format_ranges(np.array(rows))}"
        for name, rows in recovery.missing.items()
        if rows
    ]
    for name, found in recovery.blob_ids.items():
        published = BLOB_IDS[name]
        same = "as published" if found == published else f"published is {published}"
        lines.append(f"  {name + '.bin':<16}  git id {found}, {same}")
    if reference := recovery.reference:
        what = reference.official or "not an official archive"
        count = len(reference.differences)
        verdict = f"{count:,} differ:" if count else "all identical in pixels and label"
        absent = f", {reference.absent:,} of its images not recovered" if reference.absent else ""
        lines.append(
            f"{reference.path} ({what}): {counted(reference.compared, 'image')} compared{absent}; "
            f"{verdict}"
        )
        lines += [f"  {difference}" for difference in reference.differences[:_SHOWN]]
        if count > _SHOWN:
            lines.append(f"  and {count - _SHOWN:,} more")
    return "\n".join(lines)


def extract_cifar10(
    pack: Pack, *, allow_missing: bool = False, whole: Mapping[str, int] = _WHOLE
) -> Cifar10:
    """Collect the images of CIFAR-10 in all splits of a pack, in their original order.

    Args:
        pack: an open pack.
        allow_missing: take what is there where rows are missing.
        whole: how many images the ``"train"`` and the ``"test"`` set have.

    Raises `SelectionError` as `recover_cifar10` does.

    >>> import cinicpack
    >>> pack = cinicpack.open_pack("cinic10.pack")
    >>> extract_cifar10(pack, allow_missing=True).test.rows
    array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    """
    if pack.image_shape != IMAGE_SHAPE or not set(pack.classes) <= set(CLASSES):
        raise SelectionError(
            f"{pack.path}: expected CIFAR-10's classes and images of {IMAGE_SHAPE}, found "
            f"{', '.join(pack.classes)} and images of {pack.image_shape}"
        )
    parts = {name: _extract(pack, origin) for name, origin in _ORIGINS.items()}
    problems = [
        problem
        for name, part in parts.items()
        for problem in _check(name, part, allow_missing, whole[name])
    ]
    if problems:
        raise SelectionError(
            f"{pack.path}: expected every image of CIFAR-10 once, found that\n  "
            + "\n  ".join(problems)
        )
    return Cifar10(**parts)


def _extract(pack: Pack, origin: Origin) -> Cifar10Set:
    """Collect what comes from one set of CIFAR-10, in its order; rows can be missing or double."""
    official = np.array([CLASSES.index(name) for name in pack.classes], np.uint8)
    found = [
        (split, np.flatnonzero(split.sources["origin"] == origin))
        for split in map(pack.__getitem__, pack.splits)
    ]
    rows = np.concatenate([split.sources["number"][mine] for split, mine in found])
    names = np.concatenate([split.names[mine] for split, mine in found])
    order = np.argsort(rows, kind="stable")
    records = np.empty((len(rows), RECORD_BYTES), np.uint8)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    done = 0
    for split, mine in found:
        for start in range(0, len(mine), _BLOCK):
            block = mine[start : start + _BLOCK]
            places = place[done : done + len(block)]
            records[places, 0] = official[split.labels[block]]
            records[places, 1:] = split.images[block].transpose(0, 3, 1, 2).reshape(len(block), -1)
            done += len(block)
    return Cifar10Set(rows[order].astype(np.int64), records, names[order].tolist())


def _check(name: str, part: Cifar10Set, allow_missing: bool, whole: int) -> Iterator[str]:
    rows = part.rows
    if len(beyond := rows[rows >= whole]):
        numbers = _format_ranges(beyond)
        yield f"CIFAR-10 has {whole:,} {name} images, these do not exist: {numbers}"
    if len(double := np.unique(rows[1:][rows[1:] == rows[:-1]])):
        yield f"{_counted(len(double), name)} there more than once: {_format_ranges(double)}"
    if allow_missing:
        return
    if not len(rows):
        yield f"there are no {name} images; --allow-missing (allow_missing=True) goes without"
    elif len(missing := _find_missing(part, whole)):
        yield (
            f"{_counted(len(missing), name)} missing: {_format_ranges(missing)}; "
            "--allow-missing (allow_missing=True) goes without them"
        )


def _counted(number: int, name: str) -> str:
    return counted(number, f"{name} image is", f"{name} images are")


def _find_missing(part: Cifar10Set, whole: int) -> NDArray[np.int64]:
    return np.setdiff1d(np.arange(whole), part.rows)


def _format_ranges(rows: NDArray[np.int64]) -> str:
    """Write rows, ascending, as ranges: 3-7, 12."""
    runs = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)
    shown = [f"{run[0]}" if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs[:_SHOWN]]
    return ", ".join(shown) + (" and more" if len(runs) > _SHOWN else "")


def compare_cifar10(
    cifar10: Cifar10,
    path: str | os.PathLike[str],
    *,
    official: Mapping[str, str] = ARCHIVE_MD5S,
) -> Reference:
    """Compare images with CIFAR-10's own, one by one.

    Args:
        cifar10: the images.
        path: an archive or a folder, as `read_batches` takes it.
        official: by the MD5 of an archive its name.
    """
    theirs = read_batches(path)
    compared = absent = 0
    differences = []
    for name, mine, other in zip(Cifar10._fields, cifar10, theirs, strict=True):
        within = int(np.searchsorted(mine.rows, len(other.rows)))
        rows, a, b = mine.rows[:within], mine.records[:within], other.records[mine.rows[:within]]
        compared += within
        absent += len(other.rows) - within
        for place in np.flatnonzero((a != b).any(1)).tolist():
            found = []
            if a[place, 0] != b[place, 0]:
                found.append(f"label {a[place, 0]} instead of {b[place, 0]}")
            if (a[place, 1:] != b[place, 1:]).any():
                found.append("other pixels")
            differences.append(f"{name} {rows[place]}: {', '.join(found)}")
        differences += [
            f"{name} {row}: not in the reference" for row in mine.rows[within:].tolist()
        ]
    return Reference(str(path), _identify(Path(path), official), compared, absent, differences)


def _identify(path: Path, official: Mapping[str, str]) -> str | None:
    if path.is_dir():
        return None
    with naming_file(path), open(path, "rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
    return official.get(digest.hexdigest())
