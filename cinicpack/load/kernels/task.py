"""Tasks: of which samples the kernels make a batch, and where to.

The engine runs kernels as C functions of an address and a number: the address of a task, and which
piece of it is to be made.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, Final, NamedTuple

import numba
import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray

from cinicpack.jit import jit
from cinicpack.load.engine import monitor, posix
from cinicpack.load.engine.posix import record_at
from cinicpack.load.engine.threads import Queue
from cinicpack.load.kernels import demand
from cinicpack.load.kernels.demand import Demand, ask_for_piece
from cinicpack.load.unique import Unique

__all__ = [
    "BATCHES", "TASK", "Inputs", "Tables", "Tasks", "address_of", "begin", "begin_at", "begin_next",
    "run_views",
]  # fmt: skip

_u64 = np.uint64

#: A task. First what is the same for all batches of an epoch, then what is not. Where samples have
#: several views, there are as many tasks, one behind the other, and a job's is the first.
#:
#:     images                         N
#:     addresses    of uint64 (N,)    where the images lie in memory
#:     rows         of int64 (N,)     what they are in what the split names; the draws depend on it
#:     labels       of int64 (N,)
#:     parameters   of a record       what `to_parameters` gives
#:     epoch                          below 2**32
#:     views                          how many tasks there are for the same samples
#:     view                           which of them this is, below 2**16
#:     run          of a C function   what makes a piece of the view
#:     demand       of a `DEMAND`     what is read from the disk meanwhile; 0: nothing is
#:     occurrences                    how many bytes behind ``samples``, or before if that is taken
#:                                    as negative, it is said in int64 (n,) how often the row of
#:                                    each came before in the epoch; 0: none did
#:     piece                          how many samples are made at a time
#:     mix          of a record       how the batch is mixed, see `kernels.mix`; 0: not at all
#:     out_labels   of int64 (n,)     where labels and rows are written
#:     out_rows     of int64 (n,)
#:     samples      of int64 (n,)     positions in the tables of N
#:     out          of the pixels     where they are written: n * 3 * H * W, and no more
#:     count                          n
TASK: Final = np.dtype(
    [
        (name, "u8")
        for name in (
            "images", "addresses", "rows", "labels", "parameters", "epoch", "views", "view", "run",
            "demand", "occurrences", "piece", "mix", "out_labels", "out_rows", "samples", "out",
            "count",
        )
    ]
)  # fmt: skip

#: The batches of an epoch, each a task at the next place of a queue.
#:
#:     engine
#:     jobs         of JOB (places,)  the queue's, one behind the other
#:     places
#:     is_shared                      whether the engine's threads work on them
#:     samples      of int64 (n,)     positions of all batches, in order
#:     count                          n
#:     size                           samples in a batch; the last ones may have fewer, or none
#:     batches                        how many there are
#:     begun                          how many of them were posted
BATCHES: Final = np.dtype(
    [
        (name, "u8")
        for name in (
            "engine", "jobs", "places", "is_shared", "samples", "count", "size", "batches", "begun",
        )
    ]
)  # fmt: skip

_SIZE: Final = _u64(TASK.itemsize)
_JOB_SIZE: Final = _u64(monitor.JOB.itemsize)


@jit(inlines=(posix, demand))
def run_views(address: Any, piece: Any) -> int:
    """Make a piece of all views of a task: its images are read once, and are then in the cache.

    Before that, ask the disk for those of a later piece, where the task has a demand. Returns 1, or
    0 where one of the views failed.
    """
    t = record_at(address, TASK)
    if t.demand:
        start = _u64(piece) * t.piece
        ask_for_piece(t.demand, t.samples + _u64(8) * start, min(t.piece, t.count - start))
    done = 1
    for view in range(t.views):
        own = address + _u64(view) * _SIZE
        if not posix.call(record_at(own, TASK).run, own, piece):
            done = 0
    return done


@jit(nogil=False, inlines=(monitor, posix))
def begin(engine: int, job: int, samples: int, count: int, out: int, shared: bool) -> None:
    """Post the job of a task for ``count`` samples.

    Args:
        engine: address of the engine.
        job: address of a job whose argument is a task.
        samples: address of the positions.
        count: how many there are.
        out: address of the memory for pixels, of the first view if there are several.
        shared: whether the engine's threads work on it.
    """
    pieces = _aim(_u64(job), _u64(samples), _u64(count), _u64(out))
    monitor.exchange(_u64(engine), _u64(job), pieces, shared, True, _u64(job))


@jit(nogil=False, inlines=(monitor, posix))
def begin_next(address: int, out: int, number: int) -> bool:
    """Post the next batch of `BATCHES`, and say whether another is done, which is posted already.

    Args:
        address: of the batches.
        out: address of the memory for pixels, as for `begin`.
        number: of the other batch; -1, before the first one is asked for: the job at the last
            place.
    """
    b = record_at(_u64(address), BATCHES)
    start = min(b.begun * b.size, b.count)
    job = b.jobs + b.begun % b.places * _JOB_SIZE
    awaited = b.jobs + (_u64(number) + b.places) % b.places * _JOB_SIZE
    pieces = _aim(job, b.samples + _u64(8) * start, min(b.size, b.count - start), _u64(out))
    b.begun += _u64(1)
    # Threads sleep before the first batch, and none that could wake one follows the last.
    urgent = b.begun == _u64(1) or b.begun == b.batches
    done: bool = monitor.exchange(b.engine, job, pieces, b.is_shared != 0, urgent, awaited)
    return done


@register_jitable
def _aim(job: Any, samples: Any, count: Any, out: Any) -> Any:
    """Give a task its samples and its memory, and return how many pieces it is."""
    first = record_at(job, monitor.JOB).argument
    task = record_at(first, TASK)
    task.out = out
    for view in range(task.views):
        each = record_at(first + _u64(view) * _SIZE, TASK)
        each.samples, each.count = samples, count
    return (count + task.piece - _u64(1)) // task.piece


def begin_at(
    queue: Queue, place: int, positions: NDArray[np.int64], out: NDArray[np.generic]
) -> None:
    """Post the task at a place of a queue, for samples at ``positions`` and pixels into ``out``."""
    begin(
        queue.engine, queue.jobs[place], positions.ctypes.data, len(positions), out.ctypes.data,
        queue.is_shared,
    )  # fmt: skip


class Tables(NamedTuple):
    """What is known of all samples.

    Attributes:
        addresses: (N,) uint64, where the images lie in memory.
        rows: (N,) int64, what they are in what the split names.
        labels: (N,) int64.
    """

    addresses: NDArray[np.uint64]
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]


class Inputs(Unique):
    """Tables and parameters that a kernel reads: the same in every epoch of a loader.

    Args:
        parameters: of the kernel, for every view of the samples.
        tables: of all samples.

    Attributes:
        fields: the first fields of a `TASK`, for every view. To find the addresses out takes 1 µs
            each, a twentieth of the start of a short epoch in all.
    """

    def __init__(self, parameters: Sequence[NDArray[np.void]], tables: Tables) -> None:
        self._read = (parameters, tables)
        known = (len(tables.rows), *(table.ctypes.data for table in tables))
        self.fields = [(*known, each.ctypes.data) for each in parameters]


class Tasks(Unique):
    """Tasks for the places of a queue, and what their kernel reads.

    Args:
        kernel: what makes the batches.
        inputs: what it reads.
        epoch: that the batches are of.
        occurrences: how far behind positions it is said how often each came before; 0: nowhere.
        piece: how many samples are made at a time.
        places: how many tasks there are.
        demand: what is read from the disk meanwhile, for the samples of an epoch; None: nothing is.

    Attributes:
        function: address of the kernel's C function.
        addresses: of the task at each place, or the first of them.
    """

    def __init__(
        self,
        kernel: Any,
        inputs: Inputs,
        epoch: int,
        occurrences: int,
        piece: int,
        places: int,
        demand: Demand | None = None,
    ) -> None:
        self._run, views = address_of(kernel), len(inputs.fields)
        self._piece, self._demand = piece, demand
        is_plain = views == 1 and demand is None
        self.function = self._run if is_plain else address_of(run_views)
        # Numbers, and not records, which take four times as long to write.
        self._fields = np.zeros((places, views, len(TASK)), np.uint64)
        self._records = self._fields.view(TASK)[:, :, 0]
        first, step = self._fields.ctypes.data, views * TASK.itemsize
        self.addresses = [first + step * place for place in range(places)]
        self.renew(inputs, epoch, occurrences)

    def renew(self, inputs: Inputs, epoch: int, occurrences: int) -> None:
        """Make batches of these samples, in as many views as ever, as in an epoch from now on."""
        self._inputs = inputs
        demand = 0 if self._demand is None else self._demand.address
        for view, fields in enumerate(inputs.fields):
            known = (
                *fields, epoch, len(inputs.fields), view, self._run, demand,
                occurrences % 2**64, self._piece,
            )  # fmt: skip
            self._fields[:, view, : len(known)] = known

    def forget(self) -> None:
        """Keep nothing that the kernel reads; no job may be under way, nor come before `renew`."""
        del self._inputs

    def mix(self, kernel: Any, records: NDArray[np.void]) -> None:
        """Call a kernel that also mixes the batch of each place, as the place's record says."""
        self.function = address_of(kernel)
        places = np.arange(len(records), dtype=np.uint64)[:, None]
        self._records["mix"] = records.ctypes.data + places * np.uint64(records.itemsize)

    def aim(
        self,
        place: int,
        labels: NDArray[np.int64],
        rows: NDArray[np.int64],
        out: NDArray[np.uint8] | None = None,
    ) -> None:
        """Say where the next batches of a place have labels and rows, (n,) each, and pixels."""
        if out is not None:
            self.aim_view(place, 0, out.ctypes.data)
        self._records["out_labels"][place] = labels.ctypes.data
        self._records["out_rows"][place] = rows.ctypes.data

    def aim_all(self, columns: NDArray[np.int64]) -> None:
        """Say for all places, k, where labels and rows are: (k, 2, n)."""
        starts = columns.ctypes.data + np.arange(2 * len(columns)) * columns.strides[1]
        self._records["out_labels"], self._records["out_rows"] = (
            starts[0::2, None],
            starts[1::2, None],
        )

    def aim_view(self, place: int, view: int, out: int) -> None:
        """Say at which address the next batch of a place has the pixels of a view."""
        self._records["out"][place, view] = out


@cache
def address_of(kernel: Any) -> int:
    """Return the address of a compiled kernel's C function, of an address and a number."""
    types: Any = numba.types
    result = kernel.get_compile_result(types.int64(types.uint64, types.int64))
    return int(result.library.get_pointer_to_function(result.fndesc.llvm_cfunc_wrapper_name))
