"""The command table: the authors' two tables, ours beside theirs."""

import argparse
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.paper.checkpoint import write_file
from benchmarks.paper.networks import NETWORKS, Network
from benchmarks.paper.options import choose_folder, read_pack, read_plan
from benchmarks.paper.plan import Plan
from benchmarks.paper.runs import complete
from benchmarks.report import say

__all__ = ["Row", "draw_table", "run", "summarise"]

# The authors trained once on train, and five times on train+valid.
_SEEDS = {"train": 1, "train+valid": 5}


class Row(NamedTuple):
    """A model in one of the tables; errors in percent.

    Attributes:
        title: the model's name.
        parameters: of the model.
        mean: our test error after the last epoch, the mean over all seeds.
        spread: the standard deviation of these; None: of one seed.
        runs: number of seeds.
        best: the mean test error of the epochs that were best in validation; None: no validation.
        published: the authors' error; None: not published, or of another data set.
        published_spread: its standard deviation.
    """

    title: str
    parameters: int
    mean: float
    spread: float | None
    runs: int
    best: float | None
    published: float | None
    published_spread: float | None


def run(options: argparse.Namespace) -> None:
    pack = read_pack(options)
    tables = options.train_on or ["train", *(["train+valid"] if "valid" in pack else [])]
    plans = {train_on: _list_plans(options, train_on) for train_on in tables}
    reports = complete([plan for some in plans.values() for plan in some], pack, options)
    is_cinic10 = pack.manifest.is_cinic10
    rows = {
        train_on: [
            summarise(_choose(reports, model, train_on), is_cinic10=is_cinic10)
            for model in options.models
        ]
        for train_on in tables
    }
    text = "\n".join(draw_table(train_on, rows[train_on]) for train_on in tables)
    print(text)
    folder = choose_folder(options, pack)
    write_file(folder / "table.md", text)
    _write_figures(folder, rows, [report for report in reports if report["plan"]["seed"] == 0])
    say(f"written to {folder}: table.md, table.svg, curves.svg")


def _write_figures(
    folder: Path, rows: Mapping[str, Sequence[Row]], reports: Sequence[dict[str, Any]]
) -> None:
    # Matplotlib is imported where something is drawn: training does not need it.
    from benchmarks.paper.figures import Bars, draw_bars, draw_curves

    panels = [
        Bars(
            f"trained on {train_on}",
            [row.title for row in some],
            {"ours": [row.mean for row in some], "published": [row.published for row in some]},
        )
        for train_on, some in rows.items()
    ]
    write_file(folder / "table.svg", draw_bars(panels))
    write_file(folder / "curves.svg", draw_curves(reports))


def _list_plans(options: argparse.Namespace, train_on: str) -> list[Plan]:
    seeds = options.seeds or _SEEDS.get(train_on, 1)
    return [
        read_plan(options, model, train_on, seed)
        for model in options.models
        for seed in range(seeds)
    ]


def _choose(reports: Sequence[dict[str, Any]], model: str, train_on: str) -> list[dict[str, Any]]:
    wanted = {"model": model, "train_on": train_on}
    return [report for report in reports if report["plan"].items() >= wanted.items()]


def summarise(reports: Sequence[dict[str, Any]], *, is_cinic10: bool) -> Row:
    """Make the row of a model of the reports of its seeds."""
    network = NETWORKS[reports[0]["plan"]["model"]]
    errors = [report["last"]["error"] for report in reports]
    bests = [report["best"]["error"] for report in reports if report["best"]]
    published = _find_published(network, reports[0]["plan"]["train_on"]) if is_cinic10 else None
    return Row(
        network.title,
        reports[0]["parameters"],
        statistics.mean(errors),
        statistics.stdev(errors) if len(errors) > 1 else None,
        len(errors),
        statistics.mean(bests) if bests else None,
        *(published or (None, None)),
    )


def _find_published(network: Network, train_on: str) -> tuple[float | None, float | None] | None:
    if train_on == "train":
        return network.train, None
    return (network.enlarged, network.spread) if train_on == "train+valid" else None


def draw_table(train_on: str, rows: Sequence[Row]) -> str:
    """Lay out a table as Markdown: ours, published, and the difference, in percent."""
    lines = [
        f"Trained on {train_on}; test error in %.",
        "",
        "| model | parameters | last epoch | best in validation | published | difference |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        difference = "-" if row.published is None else f"{row.mean - row.published:+.2f}"
        seeds = f" ({row.runs} seeds)" if row.runs > 1 else ""
        cells = (
            row.title,
            f"{row.parameters:,}",
            _write(row.mean, row.spread) + seeds,
            _write(row.best),
            _write(row.published, row.published_spread),
            difference,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _write(mean: float | None, spread: float | None = None) -> str:
    if mean is None:
        return "-"
    return f"{mean:.2f}" if spread is None else f"{mean:.2f} ± {spread:.2f}"
