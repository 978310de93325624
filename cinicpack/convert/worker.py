"""Workers: they read, check and decode images, and append the planes to scratch files.

Workers are fresh Python processes that are spoken to over a socket. Unlike multiprocessing's they
do not import the caller's main module again, and they end when the caller does, however it ends.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from cinicpack.cinic10 import parse_name
from cinicpack.convert.decode import decode_images
from cinicpack.convert.sources import read_files
from cinicpack.errors import CinicPackError
from cinicpack.jit import jit
from cinicpack.store.format import SOURCE_DTYPE, digest_image, image_header

__all__ = ["Converted", "Task", "Worker", "serve", "starting_workers"]


class Task(NamedTuple):
    """Images to convert.

    Attributes:
        paths: where they are within the source.
        contents: of an archive, their bytes, or why they were not read; of a tree None.
    """

    paths: list[str]
    contents: list[bytes | OSError] | None


class Converted(NamedTuple):
    """What became of the n images of a task.

    Attributes:
        scratch: the scratch file that has the planes.
        offsets: (n,) int64, where in it each image is; -1 for one that is bad.
        shapes: (n, 2) int32, height and width.
        digests: (n, 32) uint8, as `store.format` defines them.
        sums: (n, 6) int64, sum and sum of squares of each channel.
        sources: (n,) provenance, from the file names.
        bad: position in the task and reason of every bad image.
        reduced: positions of images with 16 bits per channel, of which Pillow keeps 8.
    """

    scratch: str
    offsets: NDArray[np.int64]
    shapes: NDArray[np.int32]
    digests: NDArray[np.uint8]
    sums: NDArray[np.int64]
    sources: NDArray[np.void]
    bad: list[tuple[int, str]]
    reduced: list[int]


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
        contents = task.contents or read_files(self._root, task.paths)
        positions, readable = [], []
        for position, content in enumerate(contents):
            if isinstance(content, bytes):
                positions.append(position)
                readable.append(content)
            else:
                # Not the path again, which for a tree is another than for an archive.
                result.bad.append((position, content.strerror or str(content)))
        by_shape: dict[tuple[int, ...], tuple[list[int], list[NDArray[np.uint8]]]] = {}
        for position, image in zip(positions, decode_images(readable), strict=True):
            if image.reason is not None:
                result.bad.append((position, image.reason))
                continue
            if image.reduced:
                result.reduced.append(position)
            alike, batch = by_shape.setdefault(image.pixels.shape, ([], []))
            alike.append(position)
            batch.append(image.pixels)
        for alike, batch in by_shape.values():
            self._append(np.stack(batch), task.paths, alike, result)
        self._scratch.flush()
        return result

    def _append(
        self,
        images: NDArray[np.uint8],
        paths: list[str],
        positions: list[int],
        result: Converted,
    ) -> None:
        count, height, width, _ = images.shape
        for position, pixels in zip(positions, images, strict=True):
            folder, _, name = paths[position].rpartition("/")
            class_name = folder.rpartition("/")[2]
            header = image_header(os.fsencode(class_name), os.fsencode(name), pixels.shape)
            result.digests[position] = np.frombuffer(digest_image(header, pixels), np.uint8)
        planes = np.empty((count, 3, height, width), np.uint8)
        sums = np.empty((count, 6), np.int64)
        _separate(images.reshape(-1), planes.reshape(-1), sums, height * width)
        result.sums[positions] = sums
        result.shapes[positions] = height, width
        result.offsets[positions] = self._size + np.arange(count) * planes[0].nbytes
        self._scratch.write(planes.data)
        self._size += planes.nbytes


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
