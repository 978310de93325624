import gc
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from typing import Any

import pytest

from cinicpack.errors import LoaderError
from cinicpack.load.pipeline import Pipeline
from tests.load.threads import threads, wait_for_no_threads


@pytest.mark.parametrize("num_threads", [0, 1, 2, 4])
@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_results_come_in_order(num_threads, count):
    def make(number):
        time.sleep((number * 7 % 5) / 5000)
        return number

    assert list(Pipeline(make, count, num_threads, 3)) == list(range(count))
    assert not threads()


def test_no_more_than_ahead_are_made_before_they_are_asked_for():
    made: list[int] = []
    pipeline = Pipeline(made.append, 100, 2, 3)
    time.sleep(0.05)
    assert len(made) == 3
    next(pipeline)
    time.sleep(0.05)
    assert len(made) == 4
    pipeline.close()


@pytest.mark.parametrize("num_threads", [0, 2])
def test_an_error_is_raised_where_its_result_was_due_with_its_traceback(num_threads):
    def make(number):
        if number == 2:
            raise ValueError("the third")
        return number

    pipeline = Pipeline(make, 5, num_threads, 4)
    assert [next(pipeline), next(pipeline)] == [0, 1]
    with pytest.raises(ValueError, match="the third") as caught:
        next(pipeline)
    assert any(entry.name == "make" for entry in caught.traceback)
    with pytest.raises(StopIteration):
        next(pipeline)
    assert not threads()


def test_threads_end_when_the_pipeline_is_dropped():
    pipeline = Pipeline(lambda number: number, 1000, 3, 4)
    assert next(pipeline) == 0
    assert len(threads()) == 3
    del pipeline
    gc.collect()
    wait_for_no_threads()


def test_close_waits_for_what_is_under_way():
    running = threading.Event()
    ended = threading.Event()

    def make(number):
        running.set()
        time.sleep(0.05)
        ended.set()

    pipeline = Pipeline(make, 10, 1, 2)
    running.wait()
    pipeline.close()
    assert ended.is_set()
    assert not threads()
    pipeline.close()


def test_closing_on_one_of_the_threads_does_not_wait_for_the_others():
    """As the garbage collector may, on a thread that holds a lock."""
    lock, created, held, tried = threading.Lock(), *(threading.Event() for _ in range(3))

    def make(number):
        if number == 0:
            created.wait()
            with lock:
                held.set()
                tried.wait()
                pipeline.close()
        else:
            held.wait()
            tried.set()
            with lock:
                pass

    pipeline = Pipeline(make, 2, 2, 2)
    created.set()
    wait_for_no_threads()


def test_dropping_it_does_not_wait_for_a_thread_that_needs_a_lock_of_the_caller():
    """As the garbage collector may, in the midst of anything."""
    lock, running = threading.Lock(), threading.Event()

    def make(number):
        running.set()
        with lock:
            pass

    pipeline = Pipeline(make, 2, 2, 2)
    with lock:
        running.wait()
        del pipeline
        gc.collect()
        assert threads()
    wait_for_no_threads()


@pytest.mark.parametrize("num_threads", [0, 1, 2])
def test_an_interrupt_ends_it_in_the_consumer(num_threads):
    """What was due may be lost then."""
    waiting = threading.Event()

    def make(number):
        if number:
            waiting.set()
            time.sleep(0.05)
        return number

    def interrupt(*_):
        raise KeyboardInterrupt

    pipeline = Pipeline(make, 5, num_threads, 2)
    assert next(pipeline) == 0
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        waiting.wait(0.1)
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(KeyboardInterrupt):
            next(pipeline)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert not pipeline.is_alive()
    assert not threads()
    with pytest.raises(StopIteration):
        next(pipeline)


@pytest.mark.parametrize("is_started", [True, False])
def test_closing_it_ends_the_wait_of_another_thread(is_started):
    started, ended = threading.Event(), threading.Event()
    got: list[object] = []

    def make(number):
        if number == 0:
            started.set()
            ended.wait(5)
        return number

    def consume():
        if not is_started:
            next(pipeline)
        got.append(next(pipeline, "end"))

    pipeline = Pipeline(make, 5, 1, 2)
    consumer = threading.Thread(target=consume)
    consumer.start()
    started.wait()
    time.sleep(0.02)
    pipeline.stop()
    ended.set()
    consumer.join(5)
    assert not consumer.is_alive()
    assert got == [0 if is_started else "end"]
    pipeline.close()


def test_another_thread_may_stop_it_amid_next():
    """Just after ``next()`` has looked whether it goes on."""
    pipeline: Any = Pipeline(lambda number: number, 5, 1, 2)
    dismiss = pipeline._dismiss

    class Stopping:
        @property
        def alive(self):
            pipeline._dismiss = dismiss
            pipeline.stop()
            return True

    pipeline._dismiss = Stopping()
    assert next(pipeline, "end") == "end"
    assert not threads()


def test_a_thread_that_cannot_start_leaves_none(monkeypatch):
    start = threading.Thread.start
    started: list[threading.Thread] = []

    def start_one(thread):
        if started:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_one)
    with pytest.raises(RuntimeError, match="can't start"):
        Pipeline(lambda number: number, 5, 2, 2)
    assert started
    assert not threads()


def test_in_a_fork_it_says_that_its_threads_are_not_there():
    blocked = threading.Event()
    pipeline = Pipeline(lambda number: number and blocked.wait(), 5, 1, 2)
    assert next(pipeline) == 0
    with warnings.catch_warnings():
        # Later versions of Python warn of forks where there are threads.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        status = 1
        try:
            next(pipeline)
        except LoaderError as error:
            status = 0 if "fork" in str(error) else 2
        finally:
            os._exit(status)
    blocked.set()
    assert os.waitpid(child, 0)[1] == 0
    pipeline.close()


def test_no_thread_is_in_the_midst_of_something_when_the_interpreter_ends():
    code = (
        "import sys, time\n"
        "from cinicpack.load.pipeline import Pipeline\n"
        "def make(number):\n"
        "    time.sleep(0.2)\n"
        "    print('made\\n', end='', flush=True)\n"
        "pipeline = Pipeline(make, 9, 2, 2)\n"
        "time.sleep(0.1)\n"
        "{}\n"
    )
    for end in ("", "del pipeline"):
        command = [sys.executable, "-c", code.format(end)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        assert (done.stdout, done.stderr) == ("made\nmade\n", "")


def test_a_finished_pipeline_stays_finished():
    pipeline = Pipeline(lambda number: number, 2, 2, 2)
    assert list(pipeline) == [0, 1]
    assert list(pipeline) == []


def test_results_are_not_kept_by_idle_threads():
    alive = []

    class Result:
        def __init__(self):
            alive.append(1)

        def __del__(self):
            alive.pop()

    pipeline = Pipeline(lambda number: Result(), 3, 1, 3)
    for _ in range(3):
        result = next(pipeline)
    del result
    deadline = time.monotonic() + 5
    while alive and time.monotonic() < deadline:
        time.sleep(0.001)
    assert not alive
    pipeline.close()
