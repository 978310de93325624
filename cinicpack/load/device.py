"""Batches on a device: how samples get there, and where they are augmented."""

import ctypes
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from cinicpack.errors import ArgumentError, LoaderError
from cinicpack.load.batches import Batch, BatchFormat, Slab
from cinicpack.load.draws import COUNT
from cinicpack.load.memory import Pool, allocate_aligned
from cinicpack.load.on_torch import choose_augment, place_constants
from cinicpack.load.samples import Samples
from cinicpack.load.unique import Unique

__all__ = ["DeviceMaker", "check_device"]

_DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "uint8": torch.uint8,
}
# Label, row and position of a sample.
_INTEGERS = 3
# Triton compiles a kernel once for pointers to multiples of 16 bytes, and once more for others.
_ALIGNMENT = 16
_UPLOAD_IMAGES = 8192
# CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: only a thread's own captures limit what it may call.
_THREAD_LOCAL = 1


def check_device(device: Any) -> torch.device:
    """Return the torch device that ``device`` names.

    Raises ``ArgumentError`` if it names none, or one that is not there.
    """
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ArgumentError(f"expected a torch device, found {device!r} ({error})") from None
    if found.type not in ("cpu", "cuda"):
        raise ArgumentError(f"expected device 'cpu' or 'cuda', found {device!r}")
    if found.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        # "cuda" without a number means the current GPU. Its index is None, which torch's stubs do
        # not know.
        index: int | None = found.index
        if count:
            index = torch.cuda.current_device() if index is None else index
        if index is None or index >= count:
            raise ArgumentError(
                f"device {str(found)!r} is not there: torch {torch.__version__} sees {count} GPUs; "
                "use device='cpu', or one of those"
            )
        found = torch.device("cuda", index)
    return found


class _Transit(NamedTuple):
    """Memory of the host that the device may read until ``event`` is done."""

    memory: NDArray[np.uint8]
    event: Any


class DeviceMaker(Unique):
    """Makes slabs of batches on a device.

    What crosses the bus: augmented on the host, the finished batches; augmented on the device,
    uint8 pixels and 40 bytes a sample of label, row and draws; with resident pixels, 48 bytes a
    sample of these and the position.

    On a GPU all of it is queued on a stream of this maker, which owns all memory that it uses
    there. The consumer's stream waits for it, and the consumer for nothing. But nothing is made
    while the device lags behind by more than ``ahead`` of the slabs that were received: their
    memory cannot be used again before.

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
        self._is_resident = resident
        self._augments = resident or augment_on == "device"
        self._device = device
        if self._augments:
            self._augment_pixels = choose_augment(device)
        stream: Any = torch.cuda.Stream
        self._stream = stream(device) if device.type == "cuda" else None
        self._ahead = ahead
        self._transit: deque[_Transit] = deque()
        # For each slab that was received, an event on the stream of its consumer, oldest first.
        self._received: deque[Any] = deque()
        # The event at which the slab that was received last was made.
        self._last: Any = None
        self._lock = threading.Lock()
        if self._augments:
            nbytes = 8 * _INTEGERS * slab_images if resident else self._raw.nbytes(slab_images)
            nbytes += _ALIGNMENT + 4 * COUNT * slab_images
        else:
            nbytes = batch_format.nbytes(slab_images)
        get = allocate_aligned if self._stream is None else _allocate_pinned
        self._pool = Pool(partial(get, nbytes), ahead + 2)
        # These tensors are allocated on the maker's own stream: torch's allocator then gives their
        # memory to nobody who could write there before the maker's last kernel has read it.
        with self._on_stream():
            self._constants = place_constants(samples.transform, device)
            self._resident = self._upload() if resident else None

    def make(self, positions: NDArray[np.int64], edges: Sequence[int], epoch: int) -> Slab:
        """Make the samples at ``positions`` into batches with these edges."""
        with self._on_stream():
            memory = self._lend()
            if self._augments:
                images, labels, rows = self._augment_there(memory, positions, epoch)
            else:
                images, labels, rows = self._augment_here(memory, positions, epoch)
            if not self._is_resident:
                # Labels and indices get memory of their own: a user who keeps the labels of a whole
                # epoch must not keep its pixels with them.
                labels, rows = torch.stack((labels, rows)).unbind()
            event = self._record()
        batches = [
            (images[start:stop], labels[start:stop], rows[start:stop])
            if self._format.return_index
            else (images[start:stop], labels[start:stop])
            for start, stop in pairwise(edges)
        ]
        return Slab(batches[::-1], None if event is None else partial(self._receive, event))

    def clear(self) -> None:
        """Let go of all memory that no batch needs; nothing can be made any more."""
        with self._lock:
            for transit in self._transit:
                transit.event.synchronize()
            self._transit.clear()
        self._pool.clear()
        self._resident = None

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
        count, form, pixels = len(positions), self._format, self._resident
        if self._is_resident and pixels is None:
            raise LoaderError("expected an open loader, found one that another thread has closed")
        if self._is_resident:
            end = 8 * _INTEGERS * count
            places, labels, rows = memory[:end].view(np.int64).reshape(_INTEGERS, count)
            places[:] = positions
            self._samples.look_up(positions, labels, rows)
        else:
            end = self._raw.nbytes(count)
            block = self._raw.block(memory, count)
            labels, rows = block.labels, block.rows
            self._samples.gather(block, positions)
        start = end + -end % _ALIGNMENT
        end = start + 4 * COUNT * count
        draws = memory[start:end].view(np.int32).reshape(count, COUNT)
        self._samples.draw(rows, epoch, draws)
        sent = self._send(memory[:end])
        if pixels is None:
            pixels = _of(sent, memory, block.images).view(count, 3, form.height, form.width)
        images = self._augment_pixels(
            pixels,
            _of(sent, memory, places) if self._is_resident else None,
            _of(sent, memory, draws).view(count, COUNT),
            self._constants,
            self._samples.transform,
            _DTYPES[form.dtype],
            form.channels_last,
        )
        return images, _of(sent, memory, labels), _of(sent, memory, rows)

    @contextmanager
    def _on_stream(self) -> Iterator[None]:
        """Make device and stream the current ones of this thread, until the end of the block.

        `torch.cuda.stream` by itself goes back to the device that was current. In a new thread
        that is GPU 0, where every rank would then have a context of some hundred MB.
        """
        if self._stream is None:
            yield
            return
        with (
            _ignoring_captures(),
            torch.cuda.device(self._device),
            torch.cuda.stream(self._stream),
        ):
            yield

    def _record(self) -> Any:
        """Record an event behind all that is queued on the stream; None if there is no stream."""
        if self._stream is None:
            return None
        # A blocking event lets the thread that waits for it sleep: the kernels on the host need the
        # cores.
        event: Any = torch.cuda.Event
        return self._stream.record_event(event(blocking=True))

    def _receive(self, made: Any, batch: Batch) -> None:
        """Hand a batch over to the stream that is the caller's current one.

        That stream waits until the batch is made; the caller does not wait. The batch's memory is
        given to nobody else before that stream is done with it.
        """
        stream = torch.cuda.current_stream(self._device)
        stream.wait_event(made)
        for tensor in batch:
            tensor.record_stream(stream)
        if made is not self._last:
            self._last = made
            event: Any = torch.cuda.Event
            with self._lock:
                self._received.append(stream.record_event(event(blocking=True)))

    def _lend(self) -> NDArray[np.uint8]:
        """Lend memory, and take back what the device has read; wait if it lags behind."""
        # Without a stream nothing can lag behind. Then the lock is left alone, since in a forked
        # process a thread that is not there may hold the lock for ever.
        while self._stream is not None:
            with self._lock:
                while self._transit and self._transit[0].event.query():
                    self._transit.popleft()
                while self._received and self._received[0].query():
                    self._received.popleft()
                if len(self._transit) > self._ahead:
                    oldest = self._transit[0].event
                elif len(self._received) > self._ahead:
                    oldest = self._received[0]
                else:
                    break
            # Wait without the lock, which other threads need to record their transfers.
            oldest.synchronize()
        loan = self._pool.lend()
        return loan.array(loan.lent.__array_interface__)

    def _send(self, memory: NDArray[np.uint8]) -> torch.Tensor:
        """Start a copy to the device; the memory is not used again before the copy is done."""
        host = torch.from_numpy(memory)
        if self._stream is None:
            return host
        sent = host.to(self._device, non_blocking=True)
        # Record the transfer before anything can raise; otherwise the pool could reuse the memory
        # while it is still being copied.
        event = self._record()
        with self._lock:
            self._transit.append(_Transit(memory, event))
        return sent

    def _upload(self) -> torch.Tensor:
        """Copy the pixels of all samples to the device: (N, 3, H, W) uint8."""
        form, count = self._raw, len(self._samples)
        shape = (count, 3, form.height, form.width)
        pixels = torch.empty(shape, dtype=torch.uint8, device=self._device)
        memory = allocate_aligned(form.nbytes(min(count, _UPLOAD_IMAGES)))
        for start in range(0, count, _UPLOAD_IMAGES):
            positions = np.arange(start, min(start + _UPLOAD_IMAGES, count))
            block = form.block(memory, len(positions))
            self._samples.gather(block, positions)
            part = torch.from_numpy(block.images).view(len(positions), *shape[1:])
            # copy_ from memory that is not pinned returns after the copy, so that the memory may be
            # filled again.
            pixels[start : start + len(positions)].copy_(part)
        return pixels


def _of(sent: torch.Tensor, memory: NDArray[np.uint8], array: NDArray[Any]) -> torch.Tensor:
    """Find in ``sent``, a copy of ``memory``, the part that ``array`` is of ``memory``."""
    start = array.ctypes.data - memory.ctypes.data
    part = sent[start : start + array.nbytes]
    kind = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[array.itemsize]
    return part.view(kind)


@cache
def _load_exchange() -> Any:
    """Find the driver's function in the library, once and not for every slab."""
    return ctypes.CDLL("libcuda.so.1").cuThreadExchangeStreamCaptureMode


@contextmanager
def _ignoring_captures() -> Iterator[None]:
    """Let this thread work on while another thread captures a CUDA graph.

    While one does so in the mode "global", which is torch's default, any other thread that asks for
    memory or for the state of an event would be refused, and the capture be invalid.
    """
    mode = ctypes.c_int(_THREAD_LOCAL)
    exchange = _load_exchange()
    exchange(ctypes.byref(mode))
    try:
        yield
    finally:
        exchange(ctypes.byref(mode))


def _allocate_pinned(nbytes: int) -> NDArray[np.uint8]:
    try:
        return torch.empty(nbytes, dtype=torch.uint8, device="cpu", pin_memory=True).numpy()
    except RuntimeError as error:
        raise LoaderError(
            f"cannot pin {nbytes:,} bytes of memory for copies to the GPU: {error}; raise the "
            "limit on locked memory, or load with smaller batches"
        ) from error
