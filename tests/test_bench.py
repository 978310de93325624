import re

import pytest

import cinicpack
from cinicpack.bench import Bench, Scarce, format_bench, run_bench

BUFFERS = "2 x 64 images a thread, in the L2 cache"


def name_bottleneck(loader: float, files: float | None = None) -> str:
    text = format_bench(Bench("train", 900, 128, 2, loader, 100.0, BUFFERS, files))
    return text.rpartition("\n")[2]


@pytest.mark.parametrize(
    ("loader", "percent", "verdict"),
    [
        (12.0, 12, "The rest goes into memory"),
        (79.4, 79, "The rest goes into memory"),
        (79.6, 80, "The bottleneck is the kernel."),
        (104.0, 104, "The bottleneck is the kernel."),
    ],
)
def test_the_bottleneck_is_named_by_the_share_that_is_shown(loader, percent, verdict):
    assert name_bottleneck(loader).startswith(
        f"The loader reaches {percent}% of what its kernel does alone on these cores, writing to "
        f"{BUFFERS}. {verdict}"
    )


def test_reading_files_is_compared_with_the_loader():
    assert name_bottleneck(90.0, 0.5).endswith(
        "Reading files is 180 times slower: its bottleneck is decoding."
    )
    text = format_bench(Bench("train", 900, 128, 2, 90.0, 100.0, BUFFERS, 0.5))
    assert re.findall(r" ([\d.]+x)", text) == ["1.0x", "180.0x", "200.0x"]


def test_the_disk_is_named_where_images_do_not_fit():
    scarce = Scarce(2_150_000_000, 500_000_000, 300.0, 400.0)
    text = format_bench(Bench("train", 900, 128, 2, 80.0, 100.0, "", None, scarce))
    assert re.findall(r" ([\d.]+x)", text) == ["1.0x", "1.2x", "3.8x", "5.0x"]
    assert text.endswith(
        "The images take 2,150 MB, and 500 MB of memory are left: every epoch reads them again. "
        "The bottleneck is the disk: the loader has 80% of what it reads of single images, and "
        'shuffle="blocks" 75% of what it reads in order.'
    )


def test_images_that_do_not_fit_are_measured_beside_the_disk(npy_pack, monkeypatch):
    monkeypatch.setattr("cinicpack.bench.find_available", lambda: 1000)
    pack = cinicpack.open_pack(npy_pack)
    bench = run_bench(pack, batch_size=4, round_seconds=0.001)
    assert bench.scarce is not None
    assert bench.scarce.left == 1000
    assert bench.scarce.needed == 3 * 12 * 12 * len(pack["train"])
    assert min(bench.loader, bench.limit, bench.scarce.blocks, bench.scarce.in_order) > 0
