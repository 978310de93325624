"""The limit of a loader: its own kernel with nothing around it, round buffers that stay in a cache.

Threads take no turns and wait for nobody, hand nothing over and run no Python. No loader that makes
the same batches with the same kernel can be faster on the same cores.
"""

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cinicpack.jit import jit
from cinicpack.load.engine import posix
from cinicpack.load.engine.memory import allocate_aligned
from cinicpack.load.engine.posix import array_at, record_at
from cinicpack.load.kernels import task
from cinicpack.load.kernels.task import TASK, Tasks
from cinicpack.load.loader import Loader
from cinicpack.load.transform import parameters_dtype

__all__ = ["Limit", "find_limit", "is_large", "make_plain", "measure_rate", "name_cache"]

_u64 = np.uint64
_TASK_BYTES: Final = _u64(TASK.itemsize)

# Images in a buffer, and buffers of a thread, out of which the fastest are found.
_IMAGES: Final = (16, 32, 64, 128, 256)
_BUFFERS: Final = (1, 2, 4)
# Batches above this do not stay in a cache however they are made.
_LARGE: Final = 8 << 20
_PARAMETERS: Final = parameters_dtype("float32")
_CACHES: Final = Path("/sys/devices/system/cpu/cpu0/cache")


class Limit:
    """A way round some buffers, from one to the next and from the last to the first.

    Args:
        loader: whose images are written; its batches are in the host's memory.
        threads: how many write.
        images: in a buffer.
        buffers: of each thread.
        kernel: what writes them; None: the loader's own.

    Attributes:
        images: in a buffer.
        buffers: of each thread.
        nbytes: of all buffers of all threads.
    """

    def __init__(
        self, loader: Loader, threads: int, images: int, buffers: int, kernel: Any = None
    ) -> None:
        samples = loader._samples
        self.images = images
        self.buffers = buffers
        self._samples = samples
        self._tasks = [
            samples.make_tasks(buffers, 0, piece=images, kernel=kernel) for _ in range(threads)
        ]
        order = np.random.default_rng(0).permutation(len(samples)).astype(np.int64)
        self._parts = np.array_split(order, threads)
        nbytes = samples.batch_bytes(images)
        self.nbytes = nbytes * buffers * threads
        self._memory = [[allocate_aligned(nbytes) for _ in range(buffers)] for _ in range(threads)]
        self._columns = np.empty((threads, buffers, 2, images), np.int64)
        for tasks, memory, columns in zip(self._tasks, self._memory, self._columns, strict=True):
            for place in range(buffers):
                labels, rows = columns[place]
                tasks.aim(place, labels, rows, memory[place])
        self._pool = ThreadPoolExecutor(threads)

    def __str__(self) -> str:
        return f"{self.buffers} x {self.images} images a thread"

    def run(self) -> int:
        """Write all images of the loader once, in random order; return how many they are."""
        list(self._pool.map(self._write, self._tasks, self._parts))
        return len(self._samples)

    def _write(self, tasks: Tasks, part: NDArray[np.int64]) -> None:
        samples, count = part.ctypes.data, len(part)
        _write_all(tasks.function, tasks.addresses[0], self.buffers, samples, count, self.images)


def find_limit(loader: Loader, threads: int, *, seconds: float = 0.05) -> Limit:
    """Find the number and size of buffers with which the loader's kernel is the fastest.

    For batches over 8 MiB there are two in the process, each as large as a batch and written by all
    threads.

    Args:
        loader: whose kernel and images are taken; its batches are in the host's memory.
        threads: how many write.
        seconds: for how long each way is tried, twice.
    """
    if is_large(loader):
        return Limit(loader, threads, -(-loader.batch_size // threads), 2)
    limits = [Limit(loader, threads, images, buffers) for images in _IMAGES for buffers in _BUFFERS]
    rates = [[measure_rate(limit.run, seconds) for limit in limits] for _ in range(2)]
    best = np.argmax([first + second for first, second in zip(*rates, strict=True)])
    return limits[int(best)]


def is_large(loader: Loader) -> bool:
    """Say whether batches are over 8 MiB."""
    return loader._samples.batch_bytes(loader.batch_size) > _LARGE


def make_plain(loader: Loader, threads: int, images: int = 64, buffers: int = 2) -> Limit:
    """Make a way that converts each byte to float32, with one multiplication and one addition.

    Images are read in random order, but neither cropped nor mirrored, and nothing is drawn.
    """
    return Limit(loader, threads, images, buffers, _gather_convert)


def name_cache(nbytes: int, threads: int) -> str:
    """Name the smallest cache of the first core that holds its part of so many bytes.

    >>> name_cache(1 << 40, 2)
    'no cache that is known'
    """
    for level, size, cores in sorted(_list_caches()):
        if nbytes * min(cores, threads) / threads <= size:
            return f"the L{level} cache, {size / 2**20:,.1f} MiB for {cores} cores"
    return "no cache that is known"


def _list_caches() -> Iterable[tuple[int, int, int]]:
    for cache in _CACHES.glob("index*"):
        kind, level, size, cores = (
            (cache / name).read_text().strip()
            for name in ("type", "level", "size", "shared_cpu_list")
        )
        if kind != "Instruction":
            yield int(level), int(size.removesuffix("K")) << 10, _count_cores(cores)


def _count_cores(text: str) -> int:
    """Count the cores of a list such as "0-3,8"."""
    ends = [part.split("-") for part in text.split(",")]
    return sum(int(end[-1]) - int(end[0]) + 1 for end in ends)


def measure_rate(run: Callable[[], int], seconds: float) -> float:
    """Run whole epochs for a while; return images per second."""
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        count += run()
    return count / elapsed


@jit(inlines=(posix, task))
def _write_all(
    function: int, first: int, buffers: int, samples: int, count: int, images: int
) -> None:
    """Call a kernel for all samples, with one of the tasks after the other."""
    place = _u64(0)
    for start in range(_u64(0), _u64(count), _u64(images)):
        address = _u64(first) + place * _TASK_BYTES
        t = record_at(address, TASK)
        t.samples = _u64(samples) + _u64(8) * start
        t.count = min(_u64(images), _u64(count) - start)
        posix.call(_u64(function), address, 0)
        place = (place + _u64(1)) % _u64(buffers)


@jit(inlines=(posix, task))
def _gather_convert(address: Any, _piece: Any) -> int:
    """Convert the images of a task to float32, with one multiplication and one addition."""
    t = record_at(address, TASK)
    p = record_at(t.parameters, _PARAMETERS)
    size = _u64(3 * p.height * p.width)
    scale, shift = np.float32(0.016), np.float32(-1.9)
    samples = array_at(t.samples, t.count, np.int64)
    addresses = array_at(t.addresses, t.images, np.uint64)
    out = array_at(t.out, t.count * size, np.float32)
    for image in range(t.count):
        pixels = array_at(addresses[_u64(samples[image])], size, np.uint8)
        start = image * size
        for pixel in range(size):
            out[start + pixel] = np.float32(pixels[pixel]) * scale + shift
    return 1
