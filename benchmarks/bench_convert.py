"""The converter against the least that must be done: reading the files, unpacking the archive.

python -m benchmarks.bench_convert                          # results/convert.json
python -m benchmarks.bench_convert --jpegs jpegs.tar.xz     # CIFAR-10 as JPEG files too, if at hand
python -m benchmarks.bench_convert --against CHECKOUT       # tree and archive beside that; no file
"""

import argparse
import hashlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image

import cinicpack
from benchmarks.against import compare
from benchmarks.data import Places, add_arguments, make_archive, make_data, making
from benchmarks.machine import describe_machine, use_cores
from benchmarks.report import format_json, say
from cinicpack.store.verify import verify_pack

_PIECE, _BLOCK = 16 << 20, 256 << 10
_EXTRACTED = "extracted"
# What is measured, what it is compared with, and the ratio of times it should stay below.
_WANTED = {
    "pack the tree": ("read every file in a loop", 1.0),
    "pack the archive": ("tar -xzf", 0.75),
    "pack a split's parquet": ("decode it with datasets", 0.333),
    "pack the tree of JPEGs": ("decode the JPEGs with Pillow", 1.0),
    "pack the archive of JPEGs": ("tar -xJf", 1.0),
    "verify": ("hash the pack's bytes", 5.0),
}


def main() -> None:
    options = parse_arguments()
    threads = len(use_cores(options.cores))
    places = make_data(options)
    make_archive(places)
    # An interrupted run may have left its folder.
    shutil.rmtree(places.work / _EXTRACTED, ignore_errors=True)
    if options.against is not None:
        sources = {"pack the tree": places.tree, "pack the archive": places.archive}
        rows = compare(sources, options.against, options.rounds, places.work / "result")
        print(format_json({"machine": describe_machine(), "times": rows}))
        return
    runs, not_measured = list_runs(places, threads, options.jpegs)
    times = race(runs, options.rounds, places.work / "result")
    report = {
        "machine": describe_machine(),
        "images": sum(1 for _ in walk(places.tree)),
        "rounds": options.rounds,
        "times": [summarise(name, times) for name in times],
        "not_measured": [{"name": name, "reason": why} for name, why in not_measured.items()],
        "peak_memory": [
            measure_memory(source, places.work / "memory.pack")
            for source in (places.tree, places.archive)
        ],
    }
    output = places.output / "convert.json"
    output.write_text(format_json(report))
    print(format_json(report))
    say(f"written to {output}; now what was extracted is removed, which takes minutes")
    shutil.rmtree(places.work / _EXTRACTED)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench_convert", description=__doc__.splitlines()[0]
    )
    add_arguments(parser)
    add = parser.add_argument
    add("--rounds", type=int, default=5, help="interleaved rounds (%(default)s)")
    add("--jpegs", type=lambda text: Path(text).resolve(strict=True), metavar="ARCHIVE",
        help="CIFAR-10 as a .tar.xz of train/CLASS/NAME.jpg and test/CLASS/NAME.jpg")  # fmt: skip
    add("--against", type=lambda text: Path(text).resolve(strict=True), metavar="CHECKOUT",
        help="pack by this checkout and by another in turns, and print the ratios")  # fmt: skip
    options = parser.parse_args()
    if options.quick:
        options.rounds = 2
    return options


def list_runs(
    places: Places, threads: int, jpegs: Path | None
) -> tuple[dict[str, Callable[[], Any]], dict[str, str]]:
    """List what takes turns, and why some of what could is left out."""
    place = places.work / "result"
    not_measured: dict[str, str] = {}

    def read_files() -> None:
        for path in paths:
            open(path, "rb").read()

    def pack(source: Path) -> Callable[[], Any]:
        return lambda: cinicpack.pack(source, place, progress=False)

    parquet: dict[str, Callable[[], Any]] = {}
    if find_spec("datasets") is None:
        not_measured["pack a split's parquet"] = "datasets is not installed"
    else:
        from benchmarks.parquet import make_parquet, prepare_decoding

        file = make_parquet(places)
        parquet["decode it with datasets"] = prepare_decoding(file)
        parquet["pack a split's parquet"] = pack(file)
    of_jpegs: dict[str, Callable[[], Any]] = {}
    if jpegs is None:
        for name in ("pack the tree of JPEGs", "pack the archive of JPEGs"):
            not_measured[name] = "no archive of JPEG files was given (--jpegs)"
    else:
        tree = extract_jpegs(jpegs, places.work / "jpegs")
        of_jpegs = {
            "decode the JPEGs with Pillow": partial(decode_files, tree, threads),
            "pack the tree of JPEGs": pack(tree),
            "tar -xJf": partial(unpack, jpegs, "-xJf", places.work),
            "pack the archive of JPEGs": pack(jpegs),
        }
    paths = [entry for entry in walk(places.tree) if entry.endswith(".png")]
    runs: dict[str, Callable[[], Any]] = {
        "read every file in a loop": read_files,
        "pack the tree": pack(places.tree),
        "tar -xzf": partial(unpack, places.archive, "-xzf", places.work),
        "pack the archive": pack(places.archive),
        **parquet,
        **of_jpegs,
        "hash the pack's bytes": lambda: hash_files(places.pack, threads),
        "verify": lambda: verify_pack(places.pack, num_workers=threads),
    }
    for name, why in not_measured.items():
        say(f"{name}: not measured: {why}")
    return runs, not_measured


def unpack(archive: Path, how: str, work: Path) -> None:
    """Unpack an archive to a new folder; all of these are removed at the end.

    ext4 takes up to ten times as long to make files where as many were removed a moment ago.
    """
    (work / _EXTRACTED).mkdir(exist_ok=True)
    folder = tempfile.mkdtemp(dir=work / _EXTRACTED)
    subprocess.run(["tar", how, archive, "-C", folder], check=True)


def extract_jpegs(archive: Path, tree: Path) -> Path:
    """Extract the tree of JPEG files, if it is not there yet."""
    if not tree.exists():
        with making(tree) as unfinished:
            unfinished.mkdir()
            subprocess.run(["tar", "-xJf", archive, "-C", unfinished], check=True)
    return tree


def decode_files(tree: Path, threads: int) -> None:
    """Decode all images with Pillow, which lets other threads run meanwhile."""

    def decode(paths: list[str]) -> None:
        for path in paths:
            with Image.open(path) as image:
                image.convert("RGB")

    paths = list(walk(tree))
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(decode, [paths[number::threads] for number in range(threads)]))


def race(runs: dict[str, Callable[[], Any]], rounds: int, place: Path) -> dict[str, list[float]]:
    """Return seconds of wall time, one figure a round, after one round that warms up.

    What a run leaves at ``place`` is removed.
    """
    shutil.rmtree(place, ignore_errors=True)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            # Write the last run's data to the disk now, outside of the next run's time.
            os.sync()
            start = time.perf_counter()
            run()
            spent = time.perf_counter() - start
            shutil.rmtree(place, ignore_errors=True)
            say(f"round {number}: {name}: {spent:.2f} s")
            if number:
                times[name].append(spent)
    return times


def summarise(name: str, times: dict[str, list[float]]) -> dict[str, Any]:
    values = times[name]
    row: dict[str, Any] = {
        "name": name,
        "median_s": round(statistics.median(values), 3),
        "lowest_s": round(min(values), 3),
        "highest_s": round(max(values), 3),
    }
    if name in _WANTED:
        base, wanted = _WANTED[name]
        ratio = statistics.median(a / b for a, b in zip(values, times[base], strict=True))
        row |= {"base": base, "ratio": round(ratio, 3), "wanted": wanted}
        row["reached"] = ratio <= wanted
    return row


def hash_files(pack: Path, threads: int) -> None:
    """Hash every file of a pack and do nothing else: the least that a check has to do."""
    pieces = [
        (file, start)
        for file in pack.rglob("*.npy")
        for start in range(0, file.stat().st_size, _PIECE)
    ]

    def hash_piece(piece: tuple[Path, int]) -> str:
        file, start = piece
        digest, left = hashlib.sha256(), _PIECE
        with file.open("rb", buffering=0) as stream:
            stream.seek(start)
            while left and (block := stream.read(min(left, _BLOCK))):
                digest.update(block)
                left -= len(block)
        return digest.hexdigest()

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(hash_piece, pieces))


def measure_memory(source: Path, place: Path) -> dict[str, Any]:
    """Watch all processes of one conversion, twenty times a second."""
    program = "import cinicpack, sys; cinicpack.pack(sys.argv[1], sys.argv[2], progress=False)"
    # An interrupted run may have left its folder.
    shutil.rmtree(place, ignore_errors=True)
    process = subprocess.Popen([sys.executable, "-c", program, str(source), str(place)])
    peaks = {"Pss": 0, "Pss_Anon": 0}
    while process.poll() is None:
        sums = dict.fromkeys(peaks, 0)
        for pid in list_family(process.pid):
            for field, kilobytes in read_memory(pid):
                if field in sums:
                    sums[field] += kilobytes
        peaks = {field: max(peaks[field], sums[field]) for field in peaks}
        time.sleep(0.05)
    shutil.rmtree(place, ignore_errors=True)
    if process.returncode:
        raise SystemExit(f"packing {source} failed")
    # Anonymous memory is shown beside Pss, because Pss also counts pages of files, such as the
    # pack's, that the kernel can take back.
    return {
        "source": "archive" if source.is_file() else "tree",
        "all_mb": round(peaks["Pss"] / 1e3),
        "anonymous_mb": round(peaks["Pss_Anon"] / 1e3),
    }


def list_family(pid: int) -> Iterator[int]:
    """Give a process and all that descend from it."""
    yield pid
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return
    for child in children:
        yield from list_family(int(child))


def read_memory(pid: int) -> Iterator[tuple[str, int]]:
    """Give the fields of a process's memory in kilobytes; none if it has just ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return
    for line in lines:
        field, kilobytes = line.split()[:2]
        yield field.rstrip(":"), int(kilobytes)


def walk(tree: Path) -> Iterator[str]:
    for folder, _, files in os.walk(tree):
        for file in sorted(files):
            yield f"{folder}/{file}"


if __name__ == "__main__":
    main()
