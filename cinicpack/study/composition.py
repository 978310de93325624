"""Compiling: CIFAR-10 and ImageNet's synsets become a CINIC-10, as the authors made theirs."""

import hashlib
import io
import os
import tarfile
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import numpy as np

from cinicpack.cinic10 import (
    CLASSES,
    IMAGE_SHAPE,
    IMAGENET_PER_CLASS,
    SPLITS,
    Origin,
    Provenance,
    format_name,
)
from cinicpack.convert.packer import build
from cinicpack.convert.plan import Wanted
from cinicpack.convert.source import open_source
from cinicpack.errors import ArgumentError, DestinationError, SourceError
from cinicpack.formats.cifar10 import Cifar10, read_batches
from cinicpack.formats.png import encode_pngs
from cinicpack.store.container import for_suffix, named
from cinicpack.store.publish import publishing, tidy
from cinicpack.study.contributors import read_contributors
from cinicpack.study.jpegs import Found, Jpeg, check_folder, find_jpegs, reduce_jpeg
from cinicpack.study.synsets import Synset, format_synset, read_synsets
from cinicpack.study.tree import run_jobs, write_files
from cinicpack.text import some

__all__ = ["Composition", "compose_dataset"]

_JOB_IMAGES: Final = 64
_SHOWN: Final = 10

_Folder = tuple[str, str]  # a split and a class
_Sink = Callable[[_Folder, Sequence[str], Sequence[bytes]], None]  # takes files: names, contents
_Plan = dict[_Folder, list[Jpeg]]  # the JPEGs of every folder
_Reserve = dict[str, Iterator[Jpeg]]  # by class the JPEGs that take the place of broken ones
_Failure = tuple[_Folder, Jpeg, str]  # a JPEG that cannot be decoded, and the reason
_Choice = tuple[Found, _Plan, _Reserve]
_Job = Callable[[], int]  # returns the number of images that it has written
_Item = TypeVar("_Item")


class Composition(NamedTuple):
    """What was compiled.

    Attributes:
        cifar10: number of images from CIFAR-10, by split.
        imagenet: number of images from ImageNet, by split.
        absent: synsets of the list that ImageNet's folder does not have, as ``n02691156``.
        left_out: tars, and JPEGs that were drawn, which cannot be read, each with the reason.
    """

    cifar10: dict[str, int]
    imagenet: dict[str, int]
    absent: list[str]
    left_out: list[tuple[str, str]]


def compose_dataset(
    cifar10: str | os.PathLike[str],
    imagenet: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    synsets: str | os.PathLike[str] | None = None,
    contributors: str | os.PathLike[str] | None = None,
    per_class: int = len(SPLITS) * IMAGENET_PER_CLASS,
    seed: int = 0,
    num_workers: int | None = None,
    progress: bool = True,
) -> Composition:
    """Make a CINIC-10 from CIFAR-10 and ImageNet: a tree, or straight a pack.

    Follows "Construction" in the README of BayesWatch/cinic-10. Of each class of CIFAR-10 a third
    goes to each split, its test images all to test. Of the JPEGs of the class's synsets
    ``per_class`` are drawn, reduced to 32x32 and dealt to the splits. A synset that is listed under
    two classes can give an image to both.

    The same images and seed give the same result: they are drawn in the order of the SHA-256 of
    seed, class and name, and one that cannot be read is replaced by the next.

    Args:
        cifar10: one of its archives, or a folder with its files, as `read_batches` takes them.
        imagenet: a folder with ``nSSSSSSSS.tar`` or ``nSSSSSSSS/`` of JPEGs.
        destination: a tree, not there yet or empty; or a pack, not there yet: .pack, .h5 or .hdf5.
        synsets: the list of the synsets of each class, as `read_synsets` takes it.
        contributors: instead, a list of the images themselves, as ``imagenet-contributors.csv``.
        per_class: ImageNet images of each class, a multiple of three; not with ``contributors``.
        seed: what is drawn by.
        num_workers: threads; None: as many as there are usable cores.
        progress: show a bar, if standard error is a terminal.

    Raises:
        ArgumentError: ``per_class`` cannot be dealt, or there is no list, or there are two.
        SourceError: a class has too few images that can be read, or an input cannot, or is none.
        DestinationError: ``destination`` is there, or cannot be written.
    """
    choose = _choose_way(synsets, contributors, per_class, seed)
    check_folder(Path(imagenet))
    run = partial(run_jobs, num_workers=num_workers, progress=progress)
    with _writing(Path(destination), progress) as sink:
        original = read_batches(cifar10)
        found, plan, reserve = choose(Path(imagenet))
        dealt = list(_deal(original, seed))
        jobs = [
            job
            for folder, origin, rows in dealt
            for job in _make_jobs(partial(_write_rows, original, folder, origin, sink), rows)
        ]
        images = sum(len(rows) for _, _, rows in dealt)
        undecoded = _write_all(jobs, images, plan, reserve, Path(imagenet), sink, run)
    return Composition(
        cifar10=_count_by_split((folder, rows) for folder, _, rows in dealt),
        imagenet=_count_by_split(plan.items()),
        absent=[format_synset(synset) for synset in found.absent],
        left_out=sorted([*found.left_out, *undecoded]),
    )


def _choose_way(
    synsets: str | os.PathLike[str] | None,
    contributors: str | os.PathLike[str] | None,
    per_class: int,
    seed: int,
) -> Callable[[Path], _Choice]:
    """Return what chooses the JPEGs in ImageNet's folder, by the one list that there has to be."""
    if (synsets is None) == (contributors is None):
        raise ArgumentError(
            "expected either a list of synsets to draw from (--synsets, synsets=) or one of "
            "contributors to take (--contributors, contributors=), found "
            f"{'neither' if synsets is None else 'both'}"
        )
    if per_class < 0 or per_class % len(SPLITS):
        raise ArgumentError(
            f"expected per_class to be a multiple of {len(SPLITS)}, to deal it to the splits, "
            f"found {per_class}"
        )
    if synsets is not None:
        classes = read_synsets(synsets)
        if set(classes) != set(CLASSES):
            raise SourceError(
                f"{synsets}: expected the classes {', '.join(CLASSES)}, found {', '.join(classes)}"
            )
        return partial(_draw, classes=classes, per_class=per_class, seed=seed)
    assert contributors is not None
    return partial(_look_up, listed=read_contributors(contributors), where=Path(contributors))


def _count_by_split(chosen: Iterable[tuple[_Folder, Sized]]) -> dict[str, int]:
    counts = dict.fromkeys(SPLITS, 0)
    for (split, _), images in chosen:
        counts[split] += len(images)
    return counts


def _write_all(
    jobs: list[_Job],
    images: int,
    plan: _Plan,
    reserve: _Reserve,
    imagenet: Path,
    sink: _Sink,
    run: Callable[[Sequence[_Job], int], None],
) -> list[tuple[str, str]]:
    """Run the jobs of CIFAR-10's images, and reduce the JPEGs of a plan, or others for them.

    Returns the JPEGs that could not be decoded, each with the reason.
    """
    wanted: Counter[str] = Counter()
    for (_, name), jpegs in plan.items():
        wanted[name] += len(jpegs)
    undecoded: list[tuple[str, str]] = []
    while jobs or plan:
        failures: list[_Failure] = []
        for folder, jpegs in plan.items():
            jobs = jobs + _make_jobs(partial(_write_jpegs, folder, sink, failures), jpegs)
            images += len(jpegs)
        with warnings.catch_warnings():
            # A program may make errors of warnings; an image that Pillow warns of is no bad one.
            warnings.filterwarnings("ignore", module="PIL")
            run(jobs, images)
        undecoded += [(str(jpeg), reason) for _, jpeg, reason in failures]
        plan = _replace(failures, reserve, wanted, imagenet)
        jobs, images = [], 0
    return undecoded


@contextmanager
def _writing(destination: Path, progress: bool) -> Iterator[_Sink]:
    """Give what takes files; make a tree of them, or afterwards a pack."""
    container = named("npy") if destination.suffix == ".pack" else for_suffix(destination)
    if container is None:
        with publishing(destination, overwrite=False, sync=False, empty_folder=True) as new:
            new.mkdir()
            yield lambda folder, names, files: write_files(new.joinpath(*folder), names, files)
        return
    if os.path.lexists(destination):
        tidy(destination)
        raise DestinationError(
            f"{destination}: expected nothing there; choose another name, or remove it yourself"
        )
    with publishing(destination, overwrite=False) as new:
        path = new.with_name(f"{destination.stem}.tar")
        with tarfile.open(path, "w") as archive:
            lock = threading.Lock()

            def add(folder: _Folder, names: Sequence[str], files: Sequence[bytes]) -> None:
                with lock:
                    for name, content in zip(names, files, strict=True):
                        member = tarfile.TarInfo("/".join((*folder, name)))
                        member.size = len(content)
                        archive.addfile(member, io.BytesIO(content))

            yield add
        source = open_source(path)
        source.path = destination  # which messages name, since nobody knows of the archive
        build(source, new, container, Wanted(progress=progress))


def _draw(
    imagenet: Path, classes: Mapping[str, Sequence[Synset]], per_class: int, seed: int
) -> _Choice:
    """Draw the images of each class, and deal them; the reserve is drawn next."""
    numbers = {name: {place.number for place in places} for name, places in classes.items()}
    found = find_jpegs(imagenet, set().union(*numbers.values()))
    plan: _Plan = {}
    reserve: _Reserve = {}
    few = []
    for name in CLASSES:
        jpegs = [jpeg for number in numbers[name] for jpeg in found.jpegs.get(number, [])]
        jpegs = _shuffle(jpegs, seed, name, attrgetter("name"))
        if len(jpegs) < per_class:
            few.append(f"{name} {len(jpegs):,}")
        for turn, split in enumerate(SPLITS):
            # Sorted by file and offset: a hard disk reads JPEGs in that order without seeking.
            plan[split, name] = sorted(jpegs[turn : per_class : len(SPLITS)])
        reserve[name] = iter(jpegs[per_class:])
    if few:
        raise SourceError(
            f"{imagenet}: expected {per_class:,} JPEGs of every class, found "
            f"{', '.join(few)}{found.explain_lack()}; add more, or take fewer with --per-class "
            "(per_class=)"
        )
    return found, plan, reserve


def _look_up(
    imagenet: Path, listed: Mapping[_Folder, Sequence[tuple[int, int]]], where: Path
) -> _Choice:
    """Find the images that a list of contributors at a path names; there is no reserve."""
    found = find_jpegs(imagenet, {synset for keys in listed.values() for synset, _ in keys})
    there = {(jpeg.synset, jpeg.number): jpeg for jpegs in found.jpegs.values() for jpeg in jpegs}
    if missing := sorted(set().union(*listed.values()) - there.keys()):
        names = [f"{format_synset(synset)}_{number}" for synset, number in missing]
        raise SourceError(
            f"{imagenet}: expected all images of {where}, found no "
            f"{some(names, _SHOWN)}{found.explain_lack()}"
        )
    return found, {folder: [there[key] for key in keys] for folder, keys in listed.items()}, {}


def _deal(original: Cifar10, seed: int) -> Iterator[tuple[_Folder, Origin, list[int]]]:
    """Deal CIFAR-10's images: a third of each class to each split, all test images to test."""
    for label, name in enumerate(CLASSES):
        train, test = (
            _shuffle(np.flatnonzero(part.records[:, 0] == label).tolist(), seed, name, str)
            for part in original
        )
        moved = max(0, (len(train) + len(test)) // len(SPLITS) - len(test))
        half = moved + (len(train) - moved + 1) // 2
        yield ("train", name), Origin.CIFAR10_TRAIN, train[moved:half]
        yield ("valid", name), Origin.CIFAR10_TRAIN, train[half:]
        yield ("test", name), Origin.CIFAR10_TRAIN, train[:moved]
        yield ("test", name), Origin.CIFAR10_TEST, test


def _shuffle(
    items: list[_Item], seed: int, class_name: str, name: Callable[[_Item], str]
) -> list[_Item]:
    """Order by hash, so that items added or taken away leave the order of all others."""

    def rank(item: _Item) -> bytes:
        return hashlib.sha256(f"{seed}/{class_name}/{name(item)}".encode()).digest()

    return sorted(items, key=rank)


def _make_jobs(function: Callable[[list[_Item]], int], items: list[_Item]) -> list[_Job]:
    """Make jobs that each call a function with some of the items."""
    starts = range(0, len(items), _JOB_IMAGES)
    return [partial(function, items[start : start + _JOB_IMAGES]) for start in starts]


def _write_rows(
    original: Cifar10, folder: _Folder, origin: Origin, sink: _Sink, rows: list[int]
) -> int:
    part = original.train if origin is Origin.CIFAR10_TRAIN else original.test
    height, width, channels = IMAGE_SHAPE
    planes = part.records[rows, 1:].reshape(-1, channels, height, width)
    names = [format_name(Provenance(origin, 0, row)) for row in rows]
    sink(folder, names, encode_pngs(np.ascontiguousarray(planes.transpose(0, 2, 3, 1))))
    return len(rows)


def _write_jpegs(folder: _Folder, sink: _Sink, failures: list[_Failure], jpegs: list[Jpeg]) -> int:
    names, images = [], []
    for jpeg in jpegs:
        image = reduce_jpeg(jpeg)
        if isinstance(image, str):
            failures.append((folder, jpeg, image))
        else:
            names.append(jpeg.name)
            images.append(image)
    if images:
        sink(folder, names, encode_pngs(np.stack(images)))
    return len(images)


def _replace(
    failures: list[_Failure], reserve: _Reserve, wanted: Counter[str], imagenet: Path
) -> _Plan:
    """Draw another image for each that could not be read."""
    plan: _Plan = {}
    lacking: Counter[str] = Counter()
    for folder, _, _ in sorted(failures):
        if jpeg := next(reserve.get(folder[1], iter(())), None):
            plan.setdefault(folder, []).append(jpeg)
        else:
            lacking[folder[1]] += 1
    if lacking:
        few = [f"{name} {wanted[name] - n:,} of {wanted[name]:,}" for name, n in lacking.items()]
        reasons = [f"{jpeg}: {reason}" for _, jpeg, reason in sorted(failures)]
        raise SourceError(
            f"{imagenet}: expected JPEGs that can be read, found too few of {', '.join(few)}: "
            f"{some(reasons, _SHOWN)}"
        )
    return plan
