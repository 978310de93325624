import gc
import threading
import time

import pytest

from cinicpack.load.pipeline import Pipeline


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "cinicpack"]


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
    assert not threads()


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
    deadline = time.monotonic() + 5
    while threads() and time.monotonic() < deadline:
        time.sleep(0.001)
    assert not threads()


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
