import copy
import gc
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cinicpack
from cinicpack.errors import LoaderError
from cinicpack.jit import jit
from cinicpack.load.engine import monitor
from cinicpack.load.engine import threads as engine
from cinicpack.load.engine.threads import ClosedQueueError, Queue
from cinicpack.load.kernels.task import address_of
from tests.load.counting import Counting
from tests.load.forks import held_mutex, run_in_fork
from tests.load.pieces import (
    address_of_python,
    count_pieces,
    engine_for,
    make_queue,
    run_at_once,
)
from tests.load.threads import count_switches, threads, time_on_cores, wait_until

LONG = 30


def hold(begun, end):
    """Make a queue whose pieces wait for ``end``."""

    def piece(*_):
        begun.set()
        return end.wait(LONG)

    return make_queue(piece)


def count_sleeping():
    memory: Any = engine._get_engine()._memory
    return memory.view(monitor.ENGINE)["sleeping"][0]


@pytest.fixture
def four_threads():
    with engine_for(5):
        make_queue(lambda *_: 1, num_workers=4)
        yield


@pytest.fixture
def one_thread():
    with engine_for(2):
        make_queue(lambda *_: 1)
        yield


@pytest.mark.parametrize("num_workers", [0, 1, 2, 4, 9])
@pytest.mark.parametrize("pieces", [0, 1, 2, 50])
def test_every_piece_of_a_job_is_done_once_before_wait_returns(four_threads, num_workers, pieces):
    counting = Counting(3, num_workers)
    for number in range(60):
        if number >= 3:
            counting.queue.wait(number % 3)
            assert (counting.counts[number - 3] == 1).all()
        counting.post(number % 3, pieces, looks=number % 7)
    for number in range(57, 60):
        counting.queue.wait(number % 3)
        assert (counting.counts[number] == 1).all()
    assert counting.most <= max(1, num_workers)


def test_what_is_not_begun_is_not_done():
    counting = Counting(2, num_workers=0)
    counting.post(0, 3)
    assert not counting.queue.is_done(0)
    counting.queue.wait(0)
    assert counting.queue.is_done(0)
    # Nothing to do is done.
    counting.post(1, 0)
    assert counting.queue.is_done(1)


def test_without_workers_the_one_who_waits_works_alone(four_threads):
    who = []
    queue = make_queue(lambda *_: who.append(threading.get_ident()), num_workers=0)
    queue.post(0, 20)
    queue.wait(0)
    assert who == [threading.get_ident()] * 20


def test_a_thread_begins_with_its_own_part_and_helps_others_from_the_end(one_thread):
    """So it mostly writes where it wrote before, when the memory of a batch is used again."""
    taken: dict[bool, list[int]] = {True: [], False: []}
    begun, all_others = threading.Event(), threading.Event()

    def piece(_, number):
        is_mine = threading.current_thread() is threading.main_thread()
        taken[is_mine].append(number)
        if is_mine:
            if number == 5:
                all_others.set()
            return True
        begun.set()
        return all_others.wait(LONG)

    queue = make_queue(piece, num_workers=2)
    queue.post(0, 8)
    assert begun.wait(LONG)
    queue.wait(0)
    assert taken == {True: [0, 1, 2, 3, 7, 6, 5], False: [4]}


def test_the_engine_works_while_nobody_waits(one_thread):
    """And is woken for every job, however often it went to sleep before."""
    queue = make_queue(lambda *_: 1, 2)
    for number in range(300):
        queue.post(number % 2, 1 + number % 3)
        wait_until(lambda place=number % 2: queue.is_done(place))


def test_a_patient_queue_wakes_nobody_before_some_jobs_wait(one_thread):
    counting = Counting(4, 1, patience=3)
    for _ in range(3):
        wait_until(lambda: count_sleeping() == 1)
        switches = count_switches()
        for place in range(2):
            counting.post(place, 2)
        assert count_switches() == switches
        counting.post(2, 2)
        wait_until(lambda: all(counting.queue.is_done(place) for place in range(3)))


@pytest.mark.parametrize("batches", [3, 4, 5, 6])
def test_the_last_batch_of_an_epoch_does_not_wait_for_another(one_thread, tmp_path, batches):
    """A slow loop finds it made, though threads are woken for two batches at once."""
    images, path = np.zeros((200 * batches, 3, 32, 32), np.uint8), tmp_path / "zeros.pack"
    cinicpack.pack_arrays({"train": (images, [0] * len(images))}, path, classes=["zero"])
    with pytest.MonkeyPatch.context() as patched:
        begun = count_pieces(patched)
        loader = cinicpack.Loader(path, batch_size=200, normalize=False, num_workers=1)
        iterator = iter(loader)
        for _ in range(batches - 1):
            wait_until(lambda: count_sleeping() == 1)
            next(iterator)
        wait_until(lambda: count_sleeping() == 1)
        made = len(begun)
        next(iterator)
        assert len(begun) == made


@pytest.mark.parametrize("num_workers", [1, 2, 3, 4])
def test_as_many_threads_as_workers_are_at_work_at_once_and_no_more(four_threads, num_workers):
    """A consumer that waits is one of them."""
    together, lock, active, most = threading.Barrier(num_workers), threading.Lock(), [0], [0]

    def meet(*_):
        with lock:
            active[0] += 1
            most[0] = max(most[0], active[0])
        together.wait(LONG)
        with lock:
            active[0] -= 1

    queue = make_queue(meet, 2, num_workers)
    for place in range(2):
        queue.post(place, 6 * num_workers)
    for place in range(2):
        queue.wait(place)
    assert most == [num_workers]


def test_a_consumer_that_waits_takes_pieces_of_the_job_or_of_those_behind_it(one_thread):
    both = threading.Barrier(2)
    queue = make_queue(lambda *_: both.wait(LONG), 2, 2)
    # Two pieces of one job meet, then those of two jobs.
    queue.post(0, 2)
    queue.wait(0)
    queue.post(1, 1)
    queue.post(0, 1)
    queue.wait(1)
    queue.wait(0)


def test_the_engine_goes_on_with_another_queue_where_one_has_its_threads(four_threads):
    first, second = threading.Event(), threading.Event()
    slow, quick = hold(first, second), make_queue(lambda *_: second.set())
    slow.post(0, 2)
    first.wait(LONG)
    quick.post(0, 1)
    quick.wait(0)
    slow.wait(0)


def test_queues_take_turns_by_the_age_of_their_jobs(one_thread):
    order, hold = [], threading.Event()

    def note(name):
        return lambda place, _: order.append((place, name))

    queues = [make_queue(note(name), 3) for name in "ab"]
    before = make_queue(lambda *_: hold.wait(LONG))
    before.post(0, 1)
    for place in range(3):
        for queue in queues:
            queue.post(place, 2)
    hold.set()
    wait_until(lambda: all(queue.is_done(place) for queue in queues for place in range(3)))
    assert order == [(place, name) for place in range(3) for name in "ab" for _ in range(2)]


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_a_piece_that_fails_is_an_error_where_its_job_is_waited_for(num_workers):
    counting = Counting(3, num_workers)
    for place in range(3):
        counting.post(place, 5, failing=3 if place == 1 else -1)
    counting.queue.wait(0)
    with pytest.raises(LoaderError, match="kernel failed"):
        counting.queue.wait(1)
    assert not counting.queue.is_done(1)
    counting.queue.wait(2)
    # The next job at that place is another.
    counting.post(1, 5)
    counting.queue.wait(1)
    assert [counts.tolist() for counts in counting.counts] == [[1] * 5] * 4


@jit
def run_out_of_memory(address, piece):
    if piece == 1:
        raise MemoryError("no room for the scratch")
    return 1


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_error_of_a_kernel_is_told_with_its_message(monkeypatch, num_workers):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda error: told.append(str(error.exc_value)))
    queue = Queue(address_of(run_out_of_memory), [0], num_workers)
    queue.post(0, 3)
    with pytest.raises(LoaderError, match="as its message above says"):
        queue.wait(0)
    assert told == ["no room for the scratch"]


@pytest.mark.parametrize("how", ["close", "drop", "collect"])
def test_closing_takes_back_what_is_not_begun_and_waits_for_what_is(one_thread, how):
    begun, end, closed, done = *(threading.Event() for _ in range(3)), []

    def piece(*_):
        begun.set()
        assert end.wait(LONG)
        done.append(closed.is_set())

    held = [make_queue(piece, 3)]
    for place in range(3):
        held[0].post(place, 4)
    begun.wait(LONG)

    def close():
        if how == "close":
            held[0].close()
        elif how == "drop":
            held.clear()
        else:
            cycle: Any = held[0]
            cycle.itself = cycle
            del cycle
            held.clear()
            gc.collect()
        closed.set()

    closer = threading.Thread(target=close)
    closer.start()
    assert not closed.wait(0.02)
    end.set()
    closer.join(LONG)
    assert done == [False]
    # Nothing of it is left in the engine's way.
    other = make_queue(lambda *_: 1)
    other.post(0, 1)
    other.wait(0)
    assert done == [False]


def test_a_closed_queue_stays_closed():
    queue = make_queue(lambda *_: 1, 2, 2)
    queue.post(0, 1)
    queue.wait(0)
    queue.check_open()
    queue.close()
    queue.close()
    with pytest.raises(ClosedQueueError):
        queue.check_open()
    queue.post(1, 1)
    with pytest.raises(ClosedQueueError):
        queue.wait(1)
    assert not queue.is_done(1)


def test_closing_ends_the_wait_of_another_thread_before_a_piece_ends(one_thread):
    begun, end, told = threading.Event(), threading.Event(), threading.Event()
    queue = hold(begun, end)
    queue.post(0, 1)
    begun.wait(LONG)

    def act(number):
        if number == 0:
            queue.close()
            return "closed"
        try:
            queue.wait(0)
        finally:
            told.set()
            if told.wait(LONG):
                end.set()

    closed, error = run_at_once(act, 2)
    assert closed == "closed"
    assert isinstance(error, ClosedQueueError)


@pytest.mark.parametrize("is_begun", [True, False])
def test_a_signal_is_seen_while_one_waits(one_thread, is_begun):
    """Before its job is done, whether it waits for a thread of the engine, or works itself."""
    begun, end = threading.Event(), threading.Event()
    counting = Counting(1, num_workers=1 if is_begun else 0)
    queue = hold(begun, end) if is_begun else counting.queue
    if is_begun:
        queue.post(0, 1)
        begun.wait(LONG)
    else:
        # Hours of pieces that take some 10 µs each.
        counting.post(0, 10_000_000, looks=400)
    is_done = []

    def interrupt(*_):
        is_done.append(queue.is_done(0))
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(KeyboardInterrupt):
            queue.wait(0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        end.set()
    assert is_done == [False]
    queue.close()


def test_a_consumer_is_told_at_once_when_its_job_is_done(one_thread):
    """Not only when it looks again, after 20 ms."""
    statuses = []

    class Noting(Queue):
        def _wait(self, place):
            statuses.append(super()._wait(place))
            return statuses[-1]

    begun = threading.Event()

    def piece(*_):
        begun.set()
        # Time for the consumer to fall asleep.
        time.sleep(0.0005)

    queue = Noting(address_of_python(piece), [0], 1)
    told = 0
    for _ in range(1000):
        begun.clear()
        queue.post(0, 1)
        begun.wait(LONG)
        queue.wait(0)
        # On a busy machine some pieces take 20 ms, and their consumers do look again.
        told += monitor.LATE not in statuses
        statuses.clear()
        if told == 30:
            break
    assert told == 30


def test_a_consumer_helps_as_soon_as_the_engine_leaves_its_queue(one_thread):
    """Its queue has one worker, which goes on with an older job of another queue."""
    entered, leave, hold = (threading.Event() for _ in range(3))
    who = []

    def piece(_, number):
        who.append(threading.get_ident())
        if number == 0:
            entered.set()
            assert leave.wait(LONG)

    mine, other = make_queue(piece), make_queue(lambda *_: hold.wait(LONG))
    first = make_queue(piece)
    # The engine: in `first`; behind it wait `other`, then mine.
    first.post(0, 1)
    entered.wait(LONG)
    other.post(0, 1)
    mine.post(0, 3)
    leave.set()
    mine.wait(0)
    hold.set()
    other.wait(0)
    assert who[1:] == [threading.get_ident()] * 3


def test_there_are_threads_for_those_who_ask_and_one_core_is_left():
    with engine_for(4):
        before = set(threads())
        seen = []
        for num_workers in (0, 1, 2, 9, 1):
            make_queue(lambda *_: 1, num_workers=num_workers)
            seen.append(len(set(threads()) - before))
        assert seen == [0, 1, 2, 3, 3]
        assert all(thread.daemon for thread in threads())
    assert set(threads()) == before
    with engine_for(1):
        make_queue(lambda *_: 1, num_workers=4)
        assert len(set(threads()) - before) == 1


def test_queues_that_are_made_at_once_share_their_threads():
    with engine_for(4):
        before = len(threads())
        run_at_once(lambda _: make_queue(lambda *_: 1, num_workers=3), 8)
        assert len(threads()) == before + 3


def test_a_thread_that_cannot_start_is_an_error_and_the_next_queue_tries_again(monkeypatch):
    start, room = threading.Thread.start, [1]

    def start_some(thread):
        if thread.name == "cinicpack" and not room:
            raise RuntimeError("can't start new thread")
        room.pop()
        start(thread)

    with engine_for(4):
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", start_some)
            with pytest.raises(RuntimeError, match="can't start"):
                make_queue(lambda *_: 1, num_workers=3)
        done = []
        queue = make_queue(lambda *_: done.append(1), num_workers=3)
        queue.post(0, 5)
        queue.wait(0)
        assert len(done) == 5


def test_threads_without_work_sleep(four_threads):
    """And use no core, once they have found that there is none."""
    queue = make_queue(lambda *_: 1, 2, 4)
    queue.post(0, 100)
    queue.wait(0)
    wait_until(lambda: count_sleeping() == 4)
    switches, spent = count_switches(), time_on_cores()
    time.sleep(0.2)
    assert count_switches() - switches <= 2
    assert time_on_cores() - spent < 0.002


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_fork_has_an_engine_of_its_own_whatever_the_first_one_did(one_thread):
    """At the time of the fork the engine is at work, and its mutex is held."""
    begun, end = threading.Event(), threading.Event()
    queue = hold(begun, end)
    queue.post(0, 1)
    begun.wait(LONG)

    def go_on():
        assert not queue.is_done(0)
        for use in (queue.check_open, lambda: queue.wait(0)):
            with pytest.raises(ClosedQueueError):
                use()
        queue.close()
        done = []
        other = make_queue(lambda *_: done.append(1), num_workers=2)
        other.post(0, 4)
        other.wait(0)
        assert len(done) == 4
        other.close()

    with held_mutex(queue):
        status = run_in_fork(go_on)
    end.set()
    queue.wait(0)
    assert status == 0


AT_EXIT = """
import atexit
import time

@atexit.register
def use_it_still():
    queue = make_queue(lambda *_: print("late", flush=True), num_workers=WORKERS)
    queue.post(0, 1)
    queue.wait(0)

from threading import Event
from tests.load.pieces import make_queue

begun = Event()

def piece(*_):
    print("begun", flush=True)
    begun.set()
    time.sleep(0.1)
    print("ended", flush=True)

if WORKERS:
    queue = make_queue(piece)
    queue.post(0, 9)
    begun.wait()
END
"""


@pytest.mark.parametrize(
    ("workers", "end", "said"),
    [
        (1, "", ["begun", "ended", "late"]),
        (1, "del queue", ["begun", "ended", "late"]),
        (1, "raise SystemExit", ["begun", "ended", "late"]),
        # The engine is made when all others have ended.
        (0, "", ["late"]),
    ],
)
def test_no_thread_is_amid_a_piece_when_the_interpreter_ends(workers, end, said):
    code = AT_EXIT.replace("WORKERS", str(workers)).replace("END", end)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, said, "")


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_queue_is_not_copied(way):
    queue = make_queue(lambda *_: 1)
    for thing in (queue, queue._engine):
        with pytest.raises(TypeError, match=f"cannot copy or pickle {type(thing).__name__}"):
            way(thing)
