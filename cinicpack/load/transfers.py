"""Transfers to a device: the stream that they are queued on, and the memory that they read."""

import ctypes
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from cinicpack.errors import LoaderError
from cinicpack.load.batches import Batch
from cinicpack.load.engine.memory import allocate_aligned
from cinicpack.load.unique import Unique

__all__ = ["Transfers"]

# CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: only a thread's own captures limit what it may call.
_THREAD_LOCAL = 1


class _Transit(NamedTuple):
    """Memory of the host that the device may read until ``event`` is done."""

    memory: NDArray[np.uint8]
    event: Any


class Transfers(Unique):
    """Copies of memory to a device, by one thread at a time.

    On a GPU all work is queued on a stream of this object. The consumer's stream waits for it, and
    the consumer for nothing, unless the device lags behind: the memory of what it has to copy, or
    of more than ``ahead`` received slabs, cannot be used again before. Any other device reads the
    host's memory itself.

    Args:
        device: where to.
        nbytes: size of the memory that is lent.
        ahead: how many slabs are written, how many more are copied, and how far the device may lag
            behind with those that were received.

    Attributes:
        device: as given.
        stream: of the device; None: the device has no streams.
    """

    def __init__(self, device: torch.device, nbytes: int, ahead: int) -> None:
        self.device = device
        self._nbytes = nbytes
        self._ahead = ahead
        stream: Any = torch.cuda.Stream
        self.stream = stream(device) if device.type == "cuda" else None
        # How much memory there is of what is lent, and what of it nobody uses.
        self._pinned = 0
        self._unused: list[NDArray[np.uint8]] = []
        # Memory of another size, kept for the next epoch: to pin it anew would take 0.5 ms.
        self._spare: NDArray[np.uint8] | None = None
        self._transit: deque[_Transit] = deque()
        # For each slab that was received, an event on the stream of its consumer, oldest first.
        self._received: deque[Any] = deque()
        # The event at which the slab that was received last was made, and the number of the stream
        # that received it.
        self._last: tuple[Any, int] = (None, 0)

    @contextmanager
    def on_stream(self) -> Iterator[None]:
        """Make device and stream the current ones of this thread, until the end of the block.

        `torch.cuda.stream` by itself goes back to the device that was current. In a new thread
        that is GPU 0, where every rank would then have a context of some hundred MB.
        """
        if self.stream is None:
            yield
            return
        with _ignoring_captures(), torch.cuda.device(self.device), torch.cuda.stream(self.stream):
            yield

    def lags(self) -> bool:
        """Say whether the device has not come to slabs that were received long ago."""
        if len(self._received) > self._ahead:
            with _ignoring_captures():
                while self._received and self._received[0].query():
                    self._received.popleft()
        return len(self._received) > self._ahead

    def catch_up(self) -> None:
        """Wait until the device lags behind no longer."""
        while self.lags():
            self._received[0].synchronize()

    def lend(self, *, waits: bool) -> NDArray[np.uint8] | None:
        """Lend memory for the next transfer, pinned if the device copies from it.

        Where that has not copied what was sent before: wait for it if the caller ``waits``, else
        return None. Raises ``LoaderError`` if memory cannot be pinned.
        """
        if self.stream is None:
            return allocate_aligned(self._nbytes)
        if not self._unused:
            self._take_back_copied()
        if self._unused:
            return self._unused.pop()
        # Several feeds at once may have all memory: then there is nothing to wait for.
        if self._pinned <= 2 * self._ahead or not self._transit:
            memory = _allocate_pinned(self._nbytes)
            self._pinned += 1
            return memory
        if not waits:
            return None
        self._transit[0].event.synchronize()
        return self.lend(waits=True)

    def allocate(self, nbytes: int) -> NDArray[np.uint8]:
        """Allocate memory for one transfer, pinned if the device copies from it.

        Raises ``LoaderError`` if memory cannot be pinned.
        """
        if self.stream is None:
            return allocate_aligned(nbytes)
        self._take_back_copied()
        if self._spare is not None and len(self._spare) == nbytes:
            memory, self._spare = self._spare, None
            return memory
        return _allocate_pinned(nbytes)

    def send(self, memory: NDArray[np.uint8], nbytes: int) -> torch.Tensor:
        """Start a copy of the first bytes; the memory is not used again before the copy is done."""
        host = torch.from_numpy(memory[:nbytes])
        if self.stream is None:
            return host
        sent = host.to(self.device, non_blocking=True)
        # Record the transfer before anything can raise; otherwise the memory could be used again
        # while it is still being copied.
        self._transit.append(_Transit(memory, self.record()))
        return sent

    def take_back(self, memory: NDArray[np.uint8]) -> None:
        """Take memory back that is needed no longer."""
        if self.stream is None:
            return
        if len(memory) == self._nbytes:
            self._unused.append(memory)
        else:
            self._spare = memory

    def record(self) -> Any:
        """Record an event behind all that is queued on the stream; None if there is no stream."""
        if self.stream is None:
            return None
        # A blocking event lets the thread that waits for it sleep: the kernels on the host need the
        # cores.
        event: Any = torch.cuda.Event
        return self.stream.record_event(event(blocking=True))

    def receive(self, made: Any, batch: Batch) -> None:
        """Hand a batch over to the stream that is the caller's current one.

        That stream waits for the event at which the slab is ``made``; the caller does not wait. The
        memory of the slab, of which the batch's is a part, is given to nobody else before that
        stream is done with it.
        """
        if made is None:
            return
        last, last_stream = self._last
        # `torch.cuda.current_stream` takes three times as long.
        number = torch.accelerator.current_stream(self.device.index).stream_id
        if made is last and number == last_stream:
            return
        self._last = made, number
        stream = torch.cuda.current_stream(self.device)
        stream.wait_event(made)
        for tensor in batch:
            tensor.record_stream(stream)
        if made is not last:
            event: Any = torch.cuda.Event
            self._received.append(stream.record_event(event(blocking=True)))

    def grow(self, nbytes: int) -> None:
        """Lend memory of another size from now on."""
        self.clear()
        self._nbytes = nbytes

    def clear(self) -> None:
        """Wait for all copies, and let go of the memory."""
        while self._transit:
            self._transit[0].event.synchronize()
            self._transit.popleft()
        self._unused.clear()
        self._spare = None
        self._pinned = 0
        self._last = (None, 0)

    def _take_back_copied(self) -> None:
        with _ignoring_captures():
            while self._transit and self._transit[0].event.query():
                self.take_back(self._transit.popleft().memory)


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
