"""Nothing is unmapped or freed under a kernel, whoever drops what and when."""

import subprocess
import sys
from pathlib import Path

import pytest

# In a process of its own, since what it looks for kills the process. Every kernel that is given
# addresses is held up until all is dropped that may be dropped before it ends, and reads its images
# only then. Dropping the iterator is to wait for the kernel. The program prints the kernels that
# outlived that.
DROPPED = """
import gc
import sys
import threading
from itertools import permutations

import pytest

import cinicpack
from cinicpack import Augment, Loader
from cinicpack.load import samples
from tests.load.pieces import Late


def load(pack, split, **options):
    loader = Loader(pack, split, num_workers=1, batch_size=8, augment=Augment(), **options)
    return loader, iter(loader)


def augment_on_device(pack, split):
    return load(pack, split, augment_on="device")


def drop(module, make, order):
    with pytest.MonkeyPatch.context() as patched:
        late = Late(patched, module)
        pack = cinicpack.open_pack(sys.argv[1])
        split = pack["train"]
        held = [pack, split, *make(pack, split)]
        del pack, split
        assert late.begun.wait(30)
        for place in order:
            if place == 3:
                # Once its iterator is being dropped, or a little before.
                late.end.set()
            held[place] = None
            gc.collect()


# Small packs are read ahead too.
samples._READ_BYTES = 20_000
for make in load, augment_on_device:
    pack = cinicpack.open_pack(sys.argv[1])
    make(pack, pack["train"])
# Collections need not look at what was imported.
gc.collect()
gc.freeze()
for module, make in (
    ("samples", load), ("kernels.task", load), ("kernels.task", augment_on_device),
):
    for order in permutations(range(4)):
        drop(module, make, order)
    print(module, flush=True)
"""


# What a program has left when it ends is dropped amid the interpreter's own end.
LEFT = """
import sys
import cinicpack
loader = cinicpack.Loader(sys.argv[1], "train", batch_size=8, OPTIONS)
iterator = iter(loader)
batch = next(iterator)
END
"""


@pytest.mark.parametrize(
    ("options", "end"),
    [
        ("num_workers=0", ""),
        ("num_workers=2", ""),
        ("num_workers=2", "rest = list(iterator)"),
        ("num_workers=2, augment_on='device'", ""),
    ],
)
def test_what_is_left_when_the_program_ends_is_dropped_in_silence(pack, options, end):
    code = LEFT.replace("OPTIONS", options).replace("END", end)
    done = subprocess.run(
        [sys.executable, "-c", code, str(pack.path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")
    # It may say that kernels are compiled.
    assert "Traceback" not in done.stderr


def test_everything_may_be_dropped_in_any_order_under_a_kernel(pack):
    done = subprocess.run(
        [sys.executable, "-c", DROPPED, str(pack.path)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    outlived = ["samples", "kernels.task", "kernels.task"]
    assert (done.returncode, done.stdout.split()) == (0, outlived)
