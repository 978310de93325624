"""Packing: open a source, plan, convert its images, judge them, write the pack.

Workers decode the images in the order in which the source gives them and append their planes to
scratch files. Then the rows are known: the planes are copied from there into the arrays of the
pack, in the order of the rows. Last, every array is hashed as it stands on disk. Where the rows are
known before, and if nothing is odd, the workers write to the arrays themselves.
"""

import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from typing import Final, NamedTuple, TypeAlias

import numpy as np

from cinicpack.convert.assembly import write_pack
from cinicpack.convert.conversion import Converted, Task
from cinicpack.convert.files import Content, Read, count_bytes
from cinicpack.convert.judge import drop_bad, judge, judge_names, tell_remarks
from cinicpack.convert.paths import Paths
from cinicpack.convert.plan import Plan, Wanted, make_plan
from cinicpack.convert.reservation import cut_tasks, reserve, sample
from cinicpack.convert.resize import check_resize
from cinicpack.convert.results import Results
from cinicpack.convert.source import ListsPaths, Source, open_source
from cinicpack.convert.worker import Worker, starting_workers
from cinicpack.cores import usable_cores
from cinicpack.errors import ArgumentError, SourceError
from cinicpack.store.container import Container, for_suffix, named
from cinicpack.store.manifest import Resize
from cinicpack.store.pack import Pack, open_pack
from cinicpack.store.publish import publishing
from cinicpack.store.reader import find_other
from cinicpack.terminal import progress_bar

__all__ = ["Pace", "build", "check_options", "make_pack", "pack"]

#: Starts workers as `starting_workers` does.
StartWorkers: TypeAlias = Callable[
    [int, str, Read | None, Path], AbstractContextManager[list[Worker]]
]


class Pace(NamedTuple):
    """How much is done at a time.

    Attributes:
        task_images: images in a task: enough that handing it over (0.1 ms) is nothing beside doing
            it (10 ms).
        task_bytes: of a stream a task has fewer images if these are large, since they are on their
            way in memory.
        alone_images: fewer are converted before worker processes would have started (1 s).
        alone_bytes: a smaller archive likewise.
    """

    task_images: int = 512
    task_bytes: int = 4 << 20
    alone_images: int = 8_000
    alone_bytes: int = 20 << 20


_PACE: Final = Pace()
# Where the rows are known, a stream's tasks may have so many times the bytes of others.
_WHOLE_TASKS: Final = 4


def pack(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
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
    resize: int | tuple[int, int] | None = None,
    filter: str = "box",  # noqa: A002  Pillow's word
    fit: str = "squash",
    labels: str | None = None,
    columns: Sequence[str] | None = None,
    progress: bool = True,
) -> Pack:
    """Convert images into a pack, and open it.

    The same images give the same bytes, whatever the kind of source and the number of workers.
    ``destination`` appears at once, or stays if anything fails. Mean and std: see `store.format`.

    Args:
        source: a directory or archive of images in SPLIT/CLASS/ or CLASS/, parquet files, or the
            own files of CIFAR, ImageNet32x32 or CIFAR-10-C: see `convert.source`.
        destination: the pack to make.
        format: "npy", a directory of npy files, or "hdf5", one file.
        splits: the splits to take, or the name of one; None: all.
        shard_rows: images in one npy file or dataset; None: all of a split.
        num_workers: processes that decode; None: one for each usable core; 0: this process decodes.
        skip_bad: leave out images that cannot be decoded or have an odd size; they are recorded.
        allow_missing: accept splits without images, left out, and classes without images in some,
            which keep their labels; if all file names are CINIC-10's, the classes are its ten.
        overwrite: replace a pack at ``destination``, be it damaged; never anything else.
        expect: "cinic10": raise unless the images are CINIC-10's in number, class and name.
        resize: N or (height, width), which images get, as RGB; None: all have one size already.
        filter: Pillow's "box", as CINIC-10 was made with, "bilinear", "bicubic" or "lanczos".
        fit: "squash", as CINIC-10 was made, or "crop", the shorter side first, then the middle.
        labels: of CIFAR-100: "fine", its 100 classes (None too), or "coarse", its 20.
        columns: of parquet, those of images and of labels; None: as `convert.parquet` finds them.
        progress: show a bar, if standard error is a terminal.

    Raises:
        FileNotFoundError, SourceError: ``source`` is not there; is damaged, unreadable, incomplete.
        BadImagesError: some images cannot be packed; all are listed.
        DestinationError: ``destination`` is there, not to be overwritten, or cannot be made.
        ArgumentError: an option is out of its domain, or ``shard_rows`` makes too many files.

    >>> pack("CINIC-10.tar.gz", "new.pack", progress=False)
    Pack('new.pack', train 90, valid 90, test 90, 32x32, 10 classes)
    """
    wanted = Wanted(splits, shard_rows, num_workers, skip_bad, allow_missing, expect, progress)
    wanted = wanted._replace(resize=check_resize(resize, filter, fit))
    opening = partial(open_source, source, labels, columns)
    return make_pack(opening, Path(destination), format, wanted, overwrite=overwrite)


def make_pack(
    opening: Callable[[], Source], destination: Path, name: str, wanted: Wanted, *, overwrite: bool
) -> Pack:
    """Make a pack of a source, which is opened once the pack can be made, and open that.

    ``name`` is that of the pack's container. Raises what `pack` does.
    """
    container = check_options(destination, name, wanted)
    with publishing(destination, overwrite=overwrite, find_other=find_other) as new:
        build(opening(), new, container, wanted)
    try:
        return open_pack(destination)
    except Exception as error:
        error.add_note(f"{destination} was made; only to open it failed")
        raise


def build(
    source: Source,
    new: Path,
    container: Container,
    wanted: Wanted,
    pace: Pace = _PACE,
    start: StartWorkers = starting_workers,
) -> None:
    """Make a pack of a source at ``new``, whose folder is for scratch files.

    Raises what `pack` does of a source and its images.
    """
    work = new.parent
    # Workers of a writer that was killed may live on for a moment, and create files: those are in
    # another folder, which is swept.
    scratch = Path(tempfile.mkdtemp(dir=work))
    reserved = None
    paths = Paths()
    with start(
        _count_workers(source, wanted, pace), str(source.path), source.read, scratch
    ) as workers:
        # The workers are still starting, so listing and planning take no time of theirs.
        plan = _plan_ahead(source, wanted, work)
        if plan is None:
            tasks = _note_paths(group_stream(source.stream(), pace, wanted.resize), paths)
        else:
            judge_names(plan, wanted)
            reserved = reserve(sample(source, plan), plan, scratch / "reserved", container)
            tasks = cut_tasks(plan, reserved, pace.task_images)
            if source.read is None:
                tasks = fill_tasks(tasks, source, pace)
        total = None if plan is None else len(plan.paths)
        with (
            Results(scratch / "results") as results,
            _showing_progress(source, total, shown=wanted.progress) as advance,
        ):
            convert(workers, tasks, results, advance)
    if plan is None:
        plan = make_plan(source, paths, wanted, work)
    if reserved is not None:
        reserved.finish(results.held_back)
    tell_remarks(source)
    images = results.join()
    plan = drop_bad(plan, images, wanted)
    judge(plan, images, wanted)
    write_pack(plan, images, new, container, wanted.num_workers, reserved)


def check_options(destination: Path, name: str, wanted: Wanted) -> Container:
    """Return the container of this name; raises `ArgumentError` for what cannot be wanted."""
    container = named(name)
    other = for_suffix(destination)
    if other is not None and other is not container:
        raise ArgumentError(
            f"{destination}: format {name!r} makes a directory, the name says "
            f"{other.name.upper()}; pass --format {other.name} (format={other.name!r}) or choose "
            "another name"
        )
    if wanted.shard_rows is not None and wanted.shard_rows < 1:
        raise ArgumentError(f"expected shard_rows of at least 1, found {wanted.shard_rows}")
    if wanted.num_workers is not None and wanted.num_workers < 0:
        raise ArgumentError(f"expected num_workers of at least 0, found {wanted.num_workers}")
    if wanted.expect not in (None, "cinic10"):
        raise ArgumentError(f"expected expect='cinic10' or None, found {wanted.expect!r}")
    return container


def _count_workers(source: Source, wanted: Wanted, pace: Pace) -> int:
    if wanted.num_workers is not None:
        return wanted.num_workers
    return 0 if source.is_small(pace.alone_images, pace.alone_bytes) else usable_cores()


def group_stream(
    images: Iterable[tuple[str, Content]], pace: Pace, resize: Resize | None
) -> Iterator[Task]:
    """Group the images of a stream into tasks."""
    paths: list[str] = []
    contents: list[Content] = []
    nbytes = 0
    for path, content in images:
        paths.append(path)
        contents.append(content)
        nbytes += count_bytes(content)
        if len(contents) == pace.task_images or nbytes >= pace.task_bytes:
            yield Task(paths, contents, None, resize)
            paths, contents, nbytes = [], [], 0
    if contents:
        yield Task(paths, contents, None, resize)


def fill_tasks(tasks: Iterable[Task], source: Source, pace: Pace) -> Iterator[Task]:
    """Give tasks the contents that a stream has for them, in its order.

    Where these are too large for one task, they come in several, whose planes are copied later.
    """
    stream = source.stream()
    others = SourceError(
        f"{source.path}: expected the images that it listed, found others; it was written to "
        "meanwhile, so run again"
    )
    for task in tasks:
        count = len(task.paths)
        whole = pace._replace(task_images=count, task_bytes=_WHOLE_TASKS * pace.task_bytes)
        given = 0
        for part in group_stream(islice(stream, count), whole, task.resize):
            if part.paths != task.paths[given : given + len(part.paths)]:
                raise others
            given += len(part.paths)
            yield part._replace(target=task.target if len(part.paths) == count else None)
    # The stream ends here and not when it is dropped, where Python ignores an interrupt.
    if next(stream, None) is not None:
        raise others


def _note_paths(tasks: Iterable[Task], paths: Paths) -> Iterator[Task]:
    """Add the paths of tasks to others while the tasks are given."""
    for task in tasks:
        paths.extend(task.paths)
        yield task


def _plan_ahead(source: Source, wanted: Wanted, work: Path) -> Plan | None:
    """Plan the rows before the images are read.

    None where the images come as a stream whose paths are not known, or in another order.
    """
    if source.read is not None:
        return make_plan(source, Paths(source.paths()), wanted, work).in_order()
    if isinstance(source, ListsPaths):
        plan = make_plan(source, Paths(source.list_paths()), wanted, work)
        if np.array_equal(plan.rows, np.arange(len(plan.paths))):
            return plan
    return None


@contextmanager
def _showing_progress(
    source: Source, total: int | None, *, shown: bool
) -> Iterator[Callable[[int], None]]:
    """Show a bar, and give what moves it on by some images; of a stream the total is estimated."""
    with progress_bar(
        shown=shown, total=total, unit=" images", unit_scale=True, desc="decode"
    ) as bar:

        def advance(images: int) -> None:
            if total is None:
                bar.total = int((bar.n + images) / max(source.fraction, 1e-9))
            bar.update(images)

        yield advance


def convert(
    workers: Sequence[Worker],
    tasks: Iterable[Task],
    results: Results,
    advance: Callable[[int], None],
) -> None:
    """Convert tasks on all workers, a few ahead, and add their results in order."""
    idle: SimpleQueue[Worker] = SimpleQueue()
    for worker in workers:
        idle.put(worker)
    pending: deque[Future[Converted]] = deque()

    def run(task: Task) -> Converted:
        worker = idle.get()
        try:
            return worker(task)
        finally:
            idle.put(worker)

    def take() -> None:
        result = pending.popleft().result()
        results.add(result)
        advance(len(result.offsets))

    with ThreadPoolExecutor(len(workers)) as threads:
        try:
            for task in tasks:
                pending.append(threads.submit(run, task))
                if len(pending) > len(workers):
                    take()
            while pending:
                take()
        finally:
            threads.shutdown(cancel_futures=True)
