import mmap

import numpy as np

from cinicpack.disk import count_resident, evict, measure_random, measure_sequential


def test_what_was_evicted_is_not_in_memory(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(np.random.default_rng(0).bytes(100_000))
    assert count_resident(file) >= 100_000
    evict(file)
    # Where files lie in memory anyway, there is nothing to evict.
    assert count_resident(file) == 0 or _is_in_memory(tmp_path)


def _is_in_memory(folder):
    with (folder / "other").open("wb") as stream:
        stream.write(bytes(mmap.PAGESIZE))
    evict(folder / "other")
    return count_resident(folder / "other") > 0


def test_rates_are_those_of_reads_that_are_done(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(bytes(300_000))
    assert measure_random(file, 3072, 0.001) > 0
    assert measure_sequential(file) > 0
