"""Threads hold what they use: nothing is unmapped under a kernel, whoever drops what and when."""

import subprocess
import sys
from pathlib import Path

# In a process of its own, since what it looks for kills the process. Every kernel that is given
# addresses waits until everything is dropped, and reads its images only then. It prints the kernels
# that outlived that.
DROPPED = """
import gc
import sys
import threading
from itertools import permutations

import cinicpack
from cinicpack import Augment, Loader, bench
from cinicpack.load import samples

started, dropped = threading.Semaphore(0), threading.Event()


def late(kernel):
    def run(*arguments):
        started.release()
        dropped.wait()
        return kernel(*arguments)

    return run


def load(pack, split, **options):
    loader = Loader(pack, split, num_workers=2, batch_size=8, augment=Augment(), **options)
    return loader, iter(loader)


def gather(pack, split):
    return bench.make_bound(split, 8, 2), None


def augment_on_device(pack, split):
    return load(pack, split, augment_on="device")


def drop(make, order):
    dropped.clear()
    pack = cinicpack.open_pack(sys.argv[1])
    split = pack["train"]
    held = [pack, split, *make(pack, split)]
    del pack, split
    started.acquire()
    for place in order:
        held[place] = None
        gc.collect()
    dropped.set()
    for thread in threading.enumerate():
        if thread.name == "cinicpack":
            thread.join()
    while started.acquire(blocking=False):
        pass


# Collections need not look at what was imported.
gc.freeze()
fill_kernel = samples.fill_kernel
for module, name, kernel, make in (
    (samples, "touch", late(samples.touch), load),
    (samples, "fill_kernel", lambda *choice: late(fill_kernel(*choice)), load),
    (samples, "fill_kernel", lambda *choice: late(fill_kernel(*choice)), augment_on_device),
    (bench, "_gather_convert", late(bench._gather_convert), gather),
):
    before = getattr(module, name)
    setattr(module, name, kernel)
    for order in permutations(range(4)):
        drop(make, order)
    setattr(module, name, before)
    print(name, flush=True)
"""


def test_everything_may_be_dropped_in_any_order_under_a_kernel(pack):
    done = subprocess.run(
        [sys.executable, "-c", DROPPED, str(pack.path)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
        timeout=100,
        check=False,
    )
    outlived = ["touch", "fill_kernel", "fill_kernel", "_gather_convert"]
    assert (done.returncode, done.stdout.split()) == (0, outlived)
