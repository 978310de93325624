"""The command shift: what training on one source of CINIC-10 costs on the other."""

import argparse
from collections.abc import Sequence
from typing import Any, Final

from benchmarks.paper.checkpoint import write_file
from benchmarks.paper.networks import NETWORKS
from benchmarks.paper.options import choose_folder, read_pack, read_plan
from benchmarks.paper.runs import complete
from benchmarks.report import say

__all__ = ["draw_table", "run"]

# What is trained on, by what the table calls it. CIFAR-10 itself is all of its training images,
# wherever CINIC-10 has them.
_TRAINED: Final = {
    None: "all",
    "cifar10": "CIFAR-10's part",
    "imagenet": "ImageNet's part",
    "cifar10 train": "CIFAR-10 itself",
}
# What is tested on: the images of CINIC-10's test split by where they are from.
_TESTED: Final = {
    "cifar10 test": "CIFAR-10's test images",
    "cifar10 train": "CIFAR-10's training images",
    "imagenet": "ImageNet's part",
}


def run(options: argparse.Namespace) -> None:
    pack = read_pack(options)
    if not pack.manifest.is_cinic10:
        raise SystemExit(
            f"{options.pack}: expected a pack of CINIC-10, whose images have two sources, found "
            "another; pack CINIC-10"
        )
    plans = [
        read_plan(options, options.model, options.train_on, options.seed, source)
        for source in _TRAINED
    ]
    reports = complete(plans, pack, options)
    text = draw_table(reports)
    folder = choose_folder(options, pack)
    name = f"shift-{options.model}"
    write_file(folder / f"{name}.md", text)
    write_file(folder / f"{name}.svg", _draw_figure(reports))
    print(text)
    say(f"written to {folder}: {name}.md, {name}.svg")


def draw_table(reports: Sequence[dict[str, Any]]) -> str:
    """Lay out the errors as Markdown: a row for what was trained on, a column for a test's source.

    Images that a network was trained on are kept apart from those it has not seen, and marked.
    """
    title = NETWORKS[reports[0]["plan"]["model"]].title
    lines = [
        f"{title}; error in % on CINIC-10's test split, by where its images are from.",
        "",
        f"| trained on | images | {' | '.join(_TESTED.values())} |",
        f"| --- | ---: | {' | '.join('---:' for _ in _TESTED)} |",
    ]
    for report in reports:
        source, errors = report["plan"]["source"], report["last"]["by_source"]
        cells = [
            f"({errors[name]:.2f})" if _has_seen(source, name) else f"{errors[name]:.2f}"
            for name in _TESTED
        ]
        images = f"{report['images']['train']:,}"
        lines.append(f"| {_TRAINED[source]} | {images} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", "In brackets: images that it was trained on.", ""])


def _has_seen(source: str | None, tested: str) -> bool:
    """Whether training on ``source`` was on these images of the test split."""
    return source == tested == "cifar10 train"


def _draw_figure(reports: Sequence[dict[str, Any]]) -> bytes:
    # Matplotlib is imported where something is drawn: training does not need it.
    from benchmarks.paper.figures import Bars, draw_bars

    sources = [report["plan"]["source"] for report in reports]
    series = {
        label: [
            None if _has_seen(source, name) else report["last"]["by_source"][name]
            for source, report in zip(sources, reports, strict=True)
        ]
        for name, label in _TESTED.items()
    }
    title = f"{NETWORKS[reports[0]['plan']['model']].title}, by what it was trained on"
    return draw_bars([Bars(title, [_TRAINED[source] for source in sources], series)])
