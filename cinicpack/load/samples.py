"""The samples of a split: its chosen rows, and the kernels that make batches of them."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cinicpack.load.batches import BatchFormat
from cinicpack.load.engine.threads import Queue
from cinicpack.load.kernels.demand import Demand
from cinicpack.load.kernels.fill import fill_kernel
from cinicpack.load.kernels.random import draw
from cinicpack.load.kernels.task import Inputs, Tables, Tasks, address_of, begin_at
from cinicpack.load.kernels.vectors import TOUCH, touch
from cinicpack.load.labels import Labels, tabulate
from cinicpack.load.transform import Transform, make_transform, to_parameters
from cinicpack.load.unique import Unique
from cinicpack.store.mapping import Mapping
from cinicpack.store.split import Split

__all__ = ["Samples"]

# How much is read ahead at a time.
_READ_BYTES: Final = 1 << 20
# Bytes of the images of a piece: 32 images, which take a thread about 10 µs.
_PIECE_BYTES: Final = 96 << 10
# Images of more than that are not found in a cache again an epoch later; at 30 MB some still are.
_CACHED_BYTES: Final = 64 << 20


class Samples(Unique):
    """The chosen rows of a split, and how they become pixels of a batch.

    Args:
        split: where they are from.
        rows: (N,) int64, which ones; what happens to a sample depends on its row.
        transform: what happens to them.
        seed: of what is drawn, below 2**64.
        batch_format: dtype and layout of batches; the dtype is the one the transform was made for.
        labels: by row of the split, see `check_labels`; None: those of the pack.
        more: what happens to them in further views, normalised as in the first.
        mixed: how many classes there are, where batches are to be mixed; else None.

    Attributes:
        transforms: what happens to the samples, in every view.
        labels: by position, (N,) or (N, K).
        looked_up: where labels of batches are not int64 (n,): a table of labels; the kernels then
            write places in this table. Else None. See `tabulate`.
    """

    def __init__(
        self,
        split: Split,
        rows: NDArray[np.int64],
        transform: Transform,
        seed: int,
        batch_format: BatchFormat,
        labels: Labels | None = None,
        more: Sequence[Transform] = (),
        mixed: int | None = None,
    ) -> None:
        # The split keeps the files mapped, without which the addresses mean nothing: threads that
        # read there must refer to this object, not to the addresses alone.
        self._split = split
        chosen: Any = split.labels[rows].astype(np.int64) if labels is None else labels[rows]
        self.labels: Labels = chosen
        self.looked_up, written = tabulate(chosen, mixed)
        self._tables = Tables(split.addresses(rows), rows.copy(), written)
        self.transforms = (transform, *more)
        dtype, channels_last = batch_format.dtype, batch_format.channels_last
        self._image_bytes = 3 * transform.height * transform.width
        self._streamed = not more and self._image_bytes * len(rows) > _CACHED_BYTES
        self._fill = _Prepared(transform, seed, dtype, channels_last, self._streamed)
        self._parameters = [
            self._fill.parameters, *(to_parameters(each, seed, dtype) for each in more),
        ]  # fmt: skip
        self._format = batch_format
        self._piece = max(1, _PIECE_BYTES // self._image_bytes)

    def __len__(self) -> int:
        return len(self._tables.rows)

    @cached_property
    def _inputs(self) -> Inputs:
        return Inputs(self._parameters, self._tables)

    @cached_property
    def _copy(self) -> "_Prepared":
        shape = self.transform.height, self.transform.width, 3
        plain = make_transform(None, shape, (0,) * 3, (1,) * 3, normalized=False, dtype="uint8")
        return _Prepared(plain, 0, "uint8", False, self._streamed)

    def check_unchanged(self) -> None:
        """Raise ``PackError`` if a file with images was written to since the pack was opened."""
        self._split.pack.check_unchanged(self._split.name)

    @property
    def transform(self) -> Transform:
        """What happens to the samples in the first view."""
        return self.transforms[0]

    @property
    def kernel(self) -> Any:
        """What makes batches of the samples: the same for all alike transforms."""
        return self._fill.kernel

    @property
    def rows(self) -> NDArray[np.int64]:
        """What the samples are in the split: (N,), ascending."""
        return self._tables.rows

    @property
    def tables(self) -> Tables:
        """The tables of all samples, which kernels read."""
        return self._tables

    @property
    def seed(self) -> int:
        """The seed of what is drawn."""
        return int(self._fill.parameters["seed"][0])

    @property
    def addresses(self) -> NDArray[np.uint64]:
        """Where the images lie in memory: (N,)."""
        return self._tables.addresses

    @property
    def image_bytes(self) -> int:
        """Size of an image in the pack."""
        return self._image_bytes

    def find_mappings(self) -> list[Mapping]:
        """Find the mapped files that the images lie in; images in memory lie in none."""
        found = self._split.pack.find_mappings(self._tables.addresses)
        return [mapping for mapping in found if not mapping.is_copy]

    def reseed(self, seed: int) -> None:
        """Draw from another seed from now on."""
        for parameters in self._parameters:
            parameters["seed"] = seed

    def make_tasks(
        self,
        places: int,
        epoch: int,
        *,
        offset: int = 0,
        piece: int | None = None,
        kernel: Any = None,
        demand: Demand | None = None,
    ) -> Tasks:
        """Make tasks that augment samples as in an epoch.

        Args:
            places: how many tasks.
            epoch: the epoch.
            offset: see `Work.offset`.
            piece: how many samples are made at a time; None: some 10 µs of work.
            kernel: what makes them, with the same parameters; None: the one for this transform.
            demand: what is read from the disk meanwhile, see `Work.demand`.
        """
        return Tasks(
            kernel or self.kernel, self._inputs, epoch, offset, piece or self._piece, places,
            demand,
        )  # fmt: skip

    def renew_tasks(self, tasks: Tasks, epoch: int, offset: int) -> None:
        """Make tasks augment these samples as in an epoch, which have the same `kernel` and views.

        ``offset``: see `Work.offset`.
        """
        tasks.renew(self._inputs, epoch, offset)

    def make_copies(self, places: int, demand: Demand | None = None) -> Tasks:
        """Make tasks that copy the planes of samples as they are, uint8."""
        copy = self._copy
        inputs = Inputs([copy.parameters], self._tables)
        return Tasks(copy.kernel, inputs, 0, 0, self._piece, places, demand)

    def batch_bytes(self, count: int) -> int:
        """Size of the pixels of a batch."""
        return self._format.image_bytes * count

    def copy(self, positions: NDArray[np.int64], out: NDArray[np.uint8], num_workers: int) -> None:
        """Copy the planes of the samples at ``positions``, (n,) int64, into (n * 3 * H * W,)."""
        tasks, columns = self.make_copies(1), np.empty((2, len(positions)), np.int64)
        tasks.aim(0, *columns)
        queue = Queue(tasks.function, tasks.addresses, num_workers)
        begin_at(queue, 0, positions, out)
        try:
            queue.wait(0)
        finally:
            # After an interrupt the engine may still write, and memory be freed before the queue.
            queue.close()

    def read_ahead(self) -> "Reading | None":
        """Start to read all images from the disk, in the order of the files.

        Reading takes a few milliseconds where the images are in the page cache. It ends when what
        is returned is closed or dropped. Less than 1 MiB is not worth it: None.
        """
        if self._image_bytes * len(self) < _READ_BYTES:
            return None
        return Reading(self, np.sort(self._tables.addresses), self._image_bytes)

    def draw(
        self,
        rows: NDArray[np.int64],
        epoch: int,
        out: NDArray[np.int32],
        occurrences: NDArray[np.int64] | None = None,
        view: int = 0,
    ) -> None:
        """Write what is drawn for the samples of these rows, (n,): (n, COUNT), by `COLUMNS`."""
        uses = np.full_like(rows, view) if occurrences is None else (occurrences << 16) + view
        draw(rows, uses, np.uint64(self.seed), np.uint64(epoch), self.transforms[view].draws, out)


class Reading(Unique):
    """Images that are read from the disk, one piece after the other, by a thread of the engine.

    Args:
        samples: keep the images mapped.
        addresses: (N,) uint64, of the images, in the order in which they are read.
        image_bytes: size of each.
    """

    def __init__(self, samples: Samples, addresses: NDArray[np.uint64], image_bytes: int) -> None:
        self._samples = samples
        self._addresses = addresses
        self._task = np.zeros(1, TOUCH)
        piece = max(1, _READ_BYTES // image_bytes)
        self._task[0] = (addresses.ctypes.data, len(addresses), image_bytes, piece, 0)
        self._queue = Queue(address_of(touch), [self._task.ctypes.data], 1)
        self._queue.post(0, -(-len(addresses) // piece))

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Read no further."""
        if hasattr(self, "_queue"):
            self._queue.close()

    def wait(self) -> int:
        """Read to the end, and return the sum of the bytes that were looked at: one a page."""
        self._queue.wait(0)
        return int(self._task["total"][0])


class _Prepared:
    """A kernel, and what it is always called with: to work both out takes longer than a call."""

    def __init__(
        self, transform: Transform, seed: int, dtype: str, channels_last: bool, streamed: bool
    ) -> None:
        height, width, scale, shift = (
            transform.height, transform.width, transform.scale, transform.shift,
        )  # fmt: skip
        self.kernel: Any = fill_kernel(dtype, channels_last, height, width, scale, shift, streamed)
        self.parameters = to_parameters(transform, seed, dtype)
