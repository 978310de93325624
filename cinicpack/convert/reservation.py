"""A reservation: the arrays of a pack, made before the images are decoded.

This takes a source whose rows are known beforehand, as those of a tree are from its paths. If all
of its images can be packed, and have the shape of some from all over it, workers write them where
they belong; else what they wrote is copied.
"""

import math
import os
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Final, NamedTuple

from cinicpack.convert.conversion import Target, Task
from cinicpack.convert.decode import measure_image
from cinicpack.convert.files import Content
from cinicpack.convert.plan import Plan
from cinicpack.convert.results import HeldBack
from cinicpack.convert.source import Source
from cinicpack.store.container import Container
from cinicpack.store.format import ArraySpec
from cinicpack.store.region import HUGE_PAGE, Region, write_all

__all__ = ["Reservation", "cut_tasks", "reserve", "sample"]

_MAX_TASK_BYTES: Final = 8 << 20
_SAMPLES: Final = 16


class Reservation(NamedTuple):
    """The arrays of a pack that are made, but not filled.

    Attributes:
        root: the pack, under a name for the time being.
        shape: height and width of the images.
        regions: where the arrays lie.
    """

    root: Path
    shape: tuple[int, int]
    regions: list[Region]

    def specs(self) -> list[ArraySpec]:
        """Return the specs of the arrays."""
        return [region.spec for region in self.regions]

    def images(self) -> Iterator[tuple[int, Region]]:
        """Iterate over the arrays of images, each with the number of rows before it."""
        start = 0
        for region in self.regions:
            if "/images-" in region.spec.name:
                yield start, region
                start += region.spec.shape[0]

    def finish(self, held_back: Iterable[HeldBack]) -> None:
        """Write the ends of tasks that workers held back."""
        for file, offset, data in held_back:
            with open(file, "r+b", buffering=0) as stream:
                write_all(stream.fileno(), memoryview(data), offset)

    def move(self, root: Path) -> list[Region]:
        """Give the pack its name, and return where its arrays are then."""
        os.rename(self.root, root)
        return [
            region._replace(file=root / region.file.relative_to(self.root))
            for region in self.regions
        ]


def sample(source: Source, plan: Plan) -> Iterator[Content]:
    """Give some images from all over a source, for any may be odd; of a stream its first.

    The paths of the plan are its rows in order.
    """
    if source.read is not None:
        yield from source.read(plan.paths[:: -(-len(plan.paths) // _SAMPLES)])
    else:
        stream = source.stream()
        yield from (content for _, content in islice(stream, 1))
        # Python ignores an interrupt while it closes a generator that was only dropped.
        if isinstance(stream, Generator):
            stream.close()


def reserve(
    samples: Iterable[Content], plan: Plan, root: Path, container: Container
) -> Reservation | None:
    """Make the arrays for the images of a plan, whose paths are its rows in order.

    They have the shape that images are resized to, or else that of most samples. None if all of
    these are bad.
    """
    if plan.resize is None:
        shapes = Counter(shape for image in samples if (shape := measure_image(image)))
        if not shapes:
            return None
        [((height, width), _)] = shapes.most_common(1)
    else:
        height, width = plan.resize.size
    regions = container.create(root, plan.specs((height, width, 3)))
    return Reservation(root, (height, width), regions)


def cut_tasks(plan: Plan, reservation: Reservation | None, task_images: int) -> Iterator[Task]:
    """Cut the images of a plan, whose paths are its rows in order, into tasks."""
    paths = plan.paths
    if reservation is None:
        for start in range(0, len(paths), task_images):
            yield Task(paths[start : start + task_images], None, None, plan.resize)
        return
    for start, region in reservation.images():
        row_bytes = math.prod(region.spec.shape[1:])
        padding = 0
        for first, last, held_back in _cut_rows(region, task_images):
            offset = region.offset + first * row_bytes
            target = Target(str(region.file), offset, reservation.shape, padding, held_back)
            yield Task(paths[start + first : start + last], None, target, plan.resize)
            padding = held_back


def _cut_rows(region: Region, task_images: int) -> Iterator[tuple[int, int, int]]:
    """Cut the rows of a region into tasks that fill huge pages, if few enough rows do.

    A shuffled epoch reads one random image after the other, and takes up to a seventh longer where
    the operating system keeps the file in small pages. The system makes a huge page where the first
    write to that page covers all of it. With 32x32, a task is 2,048 images, 6 MiB, which is some
    huge pages but for the header of an npy file, 128 bytes, by which every task starts late on its
    first page. So each task writes zeros before its first image, and holds back the bytes that lie
    on the first page of the next task.

    Yields the first row, the one after the last, and how many bytes to hold back.
    """
    count, *shape = region.spec.shape
    row_bytes = math.prod(shape)
    step = HUGE_PAGE // math.gcd(HUGE_PAGE, row_bytes)
    fits = step <= 8 * task_images and step * row_bytes <= _MAX_TASK_BYTES
    if not fits:
        step = max(1, min(task_images, _MAX_TASK_BYTES // row_bytes))

    def late(row: int) -> int:
        return (region.offset + row * row_bytes) % HUGE_PAGE

    lead = min(range(step), key=late) if fits else 0
    for first, last in pairwise([0, *range(lead or step, count, step), count]):
        yield first, last, late(last) if fits and last < count else 0
