"""A tree ``SPLIT/CLASS/NAME.png`` on disk, which appears when it is whole."""

import contextlib
import os
import shutil
import struct
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import numpy as np
from deflate import crc32, zlib_compress
from numpy.typing import NDArray
from tqdm import tqdm

from cinicpack.cores import usable_cores
from cinicpack.errors import ArgumentError, DestinationError
from cinicpack.store.region import write_all

__all__ = ["building", "encode_pngs", "run_jobs", "write_files"]

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_RGB: Final = 2
_SUB: Final = 1


@contextlib.contextmanager
def building(destination: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a new folder that becomes ``destination`` when the block ends, or goes if it raises.

    Its files are not synced to disk one by one, which would take minutes for 270,000.

    Raises `DestinationError` if ``destination`` is there and is no empty directory, or a mount
    point, or if its parent is not there or cannot be written.
    """
    destination = Path(os.path.abspath(destination))
    if not destination.parent.is_dir():
        raise DestinationError(
            f"{destination}: the folder {destination.parent} does not exist; create it first"
        )
    if os.path.lexists(destination) and not _is_empty_folder(destination):
        raise DestinationError(
            f"{destination}: expected nothing there, or an empty directory; choose another name, "
            "or remove it yourself"
        )
    if os.path.ismount(destination):
        raise DestinationError(
            f"{destination}: expected what a rename can replace, found a mount point; choose a "
            "name within it"
        )
    try:
        temporary = tempfile.mkdtemp(".tmp", f".{destination.name}.", destination.parent)
    except OSError as error:
        raise DestinationError(
            error.errno, f"cannot write in {destination.parent}: {error.strerror}"
        ) from None
    work = Path(temporary, destination.name)
    try:
        # In a folder of its own, since what mkdtemp makes is for nobody else to read.
        work.mkdir()
        yield work
        os.rename(work, destination)
    finally:
        shutil.rmtree(temporary)


def run_jobs(
    jobs: Sequence[Callable[[], int]], total: int, *, num_workers: int | None, progress: bool
) -> None:
    """Run all jobs on threads; each says how many images it has done, of ``total``.

    The first error ends it, once the jobs that have begun are through.
    """
    if num_workers is not None and num_workers < 0:
        raise ArgumentError(f"expected num_workers of at least 0, found {num_workers}")
    threads = (usable_cores() if num_workers is None else num_workers) or 1
    bar = tqdm(total=total, unit=" images", unit_scale=True, disable=None if progress else True)
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
        # By names within an open folder: whole paths take 8 us more a file.
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
            error.errno, f"cannot write {len(names)} files in {folder}: {error.strerror}"
        ) from error


def encode_pngs(images: NDArray[np.uint8]) -> list[bytes]:
    """Encode RGB images (n, height, width, 3) as PNG files.

    With the Sub filter and libdeflate's first level, files of real CINIC-10 images are 1% larger
    than Pillow's and take 50 us instead of 280.
    """
    count, height, width, _ = images.shape
    rows = images.reshape(count, height, 3 * width)
    filtered = np.empty((count, height, 1 + 3 * width), np.uint8)
    filtered[:, :, 0] = _SUB
    filtered[:, :, 1:4] = rows[:, :, :3]
    np.subtract(rows[:, :, 3:], rows[:, :, :-3], out=filtered[:, :, 4:])
    start = _SIGNATURE + _chunk(b"IHDR", struct.pack(">2I5B", width, height, 8, _RGB, 0, 0, 0))
    end = _chunk(b"IEND", b"")
    return [start + _chunk(b"IDAT", zlib_compress(image, 1)) + end for image in filtered]


def _chunk(kind: bytes, data: bytes | bytearray) -> bytes:
    checksum = crc32(data, crc32(kind))
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and not any(path.iterdir())
