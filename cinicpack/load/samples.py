"""The samples of a split: its chosen rows, and the kernels that make batches of them."""

from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cinicpack.load.batches import BatchFormat, Block
from cinicpack.load.kernels.fill import fill_kernel
from cinicpack.load.kernels.random import draw
from cinicpack.load.kernels.vectors import touch
from cinicpack.load.pipeline import Pipeline
from cinicpack.load.transform import Transform, make_transform, to_parameters
from cinicpack.load.unique import Unique
from cinicpack.store.split import Split

__all__ = ["Samples"]

# How much is read ahead between two looks at whether to go on.
_READ_BYTES: Final = 8 << 20


class Samples(Unique):
    """The chosen rows of a split, and how they become pixels of a batch.

    Args:
        split: where they are from.
        rows: (N,) int64, which ones; what happens to a sample depends on its row.
        transform: what happens to them.
        seed: of what is drawn, below 2**64.
        batch_format: dtype and layout of batches; the dtype is the one the transform was made for.
    """

    def __init__(
        self,
        split: Split,
        rows: NDArray[np.int64],
        transform: Transform,
        seed: int,
        batch_format: BatchFormat,
    ) -> None:
        # The split keeps the files mapped, without which the addresses mean nothing: threads that
        # read there must refer to this object, not to the addresses alone.
        self._split = split
        self._rows = rows.copy()
        self._addresses = split.addresses()[rows]
        self._labels = split.labels[rows].astype(np.int64)
        self.transform = transform
        self._fill = _Prepared(transform, seed, batch_format.dtype, batch_format.channels_last)
        shape = split.pack.image_shape
        plain = make_transform(None, shape, (0,) * 3, (1,) * 3, normalized=False, dtype="uint8")
        self._gather = _Prepared(plain, 0, "uint8", False)
        self._image_bytes = 3 * transform.height * transform.width
        self._step = max(1, _READ_BYTES // self._image_bytes)

    def __len__(self) -> int:
        return len(self._rows)

    def reseed(self, seed: int) -> None:
        """Draw from another seed from now on."""
        self._fill.parameters["seed"] = seed

    def fill(self, block: Block, positions: NDArray[np.int64], epoch: int) -> None:
        """Make the samples at ``positions``, (n,) int64, into the first n of a block."""
        self._run(self._fill, block, positions, epoch)

    def gather(self, block: Block, positions: NDArray[np.int64]) -> None:
        """Copy the planes of the samples into a block of uint8, as they are."""
        self._run(self._gather, block, positions, 0)

    def read_ahead(self) -> Pipeline[int]:
        """Start to read all images from the disk, on a thread and in the order of the files.

        Reading takes a few milliseconds where the images are in the page cache. The thread ends
        with the pipeline that is returned: close or drop it.
        """
        read = partial(self._read, np.sort(self._addresses))
        count = -(-len(self) // self._step)
        return Pipeline(read, count, num_threads=1, ahead=count)

    def look_up(
        self, positions: NDArray[np.int64], labels: NDArray[np.int64], rows: NDArray[np.int64]
    ) -> None:
        """Write label and row of the samples."""
        np.take(self._labels, positions, out=labels)
        np.take(self._rows, positions, out=rows)

    def draw(self, rows: NDArray[np.int64], epoch: int, out: NDArray[np.int32]) -> None:
        """Write what is drawn for the samples of these rows, (n,): (n, COUNT), by `COLUMNS`."""
        [seed] = self._fill.parameters["seed"]
        draw(rows, seed, np.uint64(epoch), self.transform.draws, out)

    def _read(self, addresses: NDArray[np.uint64], number: int) -> int:
        """Read a step of the images; a method, so that its thread keeps them mapped."""
        return touch(addresses[number * self._step : (number + 1) * self._step], self._image_bytes)

    def _run(
        self, prepared: "_Prepared", block: Block, positions: NDArray[np.int64], epoch: int
    ) -> None:
        tables = (self._addresses, self._rows, self._labels)
        prepared.kernel(positions, *tables, prepared.parameters, np.uint64(epoch), *block)


class _Prepared:
    """A kernel, and what it is always called with: to work both out takes longer than a call."""

    def __init__(self, transform: Transform, seed: int, dtype: str, channels_last: bool) -> None:
        height, width, scale, shift = (
            transform.height, transform.width, transform.scale, transform.shift,
        )  # fmt: skip
        self.kernel: Any = fill_kernel(dtype, channels_last, height, width, scale, shift)
        self.parameters = to_parameters(transform, seed, dtype)
