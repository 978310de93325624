"""The work that the threads of the process share: jobs cut into pieces, under one mutex.

A job is a function of compiled code, called with an address and the number of a piece. The jobs of
a queue are the batches of one iterator. All jobs with pieces that nobody has taken are in one list,
oldest first; threads take pieces from the first job whose queue allows one more thread. Whoever
waits for a job takes pieces of it too, or else of the jobs behind it in the same queue, and sleeps
only when there are none. Every record here is changed under the engine's mutex alone, which nobody
holds for longer than it takes to change a few numbers; pieces take some 20 µs.

The pieces of a job lie in parts, one for each thread that may work on it, and a thread begins with
its own. Memory that was written by another core is up to three times as slow to write: this way a
thread mostly writes where it wrote before, when the memory of a batch is used again.

Nothing here runs Python or needs its lock, but for the thread that calls.
"""

import errno
from typing import Any, Final

import numpy as np
from numba.extending import register_jitable

from cinicpack.jit import jit
from cinicpack.load.engine import posix
from cinicpack.load.engine.posix import CONDITION, MUTEX, TIME, record_at

__all__ = [
    "CANCELLED", "DONE", "ENGINE", "FAILED", "JOB", "LATE", "PARTS", "QUEUE", "cancel",
    "exchange", "is_done", "post", "stop", "wait", "work",
]  # fmt: skip

_u64 = np.uint64

#: The most parts of a job.
PARTS: Final = 16
#: A job: its neighbours in the engine's list (0: it is not in there); its queue and the job behind
#: it in that queue, where the last one is followed by the first; the function and its argument; how
#: many pieces there are, are taken, and are done; whether any piece failed; and of each part the
#: first piece that is not taken, and the one behind the last.
JOB: Final = np.dtype(
    [
        *((name, "u8") for name in ("next", "previous", "queue", "following", "run", "argument")),
        *((name, "i8") for name in ("pieces", "taken", "done", "failed")),
        *((name, "i8", (PARTS,)) for name in ("first", "stop")),
        ("padding", "i8", (6,)),
    ]
)
#: A queue: how many threads may work on it at once, in how many parts its jobs are, and how many
#: jobs have to wait until a thread is woken; how many threads do work, and jobs wait; how many wait
#: for a job; whether it was cancelled; the clock's time, the time until which one waits, and where.
QUEUE: Final = np.dtype(
    [
        *(
            (name, "i8")
            for name in ("limit", "parts", "patience", "active", "untouched", "waiting")
        ),
        ("cancelled", "i8"),
        ("now", *TIME),
        ("until", *TIME),
        ("changed", *CONDITION),
    ]
)
#: The engine: the job that is the list's begin and end, the mutex, where threads sleep that have
#: nothing to do, how many do, and whether they are to end.
ENGINE: Final = np.dtype(
    [("list", JOB), ("mutex", *MUTEX), ("work", *CONDITION), ("sleeping", "i8"), ("stopped", "i8")]
)

# What `wait` says.
DONE: Final = 0
FAILED: Final = 1
CANCELLED: Final = 2
LATE: Final = 3

_MUTEX: Final = _u64(ENGINE.fields["mutex"][1])  # type: ignore[index]
_WORK: Final = _u64(ENGINE.fields["work"][1])  # type: ignore[index]
_NOW: Final = _u64(QUEUE.fields["now"][1])  # type: ignore[index]
_UNTIL: Final = _u64(QUEUE.fields["until"][1])  # type: ignore[index]
_CHANGED: Final = _u64(QUEUE.fields["changed"][1])  # type: ignore[index]

# How long `wait` stays away from Python, which only then looks at signals.
_NANOSECONDS: Final = 20_000_000
_SECOND: Final = 1_000_000_000
_TIMED_OUT: Final = errno.ETIMEDOUT


@jit(inlines=(posix,))
def work(address: int, number: int) -> None:
    """Take pieces of the engine's jobs until it is stopped; what each of its threads does.

    ``number`` tells these threads apart. It is at least 1: 0 is whoever waits.
    """
    engine = _u64(address)
    e = record_at(engine, ENGINE)
    posix.lock(engine + _MUTEX)
    job = _find(engine)
    while not e.stopped:
        if not job:
            e.sleeping += 1
            posix.await_wake(engine + _WORK, engine + _MUTEX)
            job = _find(engine)
            continue
        queue = record_at(job, JOB).queue
        _do_piece(engine, job, number)
        finished = job
        job = _find(engine)
        _tell(queue, finished, job)
    posix.unlock(engine + _MUTEX)


@jit(nogil=False, inlines=(posix,))
def post(engine: int, job: int, pieces: int, shared: bool) -> None:
    """Post a job that is not under way, cut into pieces; one that is not shared is for `wait`."""
    exchange(_u64(engine), _u64(job), _u64(pieces), shared, False, _u64(job))


@jit(nogil=False, inlines=(posix,))
def is_done(engine: int, job: int) -> bool:
    """Say whether a job is done, without a failure."""
    posix.lock(_u64(engine) + _MUTEX)
    done: bool = _is_done(_u64(job))
    posix.unlock(_u64(engine) + _MUTEX)
    return done


@register_jitable
def exchange(engine: Any, job: Any, pieces: Any, shared: Any, urgent: Any, awaited: Any) -> Any:
    """Post a job, an urgent one without patience, and say whether another of its queue is done."""
    e, j = record_at(engine, ENGINE), record_at(job, JOB)
    q = record_at(j.queue, QUEUE)
    posix.lock(engine + _MUTEX)
    j.pieces, j.taken, j.done, j.failed = pieces, 0, 0, 0
    for part in range(q.parts):
        j.first[part] = j.pieces * part // q.parts
        j.stop[part] = j.pieces * (part + 1) // q.parts
    wakes = False
    if shared and pieces and not q.cancelled:
        _append(engine, job)
        q.untouched += 1
        wakes = (urgent or q.untouched >= q.patience) and _is_short(e)
    done = _is_done(awaited)
    _unlock(engine, wakes)
    return done


@jit(inlines=(posix,))
def wait(address: int, awaited: int) -> int:
    """Work on a job until it is done, or for 20 ms: `DONE`, `FAILED`, `CANCELLED` or `LATE`."""
    engine, job = _u64(address), _u64(awaited)
    e, j = record_at(engine, ENGINE), record_at(job, JOB)
    queue = j.queue
    q = record_at(queue, QUEUE)
    _set_deadline(queue)
    status = DONE
    posix.lock(engine + _MUTEX)
    while j.done < j.pieces and status == DONE:
        own = _find_own(job)
        if q.cancelled:
            status = CANCELLED
        elif own:
            _do_piece(engine, own, 0)
            if _is_late(queue):
                status = LATE
        else:
            q.waiting += 1
            if posix.await_until(queue + _CHANGED, engine + _MUTEX, queue + _UNTIL) == _TIMED_OUT:
                status = LATE
            q.waiting -= 1
    if status == DONE and j.failed:
        status = FAILED
    # The queue may allow another thread again, now that this one leaves.
    _unlock(engine, _find(engine) != _u64(0) and _is_short(e))
    return status


@jit(inlines=(posix,))
def cancel(address: int, first: int) -> None:
    """Take back what nobody has begun of all jobs in the queue of ``first``, and wait for the rest.

    That takes as long as a piece does. The threads of the engine wait for nothing that a thread of
    Python may hold, so this may be called from anywhere, as by the garbage collector.
    """
    engine, job = _u64(address), _u64(first)
    queue = record_at(job, JOB).queue
    q = record_at(queue, QUEUE)
    posix.lock(engine + _MUTEX)
    q.cancelled = 1
    other = job
    while True:
        j = record_at(other, JOB)
        if j.taken < j.pieces:
            j.taken = j.pieces
            _unlink(other)
        other = j.following
        if other == job:
            break
    while q.active:
        q.waiting += 1
        posix.await_wake(queue + _CHANGED, engine + _MUTEX)
        q.waiting -= 1
    posix.wake_all(queue + _CHANGED)
    posix.unlock(engine + _MUTEX)


@jit(nogil=False, inlines=(posix,))
def stop(address: int) -> None:
    """Let the engine's threads end."""
    engine = _u64(address)
    posix.lock(engine + _MUTEX)
    record_at(engine, ENGINE).stopped = 1
    posix.wake_all(engine + _WORK)
    posix.unlock(engine + _MUTEX)


@register_jitable
def _append(engine: Any, job: Any) -> None:
    """Put a job at the end of the list."""
    j, first = record_at(job, JOB), record_at(engine, JOB)
    j.next, j.previous = engine, first.previous
    record_at(first.previous, JOB).next = job
    first.previous = job


@register_jitable
def _unlink(job: Any) -> None:
    """Take a job out of the list, if it is in there."""
    j = record_at(job, JOB)
    if j.next:
        record_at(j.next, JOB).previous = j.previous
        record_at(j.previous, JOB).next = j.next
        j.next = j.previous = _u64(0)


@register_jitable
def _find(engine: Any) -> Any:
    """Find the oldest job in the list that one more thread may work on; 0: there is none."""
    job = record_at(engine, JOB).next
    while job != engine:
        j = record_at(job, JOB)
        q = record_at(j.queue, QUEUE)
        if q.active < q.limit:
            return job
        job = j.next
    return _u64(0)


@register_jitable
def _find_own(job: Any) -> Any:
    """Find a job with pieces left for whoever waits for ``job``: this one, or one behind it."""
    q = record_at(record_at(job, JOB).queue, QUEUE)
    if q.active < q.limit:
        own = job
        while True:
            j = record_at(own, JOB)
            if j.taken < j.pieces:
                return own
            own = j.following
            if own == job:
                break
    return _u64(0)


@register_jitable
def _take_piece(job: Any, number: Any) -> Any:
    """Take the next piece of a thread's own part, or else the last one of the longest part."""
    j = record_at(job, JOB)
    parts = record_at(j.queue, QUEUE).parts
    own = number % parts
    if j.first[own] < j.stop[own]:
        j.first[own] += 1
        return j.first[own] - 1
    longest = 0
    for part in range(1, parts):
        if j.stop[part] - j.first[part] > j.stop[longest] - j.first[longest]:
            longest = part
    j.stop[longest] -= 1
    return j.stop[longest]


@register_jitable
def _do_piece(engine: Any, job: Any, number: Any) -> None:
    """Take a piece of a job and do it, without the mutex meanwhile."""
    e, j = record_at(engine, ENGINE), record_at(job, JOB)
    q = record_at(j.queue, QUEUE)
    if j.taken == 0 and j.next:
        q.untouched -= 1
    piece = _take_piece(job, number)
    j.taken += 1
    q.active += 1
    if j.taken == j.pieces:
        _unlink(job)
    _unlock(engine, _find(engine) != _u64(0) and _is_short(e))
    succeeded = posix.call(j.run, j.argument, piece)
    posix.lock(engine + _MUTEX)
    j.done += 1
    q.active -= 1
    if not succeeded:
        j.failed = 1
    if q.cancelled:
        posix.wake_all(j.queue + _CHANGED)


@register_jitable
def _unlock(engine: Any, wakes: Any) -> None:
    """Leave the mutex, and wake a thread only then, which would otherwise have to wait for it."""
    posix.unlock(engine + _MUTEX)
    if wakes:
        posix.wake_one(engine + _WORK)


@register_jitable
def _is_done(job: Any) -> Any:
    j = record_at(job, JOB)
    return j.done == j.pieces and not j.failed


@register_jitable
def _is_short(e: Any) -> bool:
    """Say whether a thread is asleep that is to be woken, and count it as awake."""
    if e.sleeping:
        e.sleeping -= 1
        return True
    return False


@register_jitable
def _tell(queue: Any, finished: Any, job: Any) -> None:
    """Wake who waits for a queue, where a job of it is done or its thread goes on with another."""
    q, j = record_at(queue, QUEUE), record_at(finished, JOB)
    if q.waiting:
        leaves = not job or record_at(job, JOB).queue != queue
        if leaves or j.done == j.pieces:
            posix.wake_all(queue + _CHANGED)


@register_jitable
def _set_deadline(queue: Any) -> None:
    q = record_at(queue, QUEUE)
    posix.read_clock(queue + _UNTIL)
    nanoseconds = q.until[1] + _NANOSECONDS
    q.until[0] += nanoseconds // _SECOND
    q.until[1] = nanoseconds % _SECOND


@register_jitable
def _is_late(queue: Any) -> bool:
    q = record_at(queue, QUEUE)
    posix.read_clock(queue + _NOW)
    late: bool = (q.now[0] - q.until[0]) * _SECOND + q.now[1] - q.until[1] > 0
    return late
