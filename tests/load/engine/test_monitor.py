"""Pieces of work are neither lost nor done twice, whoever posts, waits, closes and when."""

import random
import time

import pytest

from cinicpack.load.engine.threads import ClosedQueueError
from tests.load.counting import Counting
from tests.load.pieces import engine_for, run_at_once


def use_queues(number, turns, others):
    """Post jobs and wait for them, or not, until all is done; close queues at random."""
    dice, finished = random.Random(number), []
    while turns > 0:
        places, num_workers = dice.randrange(1, 6), dice.randrange(5)
        patience = dice.randrange(1, places + 1)
        counting = Counting(places, num_workers, patience)
        others[number] = dice.choice([None, None, counting])
        posted = waited = 0
        try:
            for _ in range(dice.randrange(1, 60)):
                turns -= 1
                if posted - waited < places and dice.random() < 0.7:
                    pieces = dice.choice([0, 1, 2, 3, 8, 40])
                    counting.post(posted % places, pieces, looks=dice.choice([0, 3, 60]))
                    posted += 1
                elif posted > waited:
                    let_engine(counting, dice, posted, waited, places, num_workers, patience)
                    counting.queue.wait(waited % places)
                    assert (counting.counts[waited] == 1).all(), counting.counts[waited]
                    waited += 1
                if dice.random() < 0.01 and (other := dice.choice(others)) is not None:
                    other.queue.close()
            for job in range(waited, posted if dice.random() < 0.5 else waited):
                counting.queue.wait(job % places)
                waited += 1
                assert (counting.counts[job] == 1).all(), counting.counts[job]
        except ClosedQueueError:
            pass
        counting.queue.close()
        finished.append((counting, num_workers, [counts.copy() for counts in counting.counts]))
    return finished


def let_engine(counting, dice, posted, waited, places, num_workers, patience):
    """Now and then wait for a job without any help; a wake-up that was lost would show."""
    if not num_workers or patience > 1 or dice.random() < 0.7:
        return
    deadline = time.monotonic() + 20
    while not counting.queue.is_done(waited % places):
        counting.queue.check_open()
        assert time.monotonic() < deadline
        time.sleep(0)


@pytest.mark.parametrize("cores", [2, 5])
def test_every_piece_is_done_once_and_none_after_its_queue_was_closed(cores):
    others = [None] * 4
    with engine_for(cores):
        for finished in run_at_once(lambda number: use_queues(number, 20_000, others)):
            if isinstance(finished, Exception):
                raise finished
            for counting, num_workers, at_close in finished:
                assert counting.most <= max(1, num_workers)
                for counts, before in zip(counting.counts, at_close, strict=True):
                    assert (counts <= 1).all()
                    assert (counts == before).all()
