"""The paths to a GPU: against plain copies, against airbench's scheme, and in a training loop.

tools/gpu --images ARCHIVE                              # with its tests; writes results/gpu.json
python -m benchmarks.bench_gpu                          # without them, and only prints
python -m benchmarks.bench_gpu --quick --device cpu     # does it run? its figures mean nothing
"""

import argparse
import gc
import importlib.metadata
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

import cinicpack
from benchmarks.gpu import bus, resident, training
from benchmarks.gpu.images import make_noise, read_jpegs
from benchmarks.gpu.setting import Setting, Sizes
from benchmarks.gpu.training import train_on
from benchmarks.machine import describe_machine
from benchmarks.race import race
from benchmarks.report import format_json, say
from cinicpack import cinic10
from cinicpack.cores import usable_cores

_ROOT = Path(__file__).parents[1]
_TESTS = "tests/load/test_gpu.py"
_FULL = Sizes(per_class=9000, batch=512, large=8192, width=64, epochs=20, repeats=100)
_QUICK = Sizes(per_class=2, batch=8, large=16, width=4, epochs=1, repeats=1)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_arguments(arguments)
    # The device has a number, "cpu:0" too: a loader takes "cpu" for the host, and "cpu:0" for a
    # device, so a quick run on a CPU goes through the code of the device.
    device = torch.device(options.device, 0)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    report: dict[str, Any] = {
        "machine": describe_machine(),
        "gpu": describe_gpu(device),
        "threads": options.threads,
        "rounds": options.rounds,
    }
    start = time.perf_counter()
    if options.tests:
        report["tests"] = run_tests()
    sizes = _QUICK if options.quick else _FULL
    with tempfile.TemporaryDirectory() as folder:
        path = options.pack
        if path is None:
            splits = ["train", "test"] if options.quick else ["train"]
            noise = dict.fromkeys(splits, make_noise(sizes.per_class))
            path = Path(folder, "noise.pack")
            cinicpack.pack_arrays(noise, path, classes=cinic10.CLASSES)
        setting = Setting(cinicpack.open_pack(path)["train"], device, sizes, options.threads)
        report |= measure(setting, options.rounds, options.seconds)
        if options.quick:
            report["quick_training"] = train_on(setting.split.pack, setting, epochs=1)
        else:
            report["real_images"] = train(options.images, Path(folder), setting, options.epochs)
    report["minutes"] = round((time.perf_counter() - start) / 60, 1)
    print(summarise(report))
    if options.quick:
        print("Figures of a quick run mean nothing: none was written.")
    elif options.tests:
        output = options.output / "gpu.json"
        output.write_text(format_json(report))
        say(f"written to {output}")
    if report.get("tests", {}).get("failed"):
        raise SystemExit(1)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench_gpu", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--pack", type=Path, help="with 90,000 images in train (else one is made)")
    parser.add_argument(
        "--images", type=Path,
        help="archive of train/CLASS/NAME.jpg and test/CLASS/NAME.jpg to train on (else none is)",
    )  # fmt: skip
    parser.add_argument("--epochs", type=int, default=16, help="of that training (%(default)s)")
    parser.add_argument("--output", type=Path, default=_ROOT / "benchmarks" / "results")
    parser.add_argument("--threads", type=int, default=min(8, usable_cores()), help="%(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (%(default)s)")
    parser.add_argument("--seconds", type=float, default=0.5, help="of each row and round")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tests", action="store_true", help="run the GPU tests, write the results")
    parser.add_argument("--quick", action="store_true", help="few images: does everything work?")
    options = parser.parse_args(arguments)
    if options.pack:
        try:
            cinicpack.open_pack(options.pack)
        except (cinicpack.PackError, OSError) as error:
            parser.error(
                f"argument --pack: {options.pack}: expected a pack, found none ({error}); name "
                "another, or leave --pack out to have one made"
            )
    if options.images and not options.images.is_file():
        parser.error(
            f"argument --images: {options.images}: expected an archive, found no file; name "
            "another, or leave --images out to train on no real images"
        )
    if options.device == "cpu" and not options.quick:
        parser.error("a CPU shows nothing but that this runs: add --quick")
    if options.device == "cuda" and not torch.cuda.is_available():
        print("This measures a GPU, and torch sees none here.", file=sys.stderr)
        raise SystemExit(2)
    if options.quick:
        options.rounds, options.seconds = 1, 1e-9
    return options


def describe_gpu(device: torch.device) -> dict[str, Any]:
    if device.type == "cpu":
        return {"name": "none"}
    properties = torch.cuda.get_device_properties(device)
    return {
        "name": properties.name,
        "memory_gb": round(properties.total_memory / 1e9),
        "torch": torch.__version__,
        "triton": importlib.metadata.version("triton") if find_spec("triton") else None,
    }


def run_tests() -> dict[str, Any]:
    """Run the tests of the GPU in a process of their own, and count how they ended."""
    if find_spec("pytest") is None:
        return {"not_run": "pytest is not installed"}
    say(_TESTS)
    start = time.perf_counter()
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rfEs", _TESTS]
    done = subprocess.run(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True, check=False)
    counts = {
        word: sum(
            int(number) for number in re.findall(rf"(\d+) {word}", done.stdout.splitlines()[-1])
        )
        for word in ("passed", "failed", "error", "skipped")
    }
    counts["failed"] += counts.pop("error")
    if done.returncode:
        print(done.stdout, file=sys.stderr)
        counts["failed"] = max(counts["failed"], 1)
    return {**counts, "seconds": round(time.perf_counter() - start)}


def measure(setting: Setting, rounds: int, seconds: float) -> dict[str, Any]:
    """Measure the bus, resident pixels and training, each in turns of its own."""
    report: dict[str, Any] = {}
    for name, list_rows in (
        ("bus", bus.list_rows),
        ("resident", resident.list_rows),
        ("training", training.list_rows),
    ):
        say(name)
        rows = list_rows(setting)
        report[name] = race([row.case for row in rows], rounds, seconds)
        for result, row in zip(report[name], rows, strict=True):
            result["gb_s"] = round(result["median"] * row.image_bytes / 1e9, 2)
            result["threads"] = row.threads
        # Free what this part keeps on the device: the next part needs the memory.
        del rows, row
        gc.collect()
    report["memory"] = resident.compare_memory(setting)
    return report


def train(archive: Path | None, folder: Path, setting: Setting, epochs: int) -> dict[str, Any]:
    """Train on the real images of an archive, if one is given."""
    if archive is None:
        return {"not_measured": "no archive of real images was named (--images)"}
    say(f"reading {archive}")
    classes, splits = read_jpegs(archive)
    pack = cinicpack.pack_arrays(splits, folder / "real.pack", classes=classes)
    return train_on(pack, setting, epochs)


def summarise(report: dict[str, Any]) -> str:
    """Lay everything out as lines for the screen."""
    lines = [f"{report['gpu']['name']}, {report['threads']} threads"]
    for part in ("bus", "resident", "training"):
        lines += ["", f"{part:42}      images/s     GB/s    ratio  of"]
        for row in report[part]:
            missed = " (wanted {wanted})".format(**row) if not row.get("reached", True) else ""
            ratio = f"{row['ratio']:8.3f}  {row['base']}{missed}" if "base" in row else ""
            lines.append(f"{row['name']:42} {row['median']:13,} {row['gb_s']:8.2f} {ratio}")
    for part in ("memory", "quick_training", "real_images", "tests", "minutes"):
        if part in report:
            lines += ["", f"{part}: {report[part]}"]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
