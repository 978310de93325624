"""All benchmarks one after the other, then table and chart.

python -m benchmarks            # makes a tree as large as CINIC-10 first, where none is given
python -m benchmarks --quick    # few images: does everything work?
"""

import argparse
import subprocess
import sys
from pathlib import Path

from benchmarks.data import add_arguments


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    options = parser.parse_args()
    for module in ("run", "bench_loader", "bench_convert"):
        run(module, *sys.argv[1:])
    # Draw only from results in their own folder, benchmarks/results.
    if not options.quick and options.output is None:
        run("draw")


def run(module: str, *arguments: str) -> None:
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    print("$", *command[1:], flush=True)
    status = subprocess.run(command, cwd=Path(__file__).parents[1], check=False).returncode
    if status:
        # The benchmark has printed why it failed.
        raise SystemExit(status)


if __name__ == "__main__":
    main()
