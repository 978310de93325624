"""The loader against the limit of its kernel, and what it costs besides time.

python -m benchmarks.bench_loader      # results/loader.json
"""

import argparse
import atexit
import gc
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import cinicpack
from benchmarks.data import Places, add_arguments, make_data
from benchmarks.machine import describe_machine, use_cores
from benchmarks.race import Case, measure_rates, race
from benchmarks.report import format_json, say
from cinicpack.disk import count_resident, evict, measure_random, measure_sequential
from cinicpack.limit import Limit, find_limit, is_large, make_plain, name_cache
from cinicpack.store.split import Split

_ROOT = Path(__file__).parents[1]
# Where memory cgroups are, of version 1 or 2, and the file of a group's limit.
_GROUPS = {
    Path("/sys/fs/cgroup/memory"): "memory.limit_in_bytes",
    Path("/sys/fs/cgroup"): "memory.max",
}
# Seconds after which the host of a virtual machine has taken back what is free.
_SETTLES = 4


def main() -> None:
    if len(sys.argv) > 2 and sys.argv[1] == "measure":
        print(json.dumps(_MEASURES[sys.argv[2]](*sys.argv[3:])))
        return
    options = parse_arguments()
    threads = len(use_cores(options.cores))
    places = make_data(options)
    packs = make_packs(places)
    split = cinicpack.open_pack(packs["npy"])["train"]
    cases = [*list_cases(packs, split, threads), *list_choices(split, threads)]
    report: dict[str, Any] = {
        "machine": describe_machine(),
        "threads": threads,
        "rounds": options.rounds,
        "rates": race(cases, options.rounds, options.seconds),
        "limits": {
            case.name: f"{limit}, in {name_cache(limit.nbytes, threads)}"
            for case in cases
            if isinstance(limit := getattr(case.run, "__self__", None), Limit)
        },
    }
    # Unmap the file: it could otherwise not be dropped from the page cache.
    del split, cases
    gc.collect()
    plain = str(packs["npy"])
    for name, arguments, repeats in (
        ("import", (), 5),
        ("first batch", (plain, threads), 5),
        ("first batch without a cache", (plain, threads), 1),
        ("next() of a finished batch", (plain, threads), 3),
        ("a consumer that is slower", (plain, threads), 3),
        ("1,000 loaders", (plain, threads), 3),
        ("training thread", (plain, 512), 3),
        ("memory", (plain, threads, 10 if options.quick else 200), 1),
        ("cold page cache", (plain, threads, "train", "before"), 3),
        ("cold page cache", (plain, threads, "train+valid+test", "before"), 3),
        ("cold page cache", (plain, threads, "train", "within"), 3),
        ("more images than memory", (packs["noise"], threads), 1),
        ("in memory", (packs["noise"],), 3),
    ):
        title = " ".join((name, *map(str, arguments[2:]))) if name in report else name
        say(title)
        results = [measure(name, *arguments) for _ in range(1 if options.quick else repeats)]
        report[title] = summarise(results)
        say(f"  {report[title]}")
    output = places.output / "loader.json"
    output.write_text(format_json(report))
    for row in report["rates"]:
        say(json.dumps(row))
    say(f"written to {output}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench_loader", description=__doc__.splitlines()[0]
    )
    add_arguments(parser)
    parser.add_argument("--rounds", type=int, default=7, help="interleaved rounds (%(default)s)")
    parser.add_argument("--seconds", type=float, default=0.6, help="of each row and round")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = 2, 0.05
    return options


def make_packs(places: Places) -> dict[str, Path]:
    """Make the train split's other forms, and one with images of 64x64 and as many bytes."""
    make = partial(cinicpack.pack, splits=["train"], progress=False)
    hdf5, sharded = places.work / "train.h5", places.work / "train-sharded.pack"
    large, tree = places.work / "large.pack", places.work / "large-tree"
    count = len(cinicpack.open_pack(places.pack)["train"])
    if not hdf5.exists():
        make(places.tree, hdf5, format="hdf5")
    if not sharded.exists():
        make(places.tree, sharded, shard_rows=max(1, count // 9))
    if not large.exists():
        # An interrupted run may have left its tree.
        shutil.rmtree(tree, ignore_errors=True)
        tool = [sys.executable, "tools/make_tree.py", str(tree), "--size", "64"]
        subprocess.run([*tool, "--per-class", str(max(1, count // 40))], cwd=_ROOT, check=True)
        make(tree, large)
        shutil.rmtree(tree)
    noise = places.work / "noise.pack"
    if not noise.exists():
        # More than 2 GB for 90,000 images.
        make_noise_pack(noise, 8 * count)
    return {"npy": places.pack, "hdf5": hdf5, "sharded": sharded, "64x64": large, "noise": noise}


def make_noise_pack(path: Path, count: int) -> None:
    """Make a pack of noise, of images of 32x32, by way of a file that is mapped."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        images = np.lib.format.open_memmap(
            Path(folder) / "images.npy", "w+", np.uint8, (count, 3, 32, 32)
        )
        for start in range(0, count, 10_000):
            part = images[start : start + 10_000]
            part[:] = rng.integers(0, 256, part.shape, np.uint8)
        arrays = {"train": (images, np.arange(count) % 10)}
        cinicpack.pack_arrays(arrays, path, classes=cinicpack.cinic10.CLASSES, progress=False)


def list_cases(packs: dict[str, Path], split: Split, threads: int) -> list[Case]:
    """List what is measured, first each type and size of batch beside the limit of its kernel."""
    turn = 4 * len(split)

    def make(form: str = "npy", split: str = "train", **options: Any) -> cinicpack.Loader:
        options = {"batch_size": 512, "num_workers": threads, **options}
        return cinicpack.Loader(packs[form], split, augment=cinicpack.Augment(), **options)

    def load(form: str = "npy", split: str = "train", **options: Any) -> Callable[[], int]:
        return partial(_load, make(form, split, **options), turn)

    cases: list[Case] = []
    for dtype in ("float32", "bfloat16", "uint8"):
        for size in (64, 128, 512, 2048):
            loader = make(dtype=dtype, batch_size=size)
            name = f"limit: {dtype}"
            if is_large(loader):
                name += f", batches of {size}"
            if all(case.name != name for case in cases):
                cases.append(Case(name, find_limit(loader, threads).run))
            wanted = 0.85 if size == 64 else 0.9
            cases.append(Case(f"{dtype}, batch {size}", partial(_load, loader, turn), name, wanted))
    # What bounds float32 most is the memory that batches live in: the same kernel, round as many
    # whole batches as there are at once, the user's among them.
    for size, alive in ((64, 7), (128, 4), (512, 3)):
        limit = Limit(make(batch_size=size), threads, -(-size // threads), alive)
        name = f"float32, kernel alone round {alive} batches of {size}"
        cases.append(Case(name, limit.run, "limit: float32"))
    cases.append(Case("float32, gather and multiply-add alone", make_plain(make(), threads).run))
    plain, classes = "float32, batch 512", cinicpack.cinic10.CLASSES[::2]
    return [
        *cases,
        Case("one thread", load(num_workers=1), plain),
        Case("float16", load(dtype="float16"), plain, 1.2),
        Case("channels_last", load(channels_last=True), plain, 0.9),
        Case("64x64, in 32x32 images' bytes", load("64x64"), plain, 0.8, weight=4),
        Case("train+valid", load(split="train+valid"), plain, 0.97),
        Case("source=imagenet", load(source="imagenet"), plain, 0.97),
        Case("source=cifar10", load(source="cifar10"), plain, 0.97),
        Case("five classes", load(classes=classes), plain, 0.97),
        Case("HDF5", load("hdf5"), plain, 0.97),
        Case("sharded", load("sharded"), plain, 0.97),
    ]


def list_choices(split: Split, threads: int) -> list[Case]:
    """List what goes into a batch beside or instead of every image once; two views count as one."""
    augment = cinicpack.Augment()
    views, weights = [augment, augment], 1.0 + 9 * (split.labels == 3)

    def load(augment: cinicpack.Augment | None = augment, **options: Any) -> Callable[[], int]:
        options |= {"augment": augment, "batch_size": 512, "num_workers": threads}
        return partial(_load, cinicpack.Loader(split.pack, split, **options), 4 * len(split))

    plain = "one view, labels of the pack, shuffled"
    return [
        Case(plain, load()),
        Case("two views", load(None, views=views), plain, 0.45),
        Case("labels of one's own", load(labels=split.labels), plain, 0.95),
        Case("labels of ten columns", load(labels=np.eye(10)[split.labels]), plain, 0.95),
        Case("order by weights", load(order=weights), plain, 0.95),
        Case("MixUp", load(mix=cinicpack.MixUp()), plain, 0.5),
        Case("CutMix", load(mix=cinicpack.CutMix()), plain, 0.5),
    ]


def measure(name: str, *arguments: Any) -> dict[str, Any]:
    """Measure in a fresh process, whose last line is the result."""
    with tempfile.TemporaryDirectory() as cache:
        environment = dict(os.environ)
        if name == "first batch without a cache":
            environment["NUMBA_CACHE_DIR"] = cache
        process = subprocess.run(
            [sys.executable, "-m", "benchmarks.bench_loader", "measure", name]
            + [str(argument) for argument in arguments],
            cwd=_ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    if process.returncode:
        raise SystemExit(f"{name}: {process.stderr}")
    result = dict(json.loads(process.stdout.splitlines()[-1]))
    if name == "first batch without a cache":
        result["says"] = process.stderr.strip()
    return result


def summarise(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Take the median of each number over the repeats."""
    return {
        key: value
        if isinstance(value, str | bool)
        else round(statistics.median(result[key] for result in results), 4)
        for key, value in results[0].items()
    }


def measure_import() -> dict[str, Any]:
    """Time ``import cinicpack`` by itself, in a process that has imported nothing else."""
    program = (
        "import time; start = time.perf_counter(); import cinicpack, sys; "
        "print(time.perf_counter() - start, 'torch' in sys.modules)"
    )
    output = subprocess.check_output([sys.executable, "-c", program], text=True).split()
    return {"seconds": float(output[0]), "imports_torch": output[1] == "True"}


def measure_first_batch(pack: str, threads: str) -> dict[str, Any]:
    import numba  # noqa: F401
    import torch  # noqa: F401

    from cinicpack import Loader

    start = time.perf_counter()
    loader = Loader(pack, batch_size=512, augment=cinicpack.Augment(), num_workers=int(threads))
    made = time.perf_counter()
    next(iter(loader))
    end = time.perf_counter()
    return {"constructed_s": made - start, "first_batch_s": end - start}


def measure_next(pack: str, threads: str) -> dict[str, Any]:
    """Time ``next()`` where the batch is there: the consumer works longer than the loader does.

    The mean has the wakes of sleeping threads in it, one for every second batch.
    """
    result = {}
    for size in (32, 128, 512, 2048):
        loader = cinicpack.Loader(
            pack, batch_size=size, augment=cinicpack.Augment(), num_workers=int(threads)
        )
        _count(loader)
        iterator, times = iter(loader), []
        for _ in range(min(300, len(loader))):
            _work(2e-4 + 2e-6 * size)
            start = time.perf_counter()
            next(iterator)
            times.append(time.perf_counter() - start)
        result[f"batch_{size}_mean_us"] = 1e6 * statistics.mean(times[3:])
        result[f"batch_{size}_median_us"] = 1e6 * statistics.median(times[3:])
    return result


def measure_slow_consumer(pack: str, threads: str) -> dict[str, Any]:
    """Let a consumer sleep 10 ms a batch: what the threads take beside what batches take.

    That is what it takes more than one that sleeps as long, and makes its batches itself. Then let
    it sleep for a second, and see who is awake meanwhile.
    """
    shares: dict[int, list[float]] = {0: [], int(threads): []}
    options: Any = {"batch_size": 128, "augment": cinicpack.Augment()}
    loaders = {
        workers: cinicpack.Loader(pack, num_workers=workers, **options) for workers in shares
    }
    for loader in loaders.values():
        _count(loader)
    for _ in range(5):
        for workers, loader in loaders.items():
            iterator = iter(loader)
            next(iterator)
            switches, start, used = _read_switches(), time.perf_counter(), time.process_time()
            for _ in range(100):
                time.sleep(0.01)
                next(iterator)
            used = time.process_time() - used
            shares[workers].append(used / (time.perf_counter() - start))
            switches = _read_switches() - switches
    idle, used = _read_switches(), time.process_time()
    time.sleep(1)
    used = time.process_time() - used
    alone, shared = map(statistics.median, shares.values())
    return {
        "core_beside_batches": shared - alone,
        "switches_a_batch": switches / 100,
        "core_while_it_sleeps": used,
        "switches_while_it_sleeps": _read_switches() - idle,
    }


def measure_thousand(pack: str, threads: str) -> dict[str, Any]:
    """Use 1,000 loaders of 250 rows in turn, for two epochs each, beside one of all these rows."""
    split = cinicpack.open_pack(pack)["train"]
    rows = np.random.default_rng(0).permutation(len(split))
    parts = [split.select(indices=np.roll(rows, -250 * number)[:250]) for number in range(1000)]
    options: Any = {"batch_size": 20, "augment": cinicpack.Augment(), "seed": 1, "epoch": 0}
    options["num_workers"] = int(threads)
    one = cinicpack.Loader(split.pack, split, **options)
    small = cinicpack.Loader(split.pack, parts[0], **options)
    rates = []
    for loader, epochs in ((one, 3), (small, 300)):
        _count(loader)
        start = time.perf_counter()
        images = sum(_count(loader) for _ in range(epochs))
        rates.append(images / (time.perf_counter() - start))
    before, start = _read_anonymous(), time.perf_counter()
    loaders = [cinicpack.Loader(split.pack, part, **options) for part in parts]
    made, start = time.perf_counter() - start, time.perf_counter()
    images = sum(_count(loader) + _count(loader) for loader in loaders)
    rate = images / (time.perf_counter() - start)
    return {
        "images_s": rate,
        "of_one_loader_over_all_rows": rate / rates[0],
        "of_one_loader_over_250_rows": rate / rates[1],
        "make_one_us": 1e3 * made,
        "anonymous_mb_more": _read_anonymous() - before,
        "threads": threading.active_count(),
    }


def measure_training_thread(pack: str, size: str) -> dict[str, Any]:
    """Multiply matrices on one core, a step a batch of 512, fed by one thread of the loader."""
    import torch

    torch.set_num_threads(1)
    a, b = torch.rand(2, int(size), int(size)).unbind()
    out = torch.empty_like(a)
    loader = cinicpack.Loader(pack, batch_size=512, augment=cinicpack.Augment(), num_workers=1)
    steps = len(loader)
    _count(loader)

    def run(batches: Any) -> float:
        start = time.perf_counter()
        for _ in batches:
            torch.matmul(a, b, out=out)
        return steps / (time.perf_counter() - start)

    run(range(steps))
    rates = [(run(range(steps)), run(loader)) for _ in range(7)]
    alone, fed = (statistics.median(values) for values in zip(*rates, strict=True))
    kept = statistics.median(fed / alone for alone, fed in rates)
    return {"steps_alone": alone, "steps_fed": fed, "kept": kept}


def measure_memory(pack: str, threads: str, epochs: str) -> dict[str, Any]:
    """Watch the anonymous memory of this process."""
    import numba  # noqa: F401
    import torch  # noqa: F401

    from cinicpack import Loader

    imports = _read_anonymous()
    loader = Loader(pack, batch_size=512, augment=cinicpack.Augment(), num_workers=int(threads))
    after = {}
    for epoch in range(1, int(epochs) + 1):
        _count(loader)
        after[epoch] = _read_anonymous()
    return {
        "imports_mb": imports,
        "after_2_epochs_mb": after[2],
        f"after_{epochs}_epochs_mb": after[int(epochs)],
        "above_imports_mb": max(after.values()) - imports,
    }


def measure_cold(pack: str, threads: str, split: str, loads_kernels: str) -> dict[str, Any]:
    """Time the first epoch beside a plain read of the same files and a warm epoch.

    Before each, the files are evicted, and a few seconds go by: a virtual machine's host takes
    memory back that is free, and to get it again takes longer than to read from the disk. Memory
    that an eviction has just freed would make what comes next look several times as fast.
    """
    import numba  # noqa: F401
    import torch  # noqa: F401

    files = [Path(pack) / name / "images-00000.npy" for name in split.split("+")]
    megabytes = sum(file.stat().st_size for file in files) / 1e6
    if loads_kernels == "before":
        some = cinicpack.open_pack(pack)["test"].select(indices=range(2048))
        _count(cinicpack.Loader(some.pack, some, augment=cinicpack.Augment()))
        # Unmap the files, whose pages could otherwise not be evicted.
        del some
        gc.collect()
    _make_cold(files)
    plain = [_read_plainly(files)]
    _make_cold(files)
    before, start = _read_from_disk(), time.perf_counter()
    options: Any = {"batch_size": 512, "num_workers": int(threads)}
    loader = cinicpack.Loader(pack, split, augment=cinicpack.Augment(), **options)
    images = _count(loader)
    cold = time.perf_counter() - start
    read = _read_from_disk() - before
    warm_rate = measure_rates([Case("warm", partial(_count, loader))], 1)[0]
    del loader
    gc.collect()
    _make_cold(files)
    plain.append(_read_plainly(files))
    expected = statistics.mean(plain) + images / warm_rate
    return {
        "files_mb": megabytes,
        "plain_read_before_mb_s": megabytes / plain[0],
        "plain_read_after_mb_s": megabytes / plain[1],
        "cold_epoch_images_s": images / cold,
        "warm_epoch_images_s": warm_rate,
        "of_plain_read_and_warm_epoch": cold / expected,
        "read_from_disk_mb": read,
    }


def measure_scarce(pack: str, threads: str) -> dict[str, Any]:
    """Load images four times as large as the memory for them, beside what the disk does.

    In a memory cgroup with what this process has after its imports, and a quarter of the images.
    """
    folder = _enter_group()
    if folder is None:
        return {"skipped": "no memory cgroup of version 1 or 2 can be made here"}
    split = cinicpack.open_pack(pack)["train"]
    file, image_bytes = Path(pack) / "train" / "images-00000.npy", 3 * 32 * 32
    options: Any = {"batch_size": 512, "augment": cinicpack.Augment(), "num_workers": int(threads)}
    part = split.select(indices=range(2048))
    _count(cinicpack.Loader(split.pack, part, **options))
    del part, split
    gc.collect()
    evict(file)
    limit = int(1e6 * _read_anonymous()) + file.stat().st_size // 4
    _limit_file(folder).write_text(str(limit))
    rates: dict[str, list[float]] = {}
    for _ in range(3):
        rates.setdefault("disk_random_s", []).append(measure_random(file, image_bytes))
        rates.setdefault("disk_in_order_mb_s", []).append(measure_sequential(file) / 1e6)
        for name, shuffle in (("shuffled", True), ("blocks", "blocks"), ("in_order", False)):
            loader = cinicpack.Loader(pack, shuffle=shuffle, **options)
            rates.setdefault(f"{name}_images_s", []).append(_count_for(loader, 5))
            del loader
    median = {name: statistics.median(each) for name, each in rates.items()}
    in_order = 1e6 * median["disk_in_order_mb_s"] / image_bytes
    return {
        "limit_mb": limit / 1e6,
        "images_mb": file.stat().st_size / 1e6,
        **median,
        "shuffled_of_disk": median["shuffled_images_s"] / median["disk_random_s"],
        "blocks_of_disk": median["blocks_images_s"] / in_order,
    }


def measure_in_memory(pack: str) -> dict[str, Any]:
    """Open a pack in memory beside a plain read of its images."""
    files = [Path(pack) / "train" / "images-00000.npy"]
    rates = []
    for run in (partial(_read_plainly, files), partial(_open_in_memory, pack)):
        _make_cold(files)
        rates.append(files[0].stat().st_size / 1e6 / run())
    return {"plain_read_mb_s": rates[0], "in_memory_mb_s": rates[1], "ratio": rates[1] / rates[0]}


_MEASURES: dict[str, Callable[..., dict[str, Any]]] = {
    "import": measure_import,
    "first batch": measure_first_batch,
    "first batch without a cache": measure_first_batch,
    "next() of a finished batch": measure_next,
    "a consumer that is slower": measure_slow_consumer,
    "1,000 loaders": measure_thousand,
    "training thread": measure_training_thread,
    "memory": measure_memory,
    "cold page cache": measure_cold,
    "more images than memory": measure_scarce,
    "in memory": measure_in_memory,
}


def _count(loader: cinicpack.Loader) -> int:
    return sum(len(labels) for *_, labels in loader)


def _load(loader: cinicpack.Loader, images: int) -> int:
    """Load whole epochs of that many images or more."""
    count = 0
    while count < images:
        count += _count(loader)
    return count


def _work(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def _read_switches() -> int:
    """Count how often threads of this process have gone to sleep."""
    texts = [path.read_text() for path in Path("/proc/self/task").glob("*/status")]
    return sum(int(text.split("\nvoluntary_ctxt_switches:")[1].split()[0]) for text in texts)


def _read_anonymous() -> float:
    text = Path("/proc/self/status").read_text()
    return int(text.split("RssAnon:")[1].split()[0]) / 1e3


def _read_from_disk() -> float:
    text = Path("/proc/self/io").read_text()
    return int(text.split("read_bytes:")[1].split()[0]) / 1e6


def _make_cold(files: list[Path]) -> None:
    """Evict files, see that they are, and let the host take back the memory that they had."""
    for file in files:
        evict(file)
        if resident := count_resident(file):
            raise SystemExit(f"{file}: {resident:,} bytes stay in memory: some process has it open")
    time.sleep(_SETTLES)


def _read_plainly(files: list[Path]) -> float:
    """Read files from start to end; return the seconds."""
    buffer, start = bytearray(8 << 20), time.perf_counter()
    for file in files:
        with file.open("rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass
    return time.perf_counter() - start


def _open_in_memory(pack: str) -> float:
    start = time.perf_counter()
    cinicpack.open_pack(pack, in_memory=True)
    return time.perf_counter() - start


def _count_for(loader: cinicpack.Loader, seconds: float) -> float:
    """Load batches of epochs for a while; return images per second."""
    count, start = 0, time.perf_counter()
    while True:
        for _, labels in loader:
            count += len(labels)
            if (elapsed := time.perf_counter() - start) > seconds:
                return count / elapsed


def _enter_group() -> Path | None:
    """Make a memory cgroup and enter it; None: this process may not, or there are none."""
    for root in _GROUPS:
        folder = root / f"cinicpack-{os.getpid()}"
        try:
            folder.mkdir()
            atexit.register(_leave_group, folder)
            (folder / "cgroup.procs").write_text(str(os.getpid()))
            if _limit_file(folder).exists():
                return folder
        except OSError:
            continue
    return None


def _limit_file(folder: Path) -> Path:
    return folder / _GROUPS[folder.parent]


def _leave_group(folder: Path) -> None:
    (folder.parent / "cgroup.procs").write_text(str(os.getpid()))
    folder.rmdir()


if __name__ == "__main__":
    main()
