"""Conversion: the files of a task are read, checked and decoded, and their planes written."""

import math
import os
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from cinicpack.cinic10 import parse_names
from cinicpack.convert.decode import decode_images
from cinicpack.convert.files import Content, Read
from cinicpack.convert.paths import file_names
from cinicpack.convert.resize import resize_all
from cinicpack.errors import SourceError
from cinicpack.formats.filters import unfilter
from cinicpack.jit import jit
from cinicpack.shortage import is_shortage
from cinicpack.store.fingerprints import digest_image, image_header
from cinicpack.store.format import PROVENANCE_DTYPE
from cinicpack.store.manifest import Resize
from cinicpack.store.region import write_all

__all__ = ["Converted", "Converter", "Target", "Task", "load_kernels"]

# More than 512 images of 32x32 take. Of larger images only so much of a task is held in memory, but
# a task with a target is held whole, since it is written there at once.
_TRAY_BYTES: Final = 4 << 20


class Target(NamedTuple):
    """Where the images of a task belong, one after the other, if all are good and of this shape.

    Attributes:
        file: which file.
        offset: byte where the first image starts.
        shape: height and width.
        padding: number of zeros to write before the first image.
        held_back: number of bytes at the end that are returned instead of written.
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
        contents: what a stream gave for them; None: they are read by their paths.
        target: where they belong, if that is known.
        resize: to which size to bring them, and how; None: they stay as they are.
    """

    paths: list[str]
    contents: list[Content] | None
    target: Target | None = None
    resize: Resize | None = None


class Converted(NamedTuple):
    """What became of the n images of a task.

    Attributes:
        scratch: the file that has the planes: a scratch file, or the one where they belong.
        offsets: (n,) int64, where in it each image is; -1 for one that is bad.
        shapes: (n, 2) int32, height and width.
        digests: (n, 32) uint8, as `store.format` defines them.
        sums: (n, 6) int64, sum and sum of squares of each channel.
        provenance: (n,) provenance, from the file names.
        bad: position in the task and reason of every bad image.
        reduced: positions of images with 16 bits per channel, of which Pillow keeps 8.
        recoloured: position and former kind of every image that was not RGB.
        held_back: the last bytes of the planes, if they are not in the file.
    """

    scratch: str
    offsets: NDArray[np.int64]
    shapes: NDArray[np.int32]
    digests: NDArray[np.uint8]
    sums: NDArray[np.int64]
    provenance: NDArray[np.void]
    bad: list[tuple[int, str]]
    reduced: list[int]
    recoloured: list[tuple[int, str]]
    held_back: bytes = b""


class Converter:
    """Converts tasks in this process; owns a scratch file.

    Args:
        source: what messages name.
        read: gives the contents of the images of tasks that come without them.
        scratch: the file to create.
    """

    def __init__(self, source: str, read: Read | None, scratch: Path) -> None:
        self._source = source
        self._read = read
        self._path = str(scratch)
        self._scratch = open(scratch, "xb", buffering=0)
        self._size = 0
        self._tray = _Tray()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._scratch.close()

    def __call__(self, task: Task) -> Converted:
        """Convert one task.

        Raises `SourceError`, which names the images, where memory or the like is lacking.
        """
        try:
            return self._convert(task)
        except Exception as error:
            # An OSError with a number comes from writing the planes, so it is no shortage of
            # reading or decoding, and `publishing` explains it.
            is_ours = isinstance(error, OSError) and error.errno is not None
            if is_ours or not is_shortage(error):
                raise
            raise SourceError(
                f"{self._source}: could not convert all from {task.paths[0]!r} to "
                f"{task.paths[-1]!r} ({error!r}); run again, with fewer workers"
            ) from error

    def _convert(self, task: Task) -> Converted:
        count, target, tray = len(task.paths), task.target, self._tray
        result = Converted(
            self._path,
            np.full(count, -1, np.int64),
            np.zeros((count, 2), np.int32),
            np.zeros((count, 32), np.uint8),
            np.zeros((count, 6), np.int64),
            np.array(
                parse_names([path.rpartition("/")[2] for path in task.paths]), PROVENANCE_DTYPE
            ),
            [],
            [],
            [],
        )
        if target:
            tray.clear(target.padding, 3 * count * math.prod(target.shape))
        else:
            tray.clear()
        images = decode_images(self._contents(task))
        for decoded in resize_all(images, task.resize) if task.resize else images:
            result.bad.extend(decoded.bad)
            result.reduced.extend(decoded.reduced)
            result.recoloured.extend(decoded.recoloured)
            for numbers, pixels in decoded.images:
                if not tray.has_room(pixels.nbytes):
                    self._append(result)
                    tray.clear()
                size = pixels[0].nbytes
                result.offsets[numbers] = tray.nbytes + size * np.arange(len(numbers))
                result.shapes[numbers] = pixels.shape[1:3]
                result.digests[numbers] = _digest([task.paths[n] for n in numbers], pixels)
                sums = np.empty((len(numbers), 6), np.int64)
                _separate(pixels.reshape(-1), tray.take(numbers, pixels.nbytes), sums, size // 3)
                result.sums[numbers] = sums
        whole = tray.numbers == list(range(count))
        if target and whole and (result.shapes == target.shape).all():
            return self._put(target, result)
        self._append(result)
        return result

    def _contents(self, task: Task) -> Iterable[Content]:
        if task.contents is not None:
            return task.contents
        assert self._read is not None
        return self._read(task.paths)

    def _append(self, result: Converted) -> None:
        """Write what is on the tray to the end of the scratch file."""
        result.offsets[self._tray.numbers] += self._size
        write_all(self._scratch.fileno(), self._tray.planes, self._size)
        self._size += self._tray.nbytes

    def _put(self, target: Target, result: Converted) -> Converted:
        """Write what is on the tray, the whole task, where it belongs."""
        result.offsets[:] += target.offset
        data = self._tray.padded
        end = len(data) - target.held_back
        with open(target.file, "r+b", buffering=0) as stream:
            write_all(stream.fileno(), data[:end], target.offset - target.padding)
        return result._replace(scratch=target.file, held_back=bytes(data[end:]))


def load_kernels() -> None:
    """Load all kernels, or compile them, so that processes that are forked later have them."""
    none, no_pixels = np.empty(0, np.int64), np.empty((0, 1, 1, 3), np.uint8)
    for channels in (1, 3):
        unfilter(b"", channels, no_pixels, none)
    _separate(no_pixels.reshape(-1), no_pixels.reshape(-1), none.reshape(0, 6), 1)


class _Tray:
    """Where planes wait, one image after the other, to be written together.

    Its memory is used again and again, since every page of new memory takes time to appear.

    Attributes:
        numbers: which images, in their order there.
        nbytes: how much the planes of these images take.
    """

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)
        self.clear()

    def clear(self, padding: int = 0, room: int = _TRAY_BYTES) -> None:
        """Take everything off, for images of ``room`` bytes or so after ``padding`` zeros."""
        self._padding = padding
        self._room = max(room, _TRAY_BYTES)
        self.numbers: list[int] = []
        self.nbytes = 0

    def has_room(self, nbytes: int) -> bool:
        """Tell whether so many bytes more fit; on an empty tray any number does."""
        return not self.numbers or self.nbytes + nbytes <= self._room

    def take(self, numbers: list[int], nbytes: int) -> NDArray[np.uint8]:
        """Return memory for the planes of images, behind those that are on the tray."""
        needed = self._padding + max(self._room, nbytes)
        if not self.numbers and len(self._memory) < needed:
            self._memory = np.empty(0, np.uint8)  # frees the old memory before the new is there
            self._memory = np.empty(needed, np.uint8)
        start = self._padding + self.nbytes
        self.numbers += numbers
        self.nbytes += nbytes
        return self._memory[start : start + nbytes]

    @property
    def planes(self) -> memoryview:
        """The planes on the tray."""
        return self.padded[self._padding :]

    @property
    def padded(self) -> memoryview:
        """The planes on the tray, behind the padding of zeros."""
        self._memory[: self._padding] = 0
        return self._memory[: self._padding + self.nbytes].data


def _digest(paths: list[str], images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Hash every image with its class and name."""
    flat, size, shape = images.data.cast("B"), images[0].nbytes, images.shape[1:]
    digests = []
    for number, (path, name) in enumerate(zip(paths, file_names(paths), strict=True)):
        header = image_header(_class_name(path.rpartition("/")[0]), name, shape)
        digests.append(digest_image(header, flat[number * size : (number + 1) * size]))
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)


@lru_cache
def _class_name(folder: str) -> bytes:
    return os.fsencode(folder.rpartition("/")[2])


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
