"""Many runs: what is finished is read, and what is missing is trained, each by a process."""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cinicpack
from benchmarks.paper.options import choose_folder, list_arguments
from benchmarks.paper.plan import Plan
from benchmarks.report import say

__all__ = ["complete", "read_report"]

_ROOT = Path(__file__).parents[2]


def complete(
    plans: Sequence[Plan], pack: cinicpack.Pack, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Return the reports of all plans; what has none is trained first, from its checkpoint on.

    So many processes as ``--side-by-side`` says train at the same time. Raises `SystemExit` if one
    fails: the others end, and the next call goes on.
    """
    folder = choose_folder(options, pack)
    missing = [plan for plan in plans if read_report(folder, plan, pack) is None]
    say(f"{len(plans)} runs, of which {len(missing)} are to be done")

    def train(plan: Plan) -> int:
        chosen = ["--model", plan.model, "--train-on", plan.train_on, "--seed", str(plan.seed)]
        chosen += ["--source", plan.source] if plan.source else []
        command = [sys.executable, "-m", "benchmarks.paper", "train"]
        command += [*list_arguments(options), *chosen]
        return subprocess.run(command, cwd=_ROOT, check=False).returncode

    with ThreadPoolExecutor(options.side_by_side) as pool:
        failed = [
            plan.name for plan, code in zip(missing, pool.map(train, missing), strict=True) if code
        ]
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}; each has said why; start again to go on")
    return [report for plan in plans if (report := read_report(folder, plan, pack)) is not None]


def read_report(folder: Path, plan: Plan, pack: cinicpack.Pack) -> dict[str, Any] | None:
    """Read the report of a plan's run; None: there is none.

    Raises `SystemExit` if the report is of another plan or pack.
    """
    path = folder / f"{plan.name}.json"
    if not path.exists():
        return None
    report: dict[str, Any] = json.loads(path.read_text("utf-8"))
    differences = plan.compare(report["plan"])
    if report["pack"]["fingerprint"] != pack.fingerprint:
        differences.append(f"pack {report['pack']['name']!r} (here {str(pack.path)!r})")
    if differences:
        raise SystemExit(
            f"{path}: expected the results of this plan, found those of another: "
            f"{', '.join(differences)}; go on with that one, or name another folder by --output"
        )
    return report
