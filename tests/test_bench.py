import re
import threading

import numpy as np
import pytest

import cinicpack
from cinicpack.bench import Bench, format_bench, make_bound


def name_bottleneck(loader: float, files: float | None = None) -> str:
    text = format_bench(Bench("train", 900, 128, 2, loader, 100.0, files))
    return text.rpartition("\n")[2]


@pytest.mark.parametrize(
    ("loader", "verdict"),
    [
        (12.0, "reaches 12% of the bound: the rest goes into cropping"),
        (79.4, "reaches 79% of the bound: the rest goes into cropping"),
        (79.6, "reaches 80% of the bound: the bottleneck is to read images and to write float32"),
        (100.4, "reaches 100% of the bound: the bottleneck is to read images"),
        (171.0, "is at the bound: the bottleneck is to read images"),
    ],
)
def test_the_bottleneck_is_named_by_the_share_that_is_shown(loader, verdict):
    assert name_bottleneck(loader).startswith(f"The loader {verdict}")


def test_reading_files_is_compared_with_the_loader():
    assert name_bottleneck(90.0, 0.5).endswith(
        "Reading PNG files is 180 times slower: its bottleneck is decoding."
    )
    text = format_bench(Bench("train", 900, 128, 2, 90.0, 100.0, 0.5))
    assert re.findall(r" ([\d.]+x)", text) == ["1.0x", "180.0x", "200.0x"]


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("batch_size", [1, 5, 12, 512])
def test_the_bound_counts_the_images_of_every_run(npy_pack, batch_size, threads):
    split = cinicpack.open_pack(npy_pack)["train"]
    # So that the split is more than one job.
    run = make_bound(split, batch_size, threads, job_bytes=3 * 3 * 12 * 12 * 4)
    assert [run() for _ in range(4)] == [12] * 4


def test_every_run_of_the_bound_takes_each_image_once(npy_pack, monkeypatch):
    split = cinicpack.open_pack(npy_pack)["train"]
    taken: list[int] = []
    monkeypatch.setattr(
        "cinicpack.bench._gather_convert", lambda order, out, size: taken.extend(order.tolist())
    )
    run = make_bound(split, 5, 0, job_bytes=0)
    for _ in range(3):
        run()
    runs = np.sort(np.reshape(taken, (3, 12)), axis=1)
    assert (runs == np.sort(split.addresses())).all()


def test_the_threads_of_the_bound_go_on_from_run_to_run_and_end_with_it(npy_pack):
    before = set(threading.enumerate())
    run = make_bound(cinicpack.open_pack(npy_pack)["train"], 5, 2)
    run()
    threads = set(threading.enumerate()) - before
    assert len(threads) == 2
    run()
    assert set(threading.enumerate()) - before == threads
    del run
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
