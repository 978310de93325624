"""Workers: they read, check and decode images, and append the planes to scratch files.

Workers are fresh Python processes that are spoken to over a socket. Unlike multiprocessing's they
do not import the caller's main module again, and they end when the caller does, however it ends.
"""

import contextlib
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from cinicpack.cinic10 import parse_name
from cinicpack.convert.decode import decode_images
from cinicpack.convert.sources import read_files
from cinicpack.errors import CinicPackError
from cinicpack.jit import jit
from cinicpack.store.format import SOURCE_DTYPE, digest_image, image_header
from cinicpack.store.region import write_all

__all__ = ["Converted", "Place", "Task", "Worker", "serve", "starting_workers"]


# Above what 512 images of 32x32 have; of larger ones not all of a task are held in memory.
_WAITING_BYTES: Final = 4 << 20


class Place(NamedTuple):
    """Where images belong, one after the other, if all of a task are good and of one shape.

    Attributes:
        file: which file.
        offset: byte where the first image starts.
        shape: height and width.
        padding: zeros to be written before.
        held_back: bytes at the end that are not to be written, but returned.
    """

    file: str
    offset: int
    shape: tuple[int, int]
    padding: int
    held_back: int


class Task(NamedTuple):
    """Images to convert.

    Attributes:
        paths: where they are within the source.
        contents: of an archive, their bytes, or why they were not read; of a tree None.
        place: where they belong, if that is known.
    """

    paths: list[str]
    contents: list[bytes | OSError] | None
    place: Place | None = None


class Converted(NamedTuple):
    """What became of the n images of a task.

    Attributes:
        scratch: the file that has the planes: a scratch file, or the one where they belong.
        offsets: (n,) int64, where in it each image is; -1 for one that is bad.
        shapes: (n, 2) int32, height and width.
        digests: (n, 32) uint8, as `store.format` defines them.
        sums: (n, 6) int64, sum and sum of squares of each channel.
        sources: (n,) provenance, from the file names.
        bad: position in the task and reason of every bad image.
        reduced: positions of images with 16 bits per channel, of which Pillow keeps 8.
        held_back: the last bytes of the planes, if they are not in the file.
    """

    scratch: str
    offsets: NDArray[np.int64]
    shapes: NDArray[np.int32]
    digests: NDArray[np.uint8]
    sums: NDArray[np.int64]
    sources: NDArray[np.void]
    bad: list[tuple[int, str]]
    reduced: list[int]
    held_back: bytes = b""


class Worker(Protocol):
    """What converts tasks: here, or in a process of its own."""

    def __call__(self, task: Task) -> Converted:
        """Convert one task."""


@contextlib.contextmanager
def starting_workers(count: int, root: Path, folder: Path) -> Iterator[list[Worker]]:
    """Start ``count`` worker processes, or with 0 convert in this one; stop them at the end.

    ``root`` is the tree that paths are relative to; scratch files are created in ``folder``.
    """
    with contextlib.ExitStack() as stack:
        if count == 0:
            yield [stack.enter_context(_Converter(root, folder / "scratch-0"))]
            return
        yield [
            stack.enter_context(_Process(root, folder / f"scratch-{number}"))
            for number in range(count)
        ]


class _Converter:
    """Converts tasks in this process; owns a scratch file."""

    def __init__(self, root: Path, scratch: Path) -> None:
        self._root = root
        self._path = str(scratch)
        self._scratch = open(scratch, "xb")
        self._size = 0

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._scratch.close()

    def __call__(self, task: Task) -> Converted:
        count = len(task.paths)
        result = Converted(
            self._path,
            np.full(count, -1, np.int64),
            np.zeros((count, 2), np.int32),
            np.zeros((count, 32), np.uint8),
            np.zeros((count, 6), np.int64),
            np.array([parse_name(path.rsplit("/", 1)[-1]) for path in task.paths], SOURCE_DTYPE),
            [],
            [],
        )
        waiting: dict[int, NDArray[np.uint8]] = {}
        nbytes = 0
        limit = _WAITING_BYTES
        if task.place is not None:
            limit = max(limit, 3 * count * math.prod(task.place.shape))
        for position, image in enumerate(
            decode_images(task.contents or read_files(self._root, task.paths))
        ):
            if image.reason is not None:
                result.bad.append((position, image.reason))
                continue
            if image.reduced:
                result.reduced.append(position)
            waiting[position] = image.pixels
            nbytes += image.pixels.nbytes
            if nbytes > limit:
                result = self._write(waiting, task, result)
                waiting, nbytes = {}, 0
        result = self._write(waiting, task, result)
        self._scratch.flush()
        return result

    def _write(
        self, images: dict[int, NDArray[np.uint8]], task: Task, result: Converted
    ) -> Converted:
        """Write the planes of images, and note what there is to know of them."""
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for position, pixels in images.items():
            folder, _, name = task.paths[position].rpartition("/")
            class_name = folder.rpartition("/")[2]
            header = image_header(os.fsencode(class_name), os.fsencode(name), pixels.shape)
            result.digests[position] = np.frombuffer(digest_image(header, pixels), np.uint8)
            by_shape.setdefault(pixels.shape, []).append(position)
        for (height, width, _), positions in by_shape.items():
            batch = np.stack([images[position] for position in positions])
            planes = np.empty((len(batch), 3, height, width), np.uint8)
            sums = np.empty((len(batch), 6), np.int64)
            _separate(batch.reshape(-1), planes.reshape(-1), sums, height * width)
            result.sums[positions] = sums
            result.shapes[positions] = height, width
            place = task.place
            if place and place.shape == (height, width) and len(positions) == len(task.paths):
                return _put(planes, place, result)
            result.offsets[positions] = self._size + np.arange(len(batch)) * planes[0].nbytes
            self._scratch.write(planes.data)
            self._size += planes.nbytes
        return result


def _put(planes: NDArray[np.uint8], place: Place, result: Converted) -> Converted:
    """Write the planes of a whole task where they belong."""
    result.offsets[:] = place.offset + np.arange(len(planes)) * planes[0].nbytes
    data = planes.data.cast("B")
    end = len(data) - place.held_back
    padded = memoryview(bytes(place.padding) + data[:end])
    with open(place.file, "r+b", buffering=0) as stream:
        write_all(stream.fileno(), padded, place.offset - place.padding)
    return result._replace(scratch=place.file, held_back=bytes(data[end:]))


class _Process:
    """A converter in another process; ends with the connection to it."""

    def __init__(self, root: Path, scratch: Path) -> None:
        self._connection, other = Pipe()
        # The same modules as here, also where the package is not installed but on the path.
        path = os.pathsep.join(os.fspath(entry) or os.getcwd() for entry in sys.path)
        arguments = (other.fileno(), str(root), str(scratch))
        command = f"from {__name__} import serve; serve(*{arguments!r})"
        self._process = subprocess.Popen(
            # -P: not from the working directory, unless it is on the caller's path.
            [sys.executable, "-P", "-c", command],
            pass_fds=[other.fileno()],
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
            # Ctrl-C is for the caller, who ends the worker in good order.
            process_group=0,
        )
        other.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._process.kill()
        self._process.wait()

    def __call__(self, task: Task) -> Converted:
        try:
            self._connection.send(task)
            answer = self._connection.recv()
        except (EOFError, OSError):
            status = self._process.wait()
            raise CinicPackError(
                f"a worker process ended with status {status} (a negative one is the signal that "
                "killed it, -9 often for want of memory); run again, with fewer workers if need be"
            ) from None
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, Converted)
        return answer


def serve(descriptor: int, root: str, scratch: str) -> None:
    """Be a worker process: answer the tasks that come over ``descriptor`` until it is closed."""
    with (
        Connection(descriptor) as connection,
        _Converter(Path(root), Path(scratch)) as convert,
        # Either means that the caller has gone.
        contextlib.suppress(EOFError, ConnectionError),
    ):
        while True:
            connection.send(_answer(convert, connection.recv()))


def _answer(convert: Worker, task: Task) -> Converted | Exception:
    try:
        return convert(task)
    except (CinicPackError, OSError, MemoryError) as error:
        return error


@jit
def _separate(
    images: NDArray[np.uint8], planes: NDArray[np.uint8], sums: NDArray[np.int64], size: int
) -> None:
    """Turn interleaved pixels into planes, and sum each channel and its squares."""
    for image in range(sums.shape[0]):
        start = np.uint64(image) * np.uint64(3 * size)
        for channel in range(3):
            source = start + np.uint64(channel)
            target = start + np.uint64(channel) * np.uint64(size)
            total = np.uint64(0)
            square = np.uint64(0)
            for pixel in range(np.uint64(size)):
                value = images[source + np.uint64(3) * pixel]
                planes[target + pixel] = value
                total += np.uint64(value)
                square += np.uint64(np.uint32(value) * np.uint32(value))
            sums[image, channel] = total
            sums[image, 3 + channel] = square
