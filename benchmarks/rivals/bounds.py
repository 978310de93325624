# /// script
# dependencies = []
#
# [tool.benchmark]
# kind = "bound"
#
# [[tool.benchmark.rows]]
# name = "bound: gather and convert to float32"
# batch_size = 512
# work = "convert"
#
# [[tool.benchmark.rows]]
# name = "bound: gather and convert, batch 128"
# batch_size = 128
# work = "convert"
#
# [[tool.benchmark.rows]]
# name = "bound: gather uint8"
# batch_size = 512
# work = "gather"
# dtype = "uint8"
#
# [[tool.benchmark.rows]]
# name = "bound: memcpy of the images in order"
# batch_size = 512
# work = "memcpy"
# dtype = "uint8"
# ///
"""What this machine's memory allows with as many threads: the least that any loader has to do."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

import cinicpack
from benchmarks.rivals.protocol import Data, serve
from cinicpack.bench import make_bound


class Epochs(NamedTuple):
    """A run over all images as a loader of one batch, whose labels are as many as the images."""

    run: Callable[[], int]
    source: Any  # kept open: a run may know no more of it than addresses

    def __iter__(self) -> Iterator[tuple[None, range]]:
        yield None, range(self.run())


def open_bound(data: Data, batch_size: int, work: str, **_: Any) -> Any:
    assert data.workers == len(os.sched_getaffinity(0))
    if work == "convert":
        split = cinicpack.open_pack(data.pack)["train"]
        return Epochs(make_bound(split, batch_size, data.workers), split)
    images = np.load(data.images, mmap_mode="r")
    return Epochs(make_copy(images, batch_size, data.workers, work), images)


def make_copy(images: Any, batch_size: int, threads: int, work: str) -> Callable[[], int]:
    """Copy batches of pixels with NumPy, in order or not, into one buffer a thread."""
    order = np.random.default_rng(0).permutation(len(images))
    buffers = [np.empty((batch_size, *images.shape[1:]), np.uint8) for _ in range(threads)]

    def copy(number: int) -> None:
        # One thread's share of the batches; NumPy copies without the interpreter's lock.
        for start in range(number * batch_size, len(images), threads * batch_size):
            stop = min(start + batch_size, len(images))
            out = buffers[number][: stop - start]
            if work == "gather":
                np.take(images, order[start:stop], axis=0, out=out, mode="clip")
            else:
                np.copyto(out, images[start:stop])

    pool = ThreadPoolExecutor(threads)

    def run() -> int:
        list(pool.map(copy, range(threads)))
        return len(images)

    return run


if __name__ == "__main__":
    serve(open_bound)
