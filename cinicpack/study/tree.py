"""Writing the many files of a tree ``SPLIT/CLASS/NAME.png``, on threads."""

import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cinicpack.cores import usable_cores
from cinicpack.errors import ArgumentError, DestinationError
from cinicpack.store.region import write_all
from cinicpack.terminal import progress_bar
from cinicpack.text import counted

__all__ = ["run_jobs", "write_files"]


def run_jobs(
    jobs: Sequence[Callable[[], int]], total: int, *, num_workers: int | None, progress: bool
) -> None:
    """Run all jobs on threads; each says how many images it has done, of ``total``.

    The first error ends it, once the jobs that have begun are through.
    """
    if num_workers is not None and num_workers < 0:
        raise ArgumentError(f"expected num_workers of at least 0, found {num_workers}")
    threads = (usable_cores() if num_workers is None else num_workers) or 1
    bar = progress_bar(shown=progress, total=total, unit=" images", unit_scale=True)
    with bar, ThreadPoolExecutor(threads) as pool:
        pending = deque(pool.submit(job) for job in jobs)
        try:
            while pending:
                bar.update(pending.popleft().result())
        finally:
            pool.shutdown(cancel_futures=True)


def write_files(folder: Path, names: Sequence[str], contents: Sequence[bytes]) -> None:
    """Write new files into a folder, which is made if needed.

    Raises `DestinationError` if that fails, as on a full disk.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Files are opened by name relative to an open folder: looking up a whole path takes 8 us
        # more for each.
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for name, content in zip(names, contents, strict=True):
                file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=directory)
                try:
                    write_all(file, memoryview(content), 0)
                finally:
                    os.close(file)
        finally:
            os.close(directory)
    except OSError as error:
        raise DestinationError(
            error.errno, f"cannot write {counted(len(names), 'file')} in {folder}: {error.strerror}"
        ) from error
