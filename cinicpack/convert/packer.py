"""Packing: a tree or an archive of PNG files becomes a pack.

Three passes. Workers decode the images in the order in which the source gives them and append
their planes to scratch files. Then the rows are known: the planes are copied from there into the
arrays of the pack, in ImageFolder's order. Last, every array is hashed as it stands on disk. Of a
tree the rows are known before, and if nothing is odd the workers write to the arrays themselves.
"""

import os
import warnings
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from typing import Final

import numpy as np
from tqdm import tqdm

from cinicpack import cinic10
from cinicpack.convert.assembly import ConvertedImages, Rows, write_pack
from cinicpack.convert.conversion import Converted, Task
from cinicpack.convert.layout import Layout, arrange
from cinicpack.convert.reservation import Reservation, cut_tasks, reserve
from cinicpack.convert.sources import Archive, Tree, open_source
from cinicpack.convert.worker import Worker, starting_workers
from cinicpack.cores import usable_cores
from cinicpack.errors import (
    ArgumentError,
    BadImagesError,
    SelectionError,
    SourceError,
)
from cinicpack.store.container import Container, for_suffix, named
from cinicpack.store.format import is_folder_name, is_split_name
from cinicpack.store.pack import Pack, open_pack
from cinicpack.store.publish import publishing
from cinicpack.store.reader import find_other

__all__ = ["pack"]

# Enough that handing a task over (0.1 ms) is nothing beside doing it (10 ms); of an archive's
# members, which are on their way in memory, there are fewer if they are large.
_TASK_IMAGES: Final = 512
_TASK_BYTES: Final = 4 << 20
# Below this a source is converted before worker processes would have started (1 s).
_ALONE_IMAGES: Final = 8_000
_ALONE_BYTES: Final = 20 << 20
_SHOWN: Final = 20


def pack(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    format: str = "npy",  # noqa: A002  the word that numpy and h5py users know
    splits: str | Sequence[str] | None = None,
    shard_rows: int | None = None,
    num_workers: int | None = None,
    skip_bad: bool = False,
    allow_missing: bool = False,
    overwrite: bool = False,
    expect: str | None = None,
    progress: bool = True,
) -> Pack:
    """Convert a tree or an archive of equally sized PNG images into a pack, and open it.

    Its mean and std are those published for CINIC-10 if `cinic10.is_cinic10` says that the images
    are of it, else those of the images of train, or of the first split.

    The same images give the same bytes, from any kind of source and with any number of workers.
    ``destination`` appears at once when all is done; if anything fails it stays as it was.

    Args:
        source: a directory, or a .tar, .tar.gz, .tgz or .zip, with SPLIT/CLASS/NAME.png in it, or
            CLASS/NAME.png, which is one split named "train". One lone folder above is skipped.
        destination: the pack to make.
        format: "npy", a directory of npy files, or "hdf5", one file.
        splits: the splits to take, or the name of one; None: all.
        shard_rows: images in one npy file or dataset; None: all of a split.
        num_workers: processes that decode; None: as many as there are usable cores; 0: none, this
            process decodes.
        skip_bad: leave out the images that cannot be decoded or have another size than most, and
            record them in the manifest, instead of raising. A file that cannot be read is no bad
            image: it may be readable a moment later.
        allow_missing: pack what is there, though some class has no images in a split, or in any
            (its folder is empty), or ImageFolder would load images that are not PNG, which are
            left out. A class without images keeps its label, as in
            ``ImageFolder(SPLIT, allow_empty=True)``. Where all files are named as in CINIC-10, and
            all classes are its, the classes are its ten, whichever are there. A split without
            images is left out.
        overwrite: replace a pack at ``destination``, be it damaged or of another version, if there
            is nothing else in it. What is not a pack, or has any file, dataset, attribute or link
            beside the pack's own, is refused and stays; so is an HDF5 pack that is damaged outside
            of its images, which may be one with something added. A link that leads to a pack is
            kept.
        expect: "cinic10": raise unless the images are CINIC-10's in number, class and name.
        progress: show a bar, if standard error is a terminal.

    Raises:
        FileNotFoundError: there is nothing at ``source``.
        SourceError: ``source`` has another structure, lacks what ``allow_missing`` is about, is
            damaged, or a file of it cannot be read.
        BadImagesError: some images cannot be packed; all are listed.
        DestinationError: ``destination`` exists and is not to be overwritten or not only a pack, is
            a mount point, cannot be written, or is being written.
        ArgumentError: an option is out of its domain, or ``shard_rows`` makes more files than a
            process may have open.

    >>> import cinicpack
    >>> cinicpack.pack("CINIC-10.tar.gz", "cinic10.pack")  # doctest: +SKIP
    Pack('cinic10.pack', train 90000, valid 90000, test 90000, 32x32, 10 classes)
    """
    destination = Path(destination)
    container = _check_options(destination, format, shard_rows, num_workers, expect)
    with publishing(destination, overwrite=overwrite, find_other=find_other) as new:
        images, reservation = _convert(
            Path(source),
            new.parent,
            splits,
            allow_missing,
            container,
            shard_rows,
            num_workers,
            progress,
        )
        images = _drop_bad(images, str(source), skip_bad, allow_missing)
        _judge(images, str(source), splits is None, expect)
        write_pack(images, new, container, shard_rows, num_workers, reservation)
    return open_pack(destination)


def _check_options(
    destination: Path,
    name: str,
    shard_rows: int | None,
    num_workers: int | None,
    expect: str | None,
) -> Container:
    container = named(name)
    other = for_suffix(destination)
    if other is not None and other is not container:
        raise ArgumentError(
            f"{destination}: format {name!r} makes a directory, the name says "
            f"{other.name.upper()}; pass --format {other.name} (format={other.name!r}) "
            "or choose another name"
        )
    if shard_rows is not None and shard_rows < 1:
        raise ArgumentError(f"expected shard_rows of at least 1, found {shard_rows}")
    if num_workers is not None and num_workers < 0:
        raise ArgumentError(f"expected num_workers of at least 0, found {num_workers}")
    if expect not in (None, "cinic10"):
        raise ArgumentError(f"expected expect='cinic10' or None, found {expect!r}")
    return container


def _convert(
    source: Path,
    folder: Path,
    splits: str | Sequence[str] | None,
    allow_missing: bool,
    container: Container,
    shard_rows: int | None,
    num_workers: int | None,
    progress: bool,
) -> tuple[ConvertedImages, Reservation | None]:
    opened = open_source(source)
    reservation = None
    paths: list[str] = []
    results: list[Converted] = []
    count = usable_cores() if num_workers is None else num_workers

    def arrange_all(found: list[str]) -> Layout:
        # The folder that the pack is made in may be one of the source's.
        folders = opened.folders - {os.path.relpath(folder, os.path.realpath(source))}
        return _arrange(source, found, splits, folders, opened.left_out, allow_missing)

    bar = tqdm(unit=" images", unit_scale=True, disable=None if progress else True, desc="decode")
    if isinstance(opened, Tree):
        listing = iter(opened)
        found = list(islice(listing, _ALONE_IMAGES))
        small = len(found) < _ALONE_IMAGES
    else:
        small = source.stat().st_size < _ALONE_BYTES
    if small and num_workers is None:
        count = 0
    with bar, starting_workers(count, source, folder) as workers:
        if isinstance(opened, Tree):
            # While the workers start.
            found += listing
            layout = _in_order(arrange_all(found), found, paths)
            bar.total = len(paths)
            place = folder / "reserved"
            reservation = reserve(source, paths, layout, place, container, shard_rows)
            tasks = cut_tasks(paths, reservation, _TASK_IMAGES)
        else:
            tasks = _tasks_from(opened, paths)
        with closing(_run(workers, tasks)) as run:
            for result in run:
                results.append(result)
                if not isinstance(opened, Tree):
                    bar.total = int((bar.n + len(result.offsets)) / max(opened.fraction, 1e-9))
                bar.update(len(result.offsets))
    if not isinstance(opened, Tree):
        layout = arrange_all(paths)
    if reservation is not None:
        reservation.finish(results)
    if opened.ignored:
        warnings.warn(
            f"{source}: {opened.ignored:,} files that are no images are ignored", stacklevel=3
        )
    if opened.left_out:
        warnings.warn(
            f"{source}: {len(opened.left_out):,} images that are not PNG are left out", stacklevel=3
        )
    return _join(paths, layout, results), reservation


def _in_order(layout: Layout, found: list[str], paths: list[str]) -> Layout:
    """Put the paths into the order of the rows, in ``paths``, and return the layout of that."""
    numbers = {}
    for name, rows in layout.rows.items():
        numbers[name] = np.arange(len(paths), len(paths) + len(rows))
        paths += [found[row] for row in rows.tolist()]
    return layout._replace(rows=numbers)


def _arrange(
    source: Path,
    paths: list[str],
    splits: str | Sequence[str] | None,
    folders: set[str],
    left_out: list[str],
    allow_missing: bool,
) -> Layout:
    """Find splits and classes; errors name the source."""
    try:
        layout = arrange(
            paths, splits, folders=folders, left_out=left_out, allow_missing=allow_missing
        )
    except (SourceError, SelectionError) as error:
        raise type(error)(f"{source}: {error}") from None
    for name in layout.rows:
        if not is_split_name(name):
            raise SourceError(
                f"{source}: expected visible folders as splits, with names in UTF-8 and without "
                f"'+', found {name!r}; rename it or name the splits to take"
            )
    for name in layout.classes:
        if name.startswith("."):
            raise SourceError(
                f"{source}: expected visible folders as classes, found {name!r}; rename or remove "
                "it"
            )
        if not is_folder_name(name):
            # An archive may have names that no file system takes.
            raise SourceError(
                f"{source}: expected classes with names of at most 255 bytes, found {name[:40]!r} "
                "and so on; rename it"
            )
    return layout


def _tasks_from(members: Archive, paths: list[str]) -> Iterator[Task]:
    """Group the members of an archive into tasks, and note their paths in ``paths``."""
    contents: list[bytes | OSError] = []
    nbytes = 0
    for path, content in members:
        paths.append(path)
        contents.append(content)
        nbytes += len(content) if isinstance(content, bytes) else 0
        if len(contents) == _TASK_IMAGES or nbytes >= _TASK_BYTES:
            yield Task(paths[-len(contents) :], contents)
            contents, nbytes = [], 0
    if contents:
        yield Task(paths[-len(contents) :], contents)


def _run(workers: list[Worker], tasks: Iterable[Task]) -> Generator[Converted, None, None]:
    """Convert tasks on all workers, a few ahead, and give the results in order."""
    idle: SimpleQueue[Worker] = SimpleQueue()
    for worker in workers:
        idle.put(worker)

    def convert(task: Task) -> Converted:
        worker = idle.get()
        try:
            return worker(task)
        finally:
            idle.put(worker)

    with ThreadPoolExecutor(len(workers)) as threads:
        pending: deque[Future[Converted]] = deque()
        try:
            for task in tasks:
                pending.append(threads.submit(convert, task))
                if len(pending) > len(workers):
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            threads.shutdown(cancel_futures=True)


def _join(paths: list[str], layout: Layout, results: list[Converted]) -> ConvertedImages:
    scratches = sorted({result.scratch for result in results})
    starts = np.cumsum([0, *(len(result.offsets) for result in results)]).tolist()
    of_result = [
        np.full(len(result.offsets), scratches.index(result.scratch)) for result in results
    ]
    return ConvertedImages(
        paths=paths,
        classes=layout.classes,
        splits={name: Rows(rows, layout.labels[name]) for name, rows in layout.rows.items()},
        scratches=scratches,
        scratch=np.concatenate(of_result),
        offsets=np.concatenate([result.offsets for result in results]),
        shapes=np.concatenate([result.shapes for result in results]),
        digests=np.concatenate([result.digests for result in results]),
        sums=np.concatenate([result.sums for result in results]),
        sources=np.concatenate([result.sources for result in results]),
        bad={
            start + position: reason
            for start, result in zip(starts, results, strict=False)
            for position, reason in result.bad
        },
        reduced=[
            start + position
            for start, result in zip(starts, results, strict=False)
            for position in result.reduced
        ],
    )


def _drop_bad(
    images: ConvertedImages, source: str, skip_bad: bool, allow_missing: bool
) -> ConvertedImages:
    """Take out the images that cannot be decoded or have another size than most."""
    selected = np.concatenate([rows.order for rows in images.splits.values()])
    readable = selected[images.offsets[selected] >= 0]
    bad = {number: images.bad[number] for number in selected.tolist() if number in images.bad}
    if len(readable):
        # As one number each: np.unique of pairs takes half a second for 270,000.
        sizes = images.shapes[readable].astype(np.int64) @ (1 << 32, 1)
        found_sizes, counts = np.unique(sizes, return_counts=True)
        height, width = divmod(int(found_sizes[counts.argmax()]), 1 << 32)
        for number in readable[sizes != (height << 32) + width].tolist():
            found = "x".join(map(str, images.shapes[number].tolist()))
            bad[number] = f"has {found} pixels (height x width), most images {height}x{width}"
    if not bad:
        return images
    listed = sorted((_name_alike(images.paths[number]), reason) for number, reason in bad.items())
    if not skip_bad or len(bad) == len(selected):
        advice = "repair them"
        if not skip_bad:
            advice += ", or leave them out with --skip-bad (skip_bad=True)"
        shown = "".join(f"\n  {path}: {reason}" for path, reason in listed[:_SHOWN])
        more = f"\n  and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
        raise BadImagesError(
            f"{source}: {len(bad)} of {len(selected)} images cannot be packed; "
            f"{advice}:{shown}{more}",
            listed,
        )
    good = {name: ~np.isin(rows.order, list(bad)) for name, rows in images.splits.items()}
    for name, keep in good.items():
        if not keep.any():
            raise BadImagesError(f"{source}: no image of split {name!r} can be packed", listed)
        labels = images.splits[name].labels
        if not allow_missing and (lost := np.setdiff1d(labels, labels[keep]).tolist()):
            raise BadImagesError(
                f"{source}: no image of class {images.classes[lost[0]]!r} in split {name!r} can be "
                "packed; repair some, or accept that with --allow-missing (allow_missing=True)",
                listed,
            )
    return replace(
        images,
        splits={
            name: Rows(rows.order[good[name]], rows.labels[good[name]])
            for name, rows in images.splits.items()
        },
        skipped=tuple(listed),
    )


def _name_alike(path: str) -> str:
    """Name an image alike whether or not a lone folder lies above the splits."""
    return "/".join(path.split("/")[-3:])


def _judge(images: ConvertedImages, source: str, whole: bool, expect: str | None) -> None:
    """Warn of what a user would want to know; raise if CINIC-10 is expected and not found."""
    if images.skipped:
        warnings.warn(
            f"{source}: {len(images.skipped)} images that cannot be packed are left out; "
            "the manifest lists them",
            stacklevel=3,
        )
    kept = set(np.concatenate([rows.order for rows in images.splits.values()]).tolist())
    if reduced := [number for number in images.reduced if number in kept]:
        warnings.warn(
            f"{source}: {len(reduced)} images have 16 bits per channel, of which Pillow keeps 8 "
            f"(grey above 255 becomes white); the first is {images.paths[reduced[0]]}",
            stacklevel=3,
        )
    differences = list(_differences(images, whole))
    if expect == "cinic10" and differences:
        raise SourceError(f"{source}: expected CINIC-10, found {'; '.join(differences)}")
    origins = images.origins()
    resembles = images.classes == cinic10.CLASSES and cinic10.Origin.IMAGENET in origins
    if resembles and differences:
        text = f"{source}: like CINIC-10, but with {'; '.join(differences)}"
        if not cinic10.is_cinic10(images.classes, origins):
            text += "; so mean and std are its own, not the published ones"
        warnings.warn(text, stacklevel=3)


def _differences(images: ConvertedImages, whole: bool) -> Iterator[str]:
    """Say in what the images differ from CINIC-10, as far as names, numbers and sizes tell.

    ``whole`` says that all of its splits should be there.
    """
    if images.classes != cinic10.CLASSES:
        yield f"classes {', '.join(images.classes)}"
        return
    if images.image_shape != cinic10.IMAGE_SHAPE:
        height, width, _ = images.image_shape
        yield f"images of {height}x{width} pixels"
    if cinic10.Origin.IMAGENET not in images.origins():
        yield "no image that is named as one of ImageNet"
    if whole and (missing := [name for name in cinic10.SPLITS if name not in images.splits]):
        yield f"no split {' or '.join(missing)}"
    spans: dict[tuple[int, int], list[str]] = {}
    for name, rows in images.splits.items():
        if name not in cinic10.SPLITS:
            yield f"a split {name!r}"
        counts = np.bincount(rows.labels, minlength=len(images.classes))
        if (counts != cinic10.PER_CLASS).any():
            spans.setdefault((counts.min(), counts.max()), []).append(name)
        if unknown := np.count_nonzero(
            images.sources["origin"][rows.order] == cinic10.Origin.UNKNOWN
        ):
            yield f"{unknown:,} images in {name} that are not named as in CINIC-10"
    for (low, high), names in spans.items():
        span = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        where = ", ".join(names)
        yield f"{span} images per class in {where} (CINIC-10 has {cinic10.PER_CLASS:,})"
