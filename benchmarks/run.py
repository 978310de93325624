"""The runner: every rival, cinicpack and the limits, side by side in one run.

python -m benchmarks.run                  # all; results/throughput.json
python -m benchmarks.run ffcv_raw         # one rival beside cinicpack and the limits
python -m benchmarks.run --quick          # all on few images: does everything work?
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import cinicpack
from benchmarks.check import check_samples, read_sample
from benchmarks.data import Places, add_arguments, make_data, making
from benchmarks.draw import draw_table
from benchmarks.machine import describe_machine, use_cores
from benchmarks.report import format_json, say

_HERE = Path(__file__).parent
_ROOT = _HERE.parent
_RIVALS = _HERE / ".rivals"
_SAMPLE_IMAGES = 512

# Packages that pip installs in calls of their own, in this order. torch comes first and alone, for
# with other packages pip may choose the build with several GB of CUDA. torchvision asks for the
# other build of torch. FFCV does not declare what building it needs.
_APART = {"torch": [], "torchvision": ["--no-deps"], "": [], "ffcv": ["--no-build-isolation"]}


class RivalError(Exception):
    """A rival cannot be installed, prepared or run; the text says why."""


class Rival(NamedTuple):
    """What the head of a rival's file says (PEP 723)."""

    name: str
    kind: str
    dependencies: list[str]
    needs: str
    rows: list[dict[str, Any]]


def main() -> None:
    options = parse_arguments()
    # SIGTERM becomes an exception, so that the processes of rivals, stopped ones too, are ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    cores = use_cores(options.cores)
    files = sorted((_HERE / "rivals").glob("*.py"))
    rivals = [rival for path in files if (rival := read_rival(path)).rows]
    # cinicpack and the limits always run, because rivals are compared with both.
    names = options.names or [rival.name for rival in rivals]
    chosen = [rival for rival in rivals if rival.kind != "rival" or rival.name in names]
    places = make_data(options)
    data = describe_data(places, len(cores))
    unavailable = [
        describe_missing(rival, "not in this run") for rival in rivals if rival not in chosen
    ]
    with contextlib.ExitStack() as stack:
        running: list[Row] = []
        for rival in chosen:
            for about in rival.rows:
                say(about["name"])
                try:
                    row = start_row(rival, about, data, places.work)
                except RivalError as error:
                    say(f"  {error}")
                    unavailable.append(describe_missing(rival, str(error)))
                    break
                stack.callback(row.process.close)
                running.append(row)
        race(running, options.rounds, options.seconds, options.limit)
    report = {
        "machine": describe_machine(),
        "images": len(np.load(data["labels"])),
        "rounds": options.rounds,
        "cinicpack": {name: version(name) for name in ("cinicpack", "numpy", "numba", "torch")},
        "rows": sorted((summarise(row) for row in running), key=lambda row: row["median"]),
        "unavailable": unavailable,
    }
    # Results of a few rivals replace those of all only if --output says so.
    folder = _RIVALS if options.names and options.output is None else places.output
    output = folder / "throughput.json"
    output.write_text(format_json(report))
    print(draw_table(report))
    say(f"written to {output}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", help="rivals, by file name; none: all")
    add_arguments(parser)
    parser.add_argument("--rounds", type=int, default=5, help="rounds over all rows (%(default)s)")
    parser.add_argument("--seconds", type=float, default=2, help="whole epochs until so long")
    parser.add_argument("--limit", type=float, default=10, help="no round takes longer than this")
    options = parser.parse_args()
    known = {path.stem for path in (_HERE / "rivals").glob("*.py")}
    if unknown := set(options.names) - known:
        parser.error(f"expected names of files in {_HERE / 'rivals'}, found {sorted(unknown)}")
    if options.quick:
        options.rounds, options.seconds = 2, 0.1
    return options


def describe_missing(rival: Rival, reason: str) -> dict[str, str]:
    needs = f"; it needs {rival.needs}" if rival.needs else ""
    return {"name": rival.rows[0]["name"], "file": rival.name, "reason": reason + needs}


def read_rival(path: Path) -> Rival:
    """Read the inline metadata of a script; without any, it is not a rival's file."""
    match = re.match(r"# /// script\n((?:#.*\n)+?)# ///\n", path.read_text())
    text = "".join(line[2:] or "\n" for line in match[1].splitlines(True)) if match else ""
    head = tomllib.loads(text)
    about = head.get("tool", {}).get("benchmark", {})
    return Rival(
        path.stem,
        about.get("kind", "rival"),
        head.get("dependencies", []),
        about.get("needs", ""),
        about.get("rows", []),
    )


def describe_data(places: Places, workers: int) -> dict[str, Any]:
    """Say where a rival finds what, as JSON can hold it."""
    pack = cinicpack.open_pack(places.pack)
    return {
        "tree": str(places.tree / "train"),
        "images": str(places.pack / "train" / "images-00000.npy"),
        "labels": str(places.pack / "train" / "labels.npy"),
        "pack": str(places.pack),
        "mean": pack.mean,
        "std": pack.std,
        "workers": workers,
    }


def start_row(rival: Rival, about: dict[str, Any], data: dict[str, Any], work: Path) -> "Row":
    """Install, prepare and start what makes a row, then check and warm it up."""
    python = install(rival)
    own = work / rival.name
    data = {**data, "own": str(own)}
    if not own.exists():
        prepare(rival, python, data)
    arguments = {key: about[key] for key in about if key not in ("name", "differs")}
    facts = {
        "name": about["name"],
        "file": rival.name,
        "kind": rival.kind,
        "batch_size": about["batch_size"],
        "dtype": about.get("dtype", "float32"),
        "differs": about.get("differs", ""),
        "versions": rival.dependencies,
    }
    process = Process(rival, python)
    try:
        wall = process.ask(do="open", data=data, **arguments)["wall"]
        if rival.kind != "limit":
            first, check = check_row(process, data, facts["dtype"])
            facts |= {"first_batch_s": round(wall + first, 2), "check": check}
            say(f"  {check}")
        else:
            # Rows that are checked have been warmed up by their checks.
            process.ask(do="round", seconds=0, limit=60)
        process.pause()
    except RivalError:
        process.close()
        raise
    return Row(facts, process, [])


def prepare(rival: Rival, python: Path, data: dict[str, Any]) -> None:
    """Let a rival write what it reads."""
    with making(Path(data["own"])) as own:
        own.mkdir()
        with contextlib.closing(Process(rival, python)) as process:
            process.ask(do="prepare", **{**data, "own": str(own)})


def check_row(process: "Process", data: dict[str, Any], dtype: str) -> tuple[float, dict[str, Any]]:
    """Look at batches of two epochs, the first whole, and say when the very first batch came."""
    answers, samples = [], []
    for number in range(2):
        path = Path(data["own"]) / f"sample-{number}.npz"
        answers.append(
            process.ask(do="sample", path=str(path), count=_SAMPLE_IMAGES, whole=not number)
        )
        samples.append(read_sample(path))
        path.unlink()
    originals, labels = np.load(data["images"], mmap_mode="r"), np.load(data["labels"])
    first, second = samples
    check = check_samples(first, second, originals, labels, data["mean"], data["std"], dtype)
    if (missing := len(labels) - answers[0]["images"]) > 0:
        check["left_out"].append(f"{missing} images")
    return answers[0]["first"], check


def install(rival: Rival) -> Path:
    """Give a rival its own environment, with exactly the packages that its file names."""
    if not rival.dependencies:
        return Path(sys.executable)
    place = _RIVALS / "environments" / rival.name
    python, done = place / "bin" / "python", place / "installed.json"
    if done.exists() and json.loads(done.read_text()) == rival.dependencies:
        return python
    say(f"  installing {', '.join(rival.dependencies)}")
    shutil.rmtree(place, ignore_errors=True)
    run([sys.executable, "-m", "venv", str(place)])
    steps: dict[str, list[str]] = {name: [] for name in _APART}
    for package in rival.dependencies:
        name = package.split("==")[0]
        steps[name if name in _APART else ""].append(package)
    for name, packages in steps.items():
        if packages:
            run([str(python), "-m", "pip", "install", "--quiet", *_APART[name], *packages])
    done.write_text(json.dumps(rival.dependencies))
    return python


def run(command: list[str]) -> None:
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        lines = process.stderr.strip().splitlines()
        reason = next((line for line in lines if "error" in line.lower()), lines[-1])
        raise RivalError(f"{' '.join(command[2:5])} ...: {reason}")


class Process:
    """A rival's process group, which does nothing while others run."""

    def __init__(self, rival: Rival, python: Path) -> None:
        _RIVALS.mkdir(exist_ok=True)
        self.log = _RIVALS / f"{rival.name}.log"
        environment = {**os.environ, "PYTHONPATH": str(_ROOT), "CUDA_VISIBLE_DEVICES": ""}
        self.process = subprocess.Popen(
            [str(python), "-m", f"benchmarks.rivals.{rival.name}"],
            cwd=_ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log.open("w"),
            text=True,
            start_new_session=True,
        )
        self.paused = False

    def ask(self, **request: Any) -> dict[str, Any]:
        if self.paused:
            os.killpg(self.process.pid, signal.SIGCONT)
            self.paused = False
        assert self.process.stdin
        assert self.process.stdout
        try:
            print(json.dumps(request), file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        answer = json.loads(line) if line else {"error": f"the process ended; see {self.log}"}
        if "error" in answer:
            raise RivalError(answer["error"])
        return dict(answer)

    def pause(self) -> None:
        """Stop all its processes, so that no thread of theirs takes time from those that run."""
        os.killpg(self.process.pid, signal.SIGSTOP)
        self.paused = True

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Row(NamedTuple):
    """A row of the table: what it is, the process that does it, and images per second."""

    facts: dict[str, Any]
    process: Process
    rates: list[float]


def race(rows: list[Row], rounds: int, seconds: float, limit: float) -> None:
    """Measure all rows in turns, once a round."""
    for number in range(rounds):
        # Each round begins with another row, so that no row always runs after the same one.
        for place in range(len(rows)):
            row = rows[(place + number * 7) % len(rows)]
            answer = row.process.ask(do="round", seconds=seconds, limit=limit)
            row.process.pause()
            row.rates.append(answer["images"] / answer["seconds"])
            say(f"round {number + 1}: {row.facts['name']}: {row.rates[-1]:,.0f} images/s")


def summarise(row: Row) -> dict[str, Any]:
    rates = [round(rate) for rate in row.rates]
    return {**row.facts, "median": round(statistics.median(rates)), "rounds": rates}


if __name__ == "__main__":
    main()
