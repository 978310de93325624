"""The command draw: what this folder's page and docs/training.svg say of a run on real images."""

import argparse
import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks.paper.checkpoint import write_file
from benchmarks.paper.networks import NETWORKS
from benchmarks.report import fill_between

__all__ = ["RESULT", "describe", "fill", "run"]

_ROOT = Path(__file__).parents[2]
#: Where the command train leaves the results of the run.
RESULT: Final = _ROOT / "benchmarks" / "results" / "paper" / "cifar10" / "resnet7-train-0.json"
_BEGIN, _END = "<!-- training: python -m benchmarks.paper draw -->\n", "<!-- /training -->\n"


def run(_: argparse.Namespace) -> None:
    # Matplotlib is imported where something is drawn: training does not need it.
    from benchmarks.paper.figures import draw_curves

    if not RESULT.exists():
        raise SystemExit(f"{RESULT}: expected results, found none; train resnet7 on CIFAR-10")
    report = json.loads(RESULT.read_text("utf-8"))
    page = Path(__file__).with_name("README.md")
    write_file(_ROOT / "docs" / "training.svg", draw_curves([report]))
    write_file(page, fill(page.read_text("utf-8"), report))


def fill(page: str, report: Mapping[str, Any]) -> str:
    """Write what is known of the run between the marks of the page."""
    return fill_between("README.md", page, _BEGIN, _END, describe(report))


def describe(report: Mapping[str, Any]) -> str:
    """Say what a run reached, how long it took, and what it waited for."""
    machine, images, torch = report["machine"], report["images"], report["torch"]
    plan, threads = report["plan"], report["torch"]["threads"]
    share = report["cpu_minutes"] / report["minutes"] / threads
    busy = f", of which it had the processor for {share:.0%}" if share < 0.9 else ""
    text = (
        f"{NETWORKS[plan['model']].title} learnt from {images['train']:,} of the real images of "
        f"CIFAR-10 for {plan['recipe']['epochs']} epochs, and is right on "
        f"**{100 - report['last']['error']:.2f} %** of the {images['test']:,} test images. That "
        f"took {report['cpu_minutes']:.0f} minutes of CPU time, or {report['minutes']:.0f} minutes "
        f"by the clock{busy}; it waited for data for {report['waited_share']:.2%} of these. "
        f"Precision {plan['precision']}, torch {torch['version']} with {threads} "
        f"{'thread' if threads == 1 else 'threads'}, {machine['processor']} "
        "([results](../results/paper/cifar10/resnet7-train-0.json))."
    )
    lines = textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False)
    return f"{lines}\n\n![Error by epoch](../../docs/training.svg)\n"
