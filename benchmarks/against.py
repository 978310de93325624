"""Packing by two checkouts of cinicpack, side by side: is it as fast as before?

Each run is a process of its own, which imports one of the two and times one call.
"""

import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.report import say

__all__ = ["compare"]

_HERE = Path(__file__).parents[1]
_PROGRAM = """
import sys, time, cinicpack
start = time.perf_counter()
cinicpack.pack(sys.argv[1], sys.argv[2], progress=False)
print(time.perf_counter() - start)
"""
# How much longer than before packing may take.
_WANTED = 1.03


def compare(
    sources: dict[str, Path], other: Path, rounds: int, place: Path
) -> list[dict[str, Any]]:
    """Pack every source by this checkout and by another in turns, after one round that warms up.

    Ratios are those of neighbours in time; whose turn is first changes from round to round.
    """
    rows = []
    for name, source in sources.items():
        here: list[float] = []
        there: list[float] = []
        for number in range(rounds + 1):
            turns = [(_HERE, here), (other, there)]
            for checkout, times in reversed(turns) if number % 2 else turns:
                times.append(_time(checkout, source, place))
                say(f"round {number}: {name} by {checkout}: {times[-1]:.2f} s")
        del here[0], there[0]
        ratios = [one / two for one, two in zip(here, there, strict=True)]
        ratio = statistics.median(ratios)
        rows.append(
            {
                "name": name,
                "median_s": round(statistics.median(here), 3),
                "against_s": round(statistics.median(there), 3),
                "ratio": round(ratio, 3),
                "lowest": round(min(ratios), 3),
                "highest": round(max(ratios), 3),
                "wanted": _WANTED,
                "reached": ratio <= _WANTED,
            }
        )
    return rows


def _time(checkout: Path, source: Path, place: Path) -> float:
    shutil.rmtree(place, ignore_errors=True)
    # Write the last run's data to the disk now, outside of the next run's time.
    os.sync()
    command = [sys.executable, "-c", _PROGRAM, str(source), str(place)]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    done = subprocess.run(
        command, cwd=checkout, env=environment, check=False, stdout=subprocess.PIPE, text=True
    )
    shutil.rmtree(place, ignore_errors=True)
    if done.returncode:
        raise SystemExit(f"{checkout}: packing {source} failed; see above")
    return float(done.stdout)
