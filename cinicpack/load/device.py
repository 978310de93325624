"""Batches on a device: how samples get there, and where they are augmented."""

import threading
from collections import deque
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from cinicpack.errors import ArgumentError, LoaderError
from cinicpack.load.batches import BatchFormat, Block, Slab
from cinicpack.load.fused import augment_pixels
from cinicpack.load.memory import Pool, allocate
from cinicpack.load.samples import Samples

__all__ = ["DeviceMaker", "check_device"]

_DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "uint8": torch.uint8,
}
# Of a sample: label, row and position, and five draws (on a multiple of 8 bytes).
_INTEGERS = 3
_DRAWS = 5
_UPLOAD_IMAGES = 8192


def check_device(device: Any) -> torch.device:
    """Return the torch device that is meant; raises ``ArgumentError`` if it is not there."""
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ArgumentError(f"expected a torch device, found {device!r} ({error})") from None
    if found.type not in ("cpu", "cuda"):
        raise ArgumentError(f"expected device 'cpu' or 'cuda', found {device!r}")
    if found.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        # Without a number the current one is meant; torch's stubs do not know that case.
        index: int | None = found.index
        if count:
            index = torch.cuda.current_device() if index is None else index
        if index is None or index >= count:
            raise ArgumentError(f"device {str(found)!r} is not there: torch sees {count} GPUs")
        found = torch.device("cuda", index)
    return found


class _Transit(NamedTuple):
    """Memory of the host that the device may read until ``event``."""

    memory: NDArray[np.uint8]
    event: Any


class DeviceMaker:
    """Makes slabs of batches on a device.

    What crosses the bus: augmented on the host, the finished batches; augmented on the device,
    uint8 pixels and 44 bytes a sample of labels, rows and draws; with resident pixels only the
    latter. On a GPU all of it happens on a stream of its own, and a slab carries the event that the
    consumer's stream has to wait for.

    Args:
        samples: what batches are made of.
        batch_format: dtype and layout of the batches.
        device: where they are to be.
        augment_on: "cpu" or "device".
        resident: keep all pixels on the device.
        slab_images: images in a slab at most.
        ahead: slabs that can be under way.

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
        slab_images: int,
        ahead: int,
    ) -> None:
        self._samples = samples
        self._format = batch_format
        self._raw = batch_format._replace(dtype="uint8", channels_last=False)
        self._augment = resident or augment_on == "device"
        self._device = device
        stream: Any = torch.cuda.Stream
        self._stream = stream(device) if device.type == "cuda" else None
        self._ahead = ahead
        self._transit: deque[_Transit] = deque()
        self._lock = threading.Lock()
        sent = self._raw if self._augment else batch_format
        extra = 8 * (_INTEGERS * slab_images + _DRAWS * slab_images)
        nbytes = extra if resident else sent.nbytes(slab_images) + extra
        get = allocate if self._stream is None else _allocate_pinned
        self._pool = Pool(partial(get, nbytes), ahead + 2)
        self._resident = self._upload() if resident else None

    def make(self, positions: NDArray[np.int64], edges: Sequence[int], epoch: int) -> Slab:
        """Make the samples at ``positions`` into batches with these edges."""
        memory = self._lend()
        on_stream: Any = nullcontext() if self._stream is None else torch.cuda.stream(self._stream)
        with on_stream:
            if self._augment:
                images, labels, rows = self._augment_there(memory, positions, epoch)
            else:
                images, labels, rows = self._augment_here(memory, positions, epoch)
            event = None if self._stream is None else self._stream.record_event()
        if event is not None:
            with self._lock:
                self._transit.append(_Transit(memory, event))
        batches = [
            (images[start:stop], labels[start:stop], rows[start:stop])
            if self._format.return_index
            else (images[start:stop], labels[start:stop])
            for start, stop in pairwise(edges)
        ]
        return Slab(batches[::-1], event)

    def clear(self) -> None:
        """Let go of all memory that no batch needs."""
        with self._lock:
            for transit in self._transit:
                transit.event.synchronize()
            self._transit.clear()
        self._pool.clear()

    def _augment_here(
        self, memory: NDArray[np.uint8], positions: NDArray[np.int64], epoch: int
    ) -> tuple[torch.Tensor, ...]:
        form, count = self._format, len(positions)
        block = form.block(memory, count)
        self._samples.fill(block, positions, epoch)
        sent = self._send(memory[: form.nbytes(count)])
        images = _of(sent, memory, block.images).view(_DTYPES[form.dtype])
        if form.channels_last:
            images = images.view(count, form.height, form.width, 3).permute(0, 3, 1, 2)
        else:
            images = images.view(count, 3, form.height, form.width)
        return images, _of(sent, memory, block.labels), _of(sent, memory, block.rows)

    def _augment_there(
        self, memory: NDArray[np.uint8], positions: NDArray[np.int64], epoch: int
    ) -> tuple[torch.Tensor, ...]:
        count, form = len(positions), self._format
        if self._resident is None:
            block = self._raw.block(memory, count)
            start = self._raw.nbytes(count)
        else:
            block = Block(memory[:0], *memory[: 16 * count].view(np.int64).reshape(2, count))
            start = 16 * count
        middle = start + 8 * count
        places = memory[start:middle].view(np.int64)
        end = middle + 4 * _DRAWS * count
        draws = memory[middle:end].view(np.int32).reshape(count, _DRAWS)
        if self._resident is None:
            self._samples.gather(block, positions)
        else:
            self._samples.look_up(positions, block.labels, block.rows)
        places[:] = positions
        self._samples.draw(block.rows, epoch, draws)
        sent = self._send(memory[:end])
        if self._resident is None:
            pixels = _of(sent, memory, block.images).view(count, 3, form.height, form.width)
        else:
            pixels = self._resident
        images = augment_pixels(
            pixels,
            None if self._resident is None else _of(sent, memory, places),
            _of(sent, memory, draws).view(count, _DRAWS),
            self._samples.transform,
            _DTYPES[form.dtype],
            form.channels_last,
        )
        return images, _of(sent, memory, block.labels), _of(sent, memory, block.rows)

    def _lend(self) -> NDArray[np.uint8]:
        """Lend memory, and take back what the device has read; wait if it lags behind."""
        with self._lock:
            while self._transit:
                event = self._transit[0].event
                if not event.query():
                    if len(self._transit) <= self._ahead:
                        break
                    event.synchronize()
                self._transit.popleft()
        loan = self._pool.lend()
        return loan.array(loan.lent.__array_interface__)

    def _send(self, memory: NDArray[np.uint8]) -> torch.Tensor:
        host = torch.from_numpy(memory)
        return host if self._stream is None else host.to(self._device, non_blocking=True)

    def _upload(self) -> torch.Tensor:
        """Copy the pixels of all samples to the device: (N, 3, H, W) uint8."""
        form, count = self._raw, len(self._samples)
        shape = (count, 3, form.height, form.width)
        pixels = torch.empty(shape, dtype=torch.uint8, device=self._device)
        memory = allocate(form.nbytes(min(count, _UPLOAD_IMAGES)))
        for start in range(0, count, _UPLOAD_IMAGES):
            positions = np.arange(start, min(start + _UPLOAD_IMAGES, count))
            block = form.block(memory, len(positions))
            self._samples.gather(block, positions)
            part = torch.from_numpy(block.images).view(len(positions), *shape[1:])
            pixels[start : start + len(positions)].copy_(part)
        if self._stream is not None:
            # What is launched on our stream must come after these copies.
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
        return pixels


def _of(sent: torch.Tensor, memory: NDArray[np.uint8], array: NDArray[Any]) -> torch.Tensor:
    """Find in ``sent``, a copy of ``memory``, the part that ``array`` is of ``memory``."""
    start = array.ctypes.data - memory.ctypes.data
    part = sent[start : start + array.nbytes]
    kind = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[array.itemsize]
    return part.view(kind)


def _allocate_pinned(nbytes: int) -> NDArray[np.uint8]:
    try:
        return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True).numpy()
    except RuntimeError as error:
        raise LoaderError(
            f"cannot pin {nbytes:,} bytes of memory for copies to the GPU: {error}; raise the "
            "limit on locked memory, or load with smaller batches"
        ) from error
