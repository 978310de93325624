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
from cinicpack.load.mixing import Mixing
from cinicpack.load.on_torch import choose_augment, place_constants
from cinicpack.load.order import Work
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
        occurrences: (n,) int64, how often each came before in the epoch; None: never.
        memory: all of what was lent.
        nbytes: how much of that is sent.
        head: flat, what a kernel writes, or with resident pixels the positions.
        labels: (n,) int64.
        rows: (n,) int64.
        draws: (views, n, COUNT) int32, for the device to augment by; else (views, 0, COUNT).
    """

    positions: NDArray[np.int64]
    occurrences: NDArray[np.int64] | None
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
        mixing: how batches are mixed; None: not at all.

    Attributes:
        batches: how many batches a slab has.
        images: how many samples that is.
        batch_size: samples in a batch.
        num_workers: as given.
        mixing: as given.
        mixed: how many members of a batch are mixed: its views and labels.
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
        mixing: Mixing | None = None,
    ) -> None:
        self._samples = samples
        self._format = batch_format
        self.num_workers = num_workers
        self.mixing = mixing
        self._asked_size = batch_size
        self.is_resident = resident
        self._augments = resident or augment_on == "device"
        self._slab_bytes = _LAUNCH_BYTES if resident else _SLAB_BYTES
        raw = batch_format._replace(dtype="uint8").image_bytes
        # Bytes of a sample in the first part of what is sent.
        self._views = len(samples.transforms)
        self.mixed = self._views + 1
        finished = batch_format.image_bytes * self._views
        self._head = 8 if resident else raw if self._augments else finished
        self.transfers = Transfers(device, 0, AHEAD)
        self._fitted = 0
        self.fit(len(samples))
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

    def fit(self, count: int) -> None:
        """Be ready for epochs of so many samples; no slab may be under way if they are more."""
        if count > self._fitted:
            self._fitted = count
            self.batch_size = min(self._asked_size, count)
            batch_bytes = self._format.image_bytes * self._views * self.batch_size
            self.batches = max(1, self._slab_bytes // batch_bytes)
            self.images = self.batches * self.batch_size
            self.transfers.grow(self._lay_out(min(self.images, count))[1])

    def clear(self) -> None:
        """Let go of all memory that no batch needs; nothing can be made any more."""
        self.transfers.clear()
        self._resident = None

    def make_tasks(self, places: int, work: Work) -> Tasks:
        """Make tasks that write the first part of what is sent."""
        if self._augments:
            return self._samples.make_copies(places)
        return self._samples.make_tasks(places, work.epoch, offset=work.offset)

    def lend(self, work: Work, start: int) -> Slab:
        """Lend memory for a slab, its contents arbitrary, unless pixels are resident.

        ``start`` says where its samples start in the positions of ``work``.
        """
        part = slice(start, start + self.images)
        positions, occurrences = work.positions[part], work.occurrences
        count, memory = len(positions), self.transfers.lend()
        (labels, rows, draws), end = self._lay_out(count)
        slab = Slab(
            positions,
            None if occurrences is None else occurrences[part],
            memory,
            end,
            memory[: count * self._head],
            memory[labels : labels + 8 * count].view(np.int64),
            memory[rows : rows + 8 * count].view(np.int64),
            memory[draws:end].view(np.int32).reshape(self._views, -1, COUNT),
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
            for view, draws in enumerate(slab.draws):
                self._samples.draw(slab.rows, epoch, draws, slab.occurrences, view)
        sent = self.transfers.send(slab.memory, slab.nbytes)
        labels, rows = _of(sent, slab.memory, slab.labels), _of(sent, slab.memory, slab.rows)
        make = self._augment_there if self._augments else self._cut_out
        images = [make(slab, sent, view) for view in range(self._views)]
        if not self.is_resident:
            # Labels and indices get memory of their own: a user who keeps the labels of a whole
            # epoch must not keep its pixels with them.
            labels, rows = torch.stack((labels, rows)).unbind()
        if self._looked_up is not None:
            labels = self._looked_up.index_select(0, labels)
        return (*images, labels, rows) if self._format.return_index else (*images, labels)

    def aim(self, tasks: Tasks, place: int, slab: Slab) -> None:
        """Say where the engine writes a slab, but for the first view."""
        tasks.aim(place, slab.labels, slab.rows)
        if not self._augments:
            for view in range(1, self._views):
                tasks.aim_view(place, view, self._find_view(slab, view).ctypes.data)

    def _find_view(self, slab: Slab, view: int) -> NDArray[np.uint8]:
        """Find the finished images of a view."""
        nbytes = self._format.image_bytes * len(slab.positions)
        return slab.head[view * nbytes : (view + 1) * nbytes]

    def _cut_out(self, slab: Slab, sent: torch.Tensor, view: int) -> torch.Tensor:
        form, count = self._format, len(slab.positions)
        images = _of(sent, slab.memory, self._find_view(slab, view)).view(_DTYPES[form.dtype])
        if form.channels_last:
            return images.view(count, form.height, form.width, 3).permute(0, 3, 1, 2)
        return images.view(count, 3, form.height, form.width)

    def _augment_there(self, slab: Slab, sent: torch.Tensor, view: int) -> torch.Tensor:
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
            _of(sent, slab.memory, slab.draws[view]).view(-1, COUNT),
            self._constants,
            self._samples.transforms[view],
            _DTYPES[form.dtype],
            form.channels_last,
        )

    def _lay_out(self, count: int) -> tuple[tuple[int, int, int], int]:
        """Say where labels, rows and draws of so many samples start, and where the draws end."""
        labels = -(-count * self._head // _ALIGNMENT) * _ALIGNMENT
        rows = labels + 8 * count
        draws = -(-(rows + 8 * count) // _ALIGNMENT) * _ALIGNMENT
        return (labels, rows, draws), draws + 4 * COUNT * count * self._views * self._augments

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
