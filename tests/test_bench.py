import re

import pytest

from cinicpack.bench import Bench, format_bench

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
