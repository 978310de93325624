import hashlib
import os
from functools import partial

import pytest

from cinicpack.errors import ArgumentError, DestinationError
from cinicpack.study.tree import run_jobs, write_files


@pytest.mark.parametrize("num_workers", [None, 0, 3])
def test_all_jobs_run(num_workers):
    done = []

    def work(number: int) -> int:
        done.append(number)
        return 1

    jobs = [partial(work, number) for number in range(20)]
    run_jobs(jobs, 20, num_workers=num_workers, progress=False)
    assert sorted(done) == list(range(20))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_first_error_ends_it(num_workers):
    done = []

    def work(number: int) -> int:
        if number == 3:
            raise ValueError("the third")
        # A millisecond.
        hashlib.sha256(bytes(1 << 20)).digest()
        done.append(number)
        return 1

    jobs = [partial(work, number) for number in range(500)]
    with pytest.raises(ValueError, match="the third"):
        run_jobs(jobs, 500, num_workers=num_workers, progress=False)
    assert {0, 1, 2} <= set(done)
    assert len(done) < 499


def test_a_number_of_workers_below_0_is_refused():
    with pytest.raises(ArgumentError, match="num_workers of at least 0, found -1"):
        run_jobs([], 0, num_workers=-1, progress=False)


def test_files_are_new(tmp_path):
    write_files(tmp_path / "a" / "b", ["1", "2"], [b"one", b"two"])
    assert (tmp_path / "a" / "b" / "2").read_bytes() == b"two"
    with pytest.raises(DestinationError, match=r"cannot write 2 files in .*b: File exists"):
        write_files(tmp_path / "a" / "b", ["3", "1"], [b"three", b"other"])
    assert (tmp_path / "a" / "b" / "1").read_bytes() == b"one"
    write_files(tmp_path / "empty", [], [])
    assert os.listdir(tmp_path / "empty") == []
