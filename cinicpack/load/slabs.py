"""Slabs: several batches that are sent to a device and augmented there at once."""

from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from cinicpack.errors import LoaderError
from cinicpack.load.batches import BatchFormat
from cinicpack.load.draws import COUNT
from cinicpack.load.engine.memory import allocate_aligned
from cinicpack.load.kernels.task import Tasks
from cinicpack.load.on_torch import choose_augment, place_constants
from cinicpack.load.samples import Samples
from cinicpack.load.transfers import Transfers
from cinicpack.load.unique import Unique

__all__ = ["AHEAD", "Slab", "Slabs"]

#: Slabs that are written, sent or augmented while the one before is handed out.
AHEAD: Final = 3

_DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "uint8": torch.uint8,
}
# Triton compiles a kernel once for pointers to multiples of 16 bytes, and once more for others.
_ALIGNMENT = 64
_UPLOAD_IMAGES = 8192
# Size of the batches of a slab: Python spends about 0.4 ms on each slab.
_SLAB_BYTES = 32 << 20
# The same with resident pixels, where one launch makes a slab: to write it takes the memory of a
# GPU 30 µs, a few times as long as the launch.
_LAUNCH_BYTES = 64 << 20


class Slab(NamedTuple):
    """What is sent to the device for several batches at once, in memory that is lent for it.

    Attributes:
        positions: (n,) int64, the samples.
        memory: all of what was lent.
        nbytes: how much of that is sent.
        head: flat, what a kernel writes, or with resident pixels the positions.
        labels: (n,) int64.
        rows: (n,) int64.
        draws: (n, COUNT) int32, for the device to augment by; else (0, COUNT).
    """

    positions: NDArray[np.int64]
    memory: NDArray[np.uint8]
    nbytes: int
    head: NDArray[np.uint8]
    labels: NDArray[np.int64]
    rows: NDArray[np.int64]
    draws: NDArray[np.int32]


class Slabs(Unique):
    """Makes slabs of batches on a device, of memory that a kernel has written on the host.

    What crosses the bus: augmented on the host, the finished batches; augmented on the device,
    uint8 pixels and 40 bytes a sample of label, row and draws; with resident pixels, 48 bytes a
    sample of these and the position.

    Args:
        samples: what batches are made of.
        batch_format: dtype and layout of the batches.
        device: where they are to be.
        augment_on: "cpu" or "device".
        resident: keep all pixels on the device.
        batch_size: samples in a batch.
        num_workers: how many threads of the host may work at once; 0: none, and nothing is made
            ahead.

    Attributes:
        batches: how many batches a slab has.
        images: how many samples that is.
        batch_size: samples in a batch.
        num_workers: as given.
        is_resident: whether pixels are on the device.
        transfers: the device's stream, and the memory that it reads.

    Raises ``LoaderError`` if memory cannot be pinned.
    """

    def __init__(
        self,
        samples: Samples,
        batch_format: BatchFormat,
        device: torch.device,
        *,
        augment_on: str,
        resident: bool,
        batch_size: int,
        num_workers: int,
    ) -> None:
        self._samples = samples
        self._format = batch_format
        self.num_workers = num_workers
        self.batch_size = min(batch_size, len(samples))
        self.is_resident = resident
        self._augments = resident or augment_on == "device"
        size = _LAUNCH_BYTES if resident else _SLAB_BYTES
        self.batches = max(1, size // (batch_format.image_bytes * self.batch_size))
        self.images = self.batches * self.batch_size
        raw = batch_format._replace(dtype="uint8").image_bytes
        # Bytes of a sample in the first part of what is sent.
        self._head = 8 if resident else raw if self._augments else batch_format.image_bytes
        _, nbytes = self._lay_out(min(self.images, len(samples)))
        self.transfers = Transfers(device, nbytes, AHEAD)
        if self._augments:
            self._augment_pixels = choose_augment(device)
        # These tensors are allocated on the maker's own stream: torch's allocator then gives their
        # memory to nobody who could write there before the maker's last kernel has read it.
        with self.transfers.on_stream():
            self._constants = place_constants(samples.transform, device)
            self._looked_up: torch.Tensor | None = None
            if samples.looked_up is not None:
                self._looked_up = torch.from_numpy(samples.looked_up).to(device)
            self._resident = self._upload(device, raw) if resident else None

    def clear(self) -> None:
        """Let go of all memory that no batch needs; nothing can be made any more."""
        self.transfers.clear()
        self._resident = None

    def make_tasks(self, places: int, epoch: int) -> Tasks:
        """Make tasks that write the first part of what is sent."""
        if self._augments:
            return self._samples.make_copies(places)
        return self._samples.make_tasks(places, epoch)

    def lend(self, positions: NDArray[np.int64]) -> Slab:
        """Lend memory for a slab, its contents arbitrary, unless pixels are resident."""
        count, memory = len(positions), self.transfers.lend()
        (labels, rows, draws), end = self._lay_out(count)
        slab = Slab(
            positions,
            memory,
            end,
            memory[: count * self._head],
            memory[labels : labels + 8 * count].view(np.int64),
            memory[rows : rows + 8 * count].view(np.int64),
            memory[draws:end].view(np.int32).reshape(-1, COUNT),
        )
        if self.is_resident:
            slab.head.view(np.int64)[:] = positions
            self._samples.look_up(positions, slab.labels, slab.rows)
        return slab

    def send(self, slab: Slab, epoch: int) -> tuple[torch.Tensor, ...]:
        """Queue what the device has to do for a slab.

        Returns its images, labels and, if the user asked for an index, rows.
        """
        if self._augments:
            self._samples.draw(slab.rows, epoch, slab.draws)
        sent = self.transfers.send(slab.memory, slab.nbytes)
        labels, rows = _of(sent, slab.memory, slab.labels), _of(sent, slab.memory, slab.rows)
        images = self._augment_there(slab, sent) if self._augments else self._view(slab, sent)
        if not self.is_resident:
            # Labels and indices get memory of their own: a user who keeps the labels of a whole
            # epoch must not keep its pixels with them.
            labels, rows = torch.stack((labels, rows)).unbind()
        if self._looked_up is not None:
            labels = self._looked_up.index_select(0, labels)
        return (images, labels, rows) if self._format.return_index else (images, labels)

    def _view(self, slab: Slab, sent: torch.Tensor) -> torch.Tensor:
        form, count = self._format, len(slab.positions)
        images = _of(sent, slab.memory, slab.head).view(_DTYPES[form.dtype])
        if form.channels_last:
            return images.view(count, form.height, form.width, 3).permute(0, 3, 1, 2)
        return images.view(count, 3, form.height, form.width)

    def _augment_there(self, slab: Slab, sent: torch.Tensor) -> torch.Tensor:
        form, pixels, positions = self._format, self._resident, None
        if self.is_resident:
            if pixels is None:
                raise LoaderError(
                    "expected an open loader, found one that another thread has closed"
                )
            positions = _of(sent, slab.memory, slab.head.view(np.int64))
        else:
            pixels = _of(sent, slab.memory, slab.head).view(-1, 3, form.height, form.width)
        return self._augment_pixels(
            pixels,
            positions,
            _of(sent, slab.memory, slab.draws).view(-1, COUNT),
            self._constants,
            self._samples.transform,
            _DTYPES[form.dtype],
            form.channels_last,
        )

    def _lay_out(self, count: int) -> tuple[tuple[int, int, int], int]:
        """Say where labels, rows and draws of so many samples start, and where the draws end."""
        labels = -(-count * self._head // _ALIGNMENT) * _ALIGNMENT
        rows = labels + 8 * count
        draws = -(-(rows + 8 * count) // _ALIGNMENT) * _ALIGNMENT
        return (labels, rows, draws), draws + 4 * COUNT * count * self._augments

    def _upload(self, device: torch.device, image_bytes: int) -> torch.Tensor:
        """Copy the pixels of all samples to the device: (N, 3, H, W) uint8."""
        form, count = self._format, len(self._samples)
        shape = (count, 3, form.height, form.width)
        pixels = torch.empty(shape, dtype=torch.uint8, device=device)
        memory = allocate_aligned(image_bytes * min(count, _UPLOAD_IMAGES))
        for start in range(0, count, _UPLOAD_IMAGES):
            positions = np.arange(start, min(start + _UPLOAD_IMAGES, count))
            part = memory[: len(positions) * image_bytes]
            self._samples.copy(positions, part, self.num_workers)
            # copy_ from memory that is not pinned returns after the copy, so that the memory may be
            # filled again.
            there = pixels[start : start + len(positions)]
            there.copy_(torch.from_numpy(part).view(len(positions), *shape[1:]))
        return pixels


def _of(sent: torch.Tensor, memory: NDArray[np.uint8], array: NDArray[Any]) -> torch.Tensor:
    """Find in ``sent``, a copy of ``memory``, the part that ``array`` is of ``memory``."""
    start = array.ctypes.data - memory.ctypes.data
    part = sent[start : start + array.nbytes]
    kind = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[array.itemsize]
    return part.view(kind)
