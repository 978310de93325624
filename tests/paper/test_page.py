"""The page and the figure say what the committed results say."""

import json
from pathlib import Path

import pytest

from benchmarks.paper.networks import NETWORKS
from benchmarks.paper.page import RESULT, describe, fill
from benchmarks.report import format_json

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "benchmarks" / "paper" / "README.md"
REPORT = {
    "plan": {"model": "resnet7", "precision": "bf16", "recipe": {"epochs": 3}},
    "images": {"train": 48_000, "test": 10_000},
    "last": {"error": 11.5},
    "minutes": 60.0,
    "cpu_minutes": 30.0,
    "waited_share": 0.0021,
    "torch": {"version": "2", "threads": 1},
    "machine": {"processor": "P"},
}


def test_the_page_tells_the_time_of_the_processor_from_that_of_the_clock():
    text = " ".join(describe(REPORT).split())
    assert "is right on **88.50 %** of the 10,000 test images" in text
    assert "30 minutes of CPU time, or 60 minutes by the clock, of which it had the pro" in text
    assert "it waited for data for 0.21% of these" in text
    alone = describe({**REPORT, "cpu_minutes": 59.0})
    assert "of which it had" not in alone


def test_what_is_between_the_marks_is_replaced_and_nothing_else():
    page = PAGE.read_text("utf-8")
    filled = fill(page, REPORT)
    assert filled.count("88.50 %") == 1
    assert fill(filled, REPORT) == filled
    assert filled.startswith(page.partition("<!-- training")[0])
    with pytest.raises(SystemExit, match="expected the lines"):
        fill(page.replace("<!-- /training -->", ""), REPORT)


def test_the_page_has_every_network_with_what_was_published():
    text = PAGE.read_text("utf-8")
    for name, network in [*NETWORKS.items()][:7]:
        [row] = [line for line in text.splitlines() if f"(`{name}`)" in line]
        published = "-" if network.train is None else f"{network.train:.2f}"
        end = f"| {published} | {network.enlarged:.2f} ± {network.spread:.2f} |"
        assert row.endswith(end)


def test_the_committed_run_is_what_the_page_and_the_figure_show():
    if not RESULT.exists():
        pytest.skip(f"no run has been committed: {RESULT}")
    report = json.loads(RESULT.read_text("utf-8"))
    assert RESULT.read_text("utf-8") == format_json(report)
    assert report["last"]["error"] < 12
    assert report["cpu_minutes"] < 60
    assert report["waited_share"] < 0.01
    page = PAGE.read_text("utf-8")
    # Where they differ: python -m benchmarks.paper draw
    assert page == fill(page, report)
    # Not by its bytes, which may be others with another version of matplotlib.
    figure = (ROOT / "docs" / "training.svg").read_text("utf-8")
    assert f"test, {report['last']['error']:.2f} % after the last epoch" in figure
    assert f"{report['waited_share']:.2%} of the time waited for data" in figure
