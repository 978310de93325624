"""Slabs: several batches that are sent to a device, or augmented there, at once."""

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from cinicpack.errors import LoaderError
from cinicpack.load.batches import BatchFormat
from cinicpack.load.engine.memory import allocate_aligned
from cinicpack.load.kernels.task import Tasks
from cinicpack.load.listing import Listing, Listings
from cinicpack.load.mixing import Mixing
from cinicpack.load.on_torch import choose_augment, place_constants
from cinicpack.load.order import Work
from cinicpack.load.samples import Samples
from cinicpack.load.transfers import Transfers
from cinicpack.load.unique import Unique

__all__ = ["AHEAD", "Slab", "Slabs"]

#: Slabs that are written, and again as many that are sent, while the one before is handed out.
AHEAD: Final = 3

_DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "uint8": torch.uint8,
}
_UPLOAD_IMAGES = 8192
# Size of the batches of a slab: Python spends 0.2 ms on each slab.
_SLAB_BYTES = 32 << 20
# The same where the device augments, to which a fourth of that or nothing is sent.
_LAUNCH_BYTES = 96 << 20


class Slab(NamedTuple):
    """Several batches on their way to the device.

    Attributes:
        start: where their samples start among those of the epoch.
        positions: (n,) int64, the samples.
        memory: pixels that a kernel writes, and that are sent; None: the device has them.
    """

    start: int
    positions: NDArray[np.int64]
    memory: NDArray[np.uint8] | None


class Slabs(Unique):
    """Makes slabs of batches on a device, of memory that a kernel has written on the host.

    What crosses the bus: augmented on the host, the finished images; augmented on the device, uint8
    pixels; with resident pixels, nothing but the `Listing` of the epoch, as ever.

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
        self._slab_bytes = _LAUNCH_BYTES if self._augments else _SLAB_BYTES
        raw = batch_format._replace(dtype="uint8").image_bytes
        self._views = len(samples.transforms)
        self.mixed = self._views + 1
        # Bytes that are sent of a sample.
        self._sent_bytes = raw if self._augments else batch_format.image_bytes * self._views
        self.transfers = Transfers(device, 0, AHEAD)
        self._fitted = 0
        self.fit(len(samples))
        if self._augments:
            self._augment_pixels = choose_augment(device)
        # These tensors are allocated on the maker's own stream: torch's allocator then gives their
        # memory to nobody who could write there before the maker's last kernel has read it.
        with self.transfers.on_stream():
            self._listings = Listings(samples, self.transfers, draws=self._augments)
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
            self.transfers.grow(self._sent_bytes * min(self.images, count))
            # Kernels write labels and rows, too, which nobody reads here.
            self._unread = np.empty((AHEAD, 2, min(self.images, count)), np.int64)

    def clear(self) -> None:
        """Let go of all memory that no batch needs; nothing can be made any more."""
        self.transfers.clear()
        self._resident = None

    def describe(self, work: Work) -> Listing:
        """Let the device know the samples of an epoch."""
        with self.transfers.on_stream():
            return self._listings.make(work)

    def make_tasks(self, work: Work) -> Tasks:
        """Make tasks that write what is sent, for `AHEAD` slabs at a time."""
        if self._augments:
            tasks = self._samples.make_copies(AHEAD, work.demand)
        else:
            tasks = self._samples.make_tasks(
                AHEAD, work.epoch, offset=work.offset, demand=work.demand
            )
        tasks.aim_all(self._unread)
        return tasks

    def lend(self, work: Work, start: int, *, waits: bool) -> Slab | None:
        """Lend memory for a slab, its contents arbitrary, unless pixels are resident.

        None: there is none as long as the device reads it, and the caller does not wait.

        ``start`` says where its samples start in the positions of ``work``.
        """
        positions = work.positions[start : start + self.images]
        if self.is_resident:
            return Slab(start, positions, None)
        memory = self.transfers.lend(waits=waits)
        return None if memory is None else Slab(start, positions, memory)

    def aim(self, tasks: Tasks, place: int, slab: Slab) -> NDArray[np.uint8]:
        """Say where the engine writes a slab, and return where that is for the first view."""
        first, *others = self._find_views(slab)
        for view, memory in enumerate(others, 1):
            tasks.aim_view(place, view, memory.ctypes.data)
        return first

    def send(self, slab: Slab, listing: Listing) -> tuple[torch.Tensor, ...]:
        """Queue what the device has to do for a slab.

        Returns its images, labels and, if the user asked for an index, rows.
        """
        part = slice(slab.start, slab.start + len(slab.positions))
        images = list(self._augment(slab, listing, part) if self._augments else self._move(slab))
        labels, rows = listing.labels[part], listing.rows[part]
        if self._looked_up is not None:
            labels = self._looked_up.index_select(0, labels)
        return (*images, labels, rows) if self._format.return_index else (*images, labels)

    def _find_views(self, slab: Slab) -> list[NDArray[np.uint8]]:
        """Find what is sent: the images of each view, or the pixels that all are made of."""
        assert slab.memory is not None
        views = 1 if self._augments else self._views
        nbytes = self._sent_bytes // views * len(slab.positions)
        return [slab.memory[view * nbytes : (view + 1) * nbytes] for view in range(views)]

    def _move(self, slab: Slab) -> Iterator[torch.Tensor]:
        """Send the finished images of all views."""
        form, count = self._format, len(slab.positions)
        sent = self._send_pixels(slab).view(_DTYPES[form.dtype]).view(self._views, -1)
        for images in sent:
            if form.channels_last:
                yield images.view(count, form.height, form.width, 3).permute(0, 3, 1, 2)
            else:
                yield images.view(count, 3, form.height, form.width)

    def _augment(self, slab: Slab, listing: Listing, part: slice) -> Iterator[torch.Tensor]:
        """Augment all views on the device, of pixels that are there or are sent."""
        form, positions = self._format, None
        if self.is_resident:
            pixels, positions = self._resident, listing.positions[part]
            if pixels is None:
                raise LoaderError(
                    "expected an open loader, found one that another thread has closed"
                )
        else:
            pixels = self._send_pixels(slab).view(-1, 3, form.height, form.width)
        for draws, transform in zip(listing.draws, self._samples.transforms, strict=True):
            yield self._augment_pixels(
                pixels,
                positions,
                draws[part],
                self._constants,
                transform,
                _DTYPES[form.dtype],
                form.channels_last,
            )

    def _send_pixels(self, slab: Slab) -> torch.Tensor:
        assert slab.memory is not None
        return self.transfers.send(slab.memory, self._sent_bytes * len(slab.positions))

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
