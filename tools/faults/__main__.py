"""Repeat the fault campaign: break everything that can break, and check what was promised.

    python -m tools.faults --json benchmarks/results/faults.json    # all of it: under ten minutes
    python -m tools.faults --short                                  # some of it: under 40 s
    python -m tools.faults --only unpack                            # what has this in its name

Needs a C compiler, and Linux. The page docs/faults.md is drawn from benchmarks/results/faults.json.
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from tqdm import tqdm

from benchmarks.machine import describe_machine
from benchmarks.report import format_json
from tests.fetch.server import serving
from tools.faults.calls import compile_library
from tools.faults.campaign import HALVES, begin, list_tasks, run_task
from tools.faults.commands import HUB
from tools.faults.matrix import Row, draw_matrix, fill_page, join_rows, list_wrong

_ROOT = Path(__file__).parents[2]
_RESULTS = _ROOT / "benchmarks" / "results" / "faults.json"
_PAGE = _ROOT / "docs" / "faults.md"
# What is in memory is synced at once.
_MEMORY = Path("/dev/shm")


def main() -> int:
    """Run the campaign; return 1 if a promise was broken."""
    options = parse_options()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        rows = run_all(Path(folder), options)
    report = {
        "machine": describe_machine(),
        "seconds": round(time.monotonic() - begun),
        "rows": [row.describe() for row in rows],
    }
    print(draw_matrix(report))
    if options.json is not None:
        options.json.write_text(format_json(report))
        if options.json.resolve() == _RESULTS:
            _PAGE.write_text(fill_page(_PAGE.read_text("utf-8"), report), "utf-8")
    return 1 if any(row.wrong for row in rows) else 0


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--short", action="store_true", help="some faults of each kind")
    add("--only", metavar="TEXT", default="", help="tasks with this in their names alone")
    add("--json", type=Path, metavar="FILE", help="write the matrix there too")
    add("--work", type=Path, default=_MEMORY if _MEMORY.is_dir() else None, metavar="FOLDER",
        help="where to make and break things (default: %(default)s)")  # fmt: skip
    add("--processes", type=int, default=len(os.sched_getaffinity(0)), metavar="N",
        help="how many tasks are done at once (default: one a core)")  # fmt: skip
    return parser.parse_args()


def run_all(folder: Path, options: argparse.Namespace) -> list[Row]:
    """Do all tasks, in processes that have ``calls.c`` loaded."""
    library = compile_library(folder)
    os.environ |= {"LD_PRELOAD": str(library), "no_proxy": "*", "OPENBLAS_NUM_THREADS": "1"}
    rows: list[Row] = []
    with serving() as server:
        server.files.update(HUB)
        for half in HALVES:
            with ProcessPoolExecutor(
                options.processes,
                multiprocessing.get_context("spawn"),
                initializer=begin,
                initargs=(half, folder, library, server.url, options.short),
            ) as pool:
                names = pool.submit(list_tasks).result()
                tasks = [pool.submit(run_task, name) for name in names if options.only in name]
                done = as_completed(tasks)
                for task in tqdm(done, half[0], len(tasks), unit="task", disable=None):
                    for text in list_wrong([task.result()]):
                        tqdm.write(text, file=sys.stderr)
                rows += [task.result() for task in tasks]
    return join_rows(rows)


if __name__ == "__main__":
    sys.exit(main())
