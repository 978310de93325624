"""The benchmarks' files: what they say of themselves, what they draw, and what they find out."""

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from benchmarks import bench_gpu
from benchmarks.bench_sources import KINDS, draw_page
from benchmarks.check import Sample, check_samples
from benchmarks.draw import FEW, draw_chart, draw_pages, draw_table, fill_page
from benchmarks.report import format_json
from benchmarks.run import read_rival

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
RESULTS = BENCHMARKS / "results"
RIVALS = [
    rival
    for path in sorted((BENCHMARKS / "rivals").glob("*.py"))
    if (rival := read_rival(path)).rows
]
MEAN, STD = (0.48, 0.47, 0.43), (0.24, 0.24, 0.26)


def make_report(**changes):
    row = {"kind": "rival", "file": "ffcv_raw", "batch_size": 512, "dtype": "float32"}
    rows = [
        {
            **row,
            "name": "slow & sure",
            "file": "image_folder",
            "median": 3712,
            "rounds": [3600, 3800],
        },
        {**row, "name": "other", "median": 98_040, "rounds": [97_000, 99_999]},
        {**row, "name": "ours", "kind": "cinicpack", "median": 1_234_567, "rounds": [1_234_567]},
        {**row, "name": "limit", "kind": "limit", "median": 1_300_000, "rounds": [1_300_000]},
    ]
    for one in rows:
        one |= {"differs": "", "check": {"left_out": []}}
    rows[1] |= {"differs": "NHWC", "check": {"left_out": ["flip", "crop"]}}
    machine = {"processor": "P", "cores_used": 2, "memory_gb": 8, "system": "S", "python": "3"}
    report = {"machine": machine, "images": 90_000, "rounds": 5, "rows": rows, "unavailable": []}
    return {**report, **changes}


def make_conversion():
    names = {"pack the tree": 12.46, "tar -xzf": 131.5, "pack the archive": 16.99, "verify": 0.385}
    times = [{"name": name, "median_s": seconds} for name, seconds in names.items()]
    return {"machine": make_report()["machine"], "images": 270_000, "times": times}


@pytest.mark.parametrize("rival", RIVALS, ids=lambda rival: rival.name)
def test_a_rival_pins_every_package_and_names_its_rows(rival):
    assert all("==" in package for package in rival.dependencies)
    assert bool(rival.dependencies) == (rival.kind == "rival")
    assert all(row["batch_size"] > 0 for row in rival.rows)


def test_names_of_rows_are_unique():
    names = [row["name"] for rival in RIVALS for row in rival.rows]
    assert len(set(names)) == len(names)


def test_the_table_has_the_slowest_first_and_compares_with_image_folder():
    table = draw_table(make_report()).splitlines()
    assert [line.split(" | ")[0] for line in table[2:6]] == [
        "| slow & sure",
        "| other",
        "| **ours**",
        "| limit",
    ]
    assert "| 98,000 | 97,000 to 100,000 | 26.4 | NHWC; **without flip, crop** |" in table[3]
    assert "| 1,230,000 |" in table[4]


def test_the_table_names_what_could_not_be_measured():
    missing = [{"name": "Loader X", "file": "x", "reason": "no wheel"}]
    assert "Not measured: Loader X (no wheel)." in draw_table(make_report(unavailable=missing))


def test_the_chart_has_dots_on_a_logarithmic_scale_and_colours_for_dark_and_light():
    text = draw_chart(make_report())
    chart = ElementTree.fromstring(text)
    svg = "{http://www.w3.org/2000/svg}"
    dots = [(dot.get("class"), float(dot.attrib["cx"])) for dot in chart.iter(f"{svg}circle")]
    assert [kind for kind, _ in dots] == ["rival", "rival", "cinicpack", "limit"]
    places = [place for _, place in dots]
    decade = (places[1] - places[0]) / np.log10(98_040 / 3712)
    assert places[2] - places[1] == pytest.approx(decade * np.log10(1_234_567 / 98_040), abs=0.3)
    # A line goes from the slowest to the fastest round.
    [slow, *_] = [line for line in chart.iter(f"{svg}line") if line.get("class")]
    ends = float(slow.attrib["x1"]), float(slow.attrib["x2"])
    assert ends[1] - ends[0] == pytest.approx(decade * np.log10(3800 / 3600), abs=0.3)
    shown = [element.text for element in chart.iter(f"{svg}text")]
    assert "images per second: each vertical line is ten times the one before" in shown
    assert "prefers-color-scheme: dark" in text
    assert "slow &amp; sure" in text


def test_a_chart_of_some_rows_has_these_alone():
    text = draw_chart(make_report(), ("ours", "slow & sure", "not there"))
    assert text.count("<circle") == 2
    assert "other" not in text


def draw(conversion=None, gpu=None):
    return draw_pages(make_report(), conversion or make_conversion(), gpu)


def test_the_readme_says_how_long_conversion_takes_and_where():
    assert " ".join(draw()["README.md"]["convert"].split()) == (
        "On the same machine the tree of 270,000 files is packed in 12.5 s and the archive in "
        "17.0 s, and a pack is checked in 0.4 s ([convert.json](benchmarks/results/convert.json))."
    )
    conversion = make_conversion()
    conversion["machine"] = {**conversion["machine"], "processor": "Q"}
    elsewhere = draw(conversion)["README.md"]["convert"]
    assert elsewhere.startswith("On 2 cores of Q, 8 GB, S, Python 3 the tree of 270,000 files")


def test_pages_without_figures_of_a_gpu_say_so():
    assert all("no figures of a GPU yet" in parts["gpu"] for parts in draw().values())


def test_what_is_between_the_marks_of_a_page_is_replaced_and_nothing_else():
    for name, parts in draw().items():
        marks = [
            f"<!-- {mark}: python -m benchmarks.draw -->\n{{}}<!-- /{mark} -->\n" for mark in parts
        ]
        page = "before\n" + "between\n".join(marks) + "after\n"
        filled = fill_page(name, page.format(*["old\n", "", "old\n"][: len(parts)]), parts)
        assert filled == page.format(*parts.values())
        assert fill_page(name, filled, parts) == filled
        with pytest.raises(SystemExit, match=f"{name}: expected the lines <!-- gpu:"):
            fill_page(name, filled.replace("<!-- /gpu -->", ""), parts)


@pytest.mark.parametrize("name", ["throughput", "loader", "convert", "sources", "gpu"])
def test_committed_results_are_what_the_runner_writes(name):
    path = RESULTS / f"{name}.json"
    if not path.exists():
        pytest.skip(f"no full run has been committed: {path}")
    report = json.loads(path.read_text())
    assert path.read_text() == format_json(report)
    assert len(path.read_text()) < 40_000
    assert report["machine"].keys() == {"processor", "cores_used", "memory_gb", "system", "python"}
    assert report["rounds"] >= 5


def test_committed_throughput_is_complete_and_drawn():
    path = RESULTS / "throughput.json"
    if not path.exists():
        pytest.skip(f"no full run has been committed: {path}")
    report = json.loads(path.read_text())
    wanted = {row["name"] for rival in RIVALS for row in rival.rows}
    missing = {row["file"] for row in report["unavailable"]}
    found = {row["name"] for row in report["rows"]}
    assert wanted == found | {
        row["name"] for rival in RIVALS for row in rival.rows if rival.name in missing
    }
    # No loader is faster than the limit of its type.
    for limit in (row for row in report["rows"] if row["name"].startswith("limit: ")):
        same = [row["median"] for row in report["rows"] if row["dtype"] == limit["dtype"]]
        assert limit["median"] == max(same)
    for row in report["rows"]:
        assert len(row["rounds"]) == report["rounds"]
        assert min(row["rounds"]) <= row["median"] <= max(row["rounds"])
    assert found >= set(FEW)
    docs = BENCHMARKS.parent / "docs"
    assert (docs / "throughput.svg").read_text() == draw_chart(report, FEW)
    assert (docs / "throughput-all.svg").read_text() == draw_chart(report)


def test_the_pages_say_what_the_committed_results_say():
    paths = [RESULTS / f"{name}.json" for name in ("throughput", "convert")]
    if missing := [str(path) for path in paths if not path.exists()]:
        pytest.skip(f"no full run has been committed: {', '.join(missing)}")
    gpu = RESULTS / "gpu.json"
    results = [json.loads(path.read_text()) for path in [*paths, gpu] if path.exists()]
    for name, parts in draw_pages(*results).items():
        page = (BENCHMARKS.parent / name).read_text("utf-8")
        # Where they differ: python -m benchmarks.draw
        assert page == fill_page(name, page, parts)


def test_the_page_of_sources_says_what_the_committed_results_say():
    report = json.loads((RESULTS / "sources.json").read_text())
    assert [row["kind"] for row in report["rows"]] == list(KINDS.values())
    page = (BENCHMARKS.parent / "docs" / "sources.md").read_text("utf-8")
    # Where they differ: python -m benchmarks.bench_sources
    assert page == draw_page(page, report)
    with pytest.raises(SystemExit, match="expected the lines <!-- sources:"):
        draw_page("no marks", report)


def test_sources_are_measured_one_by_one_and_what_is_missing_is_named(tmp_path):
    work = ["--quick", "--rounds", "1", "--work", str(tmp_path)]

    def measure(*kinds):
        command = [sys.executable, "-m", "benchmarks.bench_sources", *kinds, *work]
        subprocess.run(command, cwd=BENCHMARKS.parent, check=True, capture_output=True)
        return json.loads((tmp_path / "sources.json").read_text())["rows"]

    (arrays,) = measure("arrays")
    assert arrays["images"] == 1000
    assert min(arrays["pack_s"], arrays["usual_s"]) > 0
    jpegs, pickles, same = measure("imagenet32", "tar_xz")
    assert "no archive of JPEG files was given (--jpegs)" in jpegs["not_measured"]
    assert (pickles["images"], same) == (1000, arrays)
    assert {path.name for path in tmp_path.iterdir()} == {"sources.json", "imagenet32"}


def augment(originals, rng, *, crop="image", flip=True, normalise=True):
    count = len(originals)
    rows = rng.permutation(count)
    padded = np.pad(originals[rows], ((0, 0), (0, 0), (4, 4), (4, 4)))
    moves = rng.integers(0, 9, (count, 2)) if crop == "image" else np.full((count, 2), 4)
    moves = np.broadcast_to(rng.integers(0, 4, 2), (count, 2)) if crop == "batch" else moves
    images = np.stack(
        [
            image[:, top : top + 32, left : left + 32]
            for image, (top, left) in zip(padded, moves, strict=True)
        ]
    )
    if flip:
        mirrored = rng.random(count) < 0.5
        images[mirrored] = images[mirrored, ..., ::-1]
    if normalise:
        shape = (3, 1, 1)
        images = (images / np.float32(255) - np.reshape(MEAN, shape)) / np.reshape(STD, shape)
        images = images.astype(np.float32)
    return Sample(images, rows % 10)


@pytest.mark.parametrize(
    ("skipped", "left_out"),
    [
        ({}, []),
        ({"crop": "none"}, ["crop"]),
        ({"crop": "batch"}, ["a crop for each image"]),
        ({"flip": False}, ["flip"]),
        ({"normalise": False}, ["conversion to float"]),
    ],
)
def test_a_rival_that_skips_work_is_found_out(skipped, left_out):
    rng = np.random.default_rng(0)
    originals = rng.integers(0, 256, (80, 3, 32, 32), np.uint8)
    labels = np.arange(80) % 10
    first, second = (augment(originals, rng, **skipped) for _ in range(2))
    check = check_samples(first, second, originals, labels, MEAN, STD)
    assert check["left_out"] == left_out
    assert check["found"] == 1


def test_wrong_scale_order_labels_and_pixels_are_found_out():
    rng = np.random.default_rng(0)
    originals = rng.integers(0, 256, (80, 3, 32, 32), np.uint8)
    labels = np.arange(80) % 10
    first, second = (augment(originals, rng) for _ in range(2))

    def find(one, two):
        return check_samples(one, two, originals, labels, MEAN, STD)["left_out"]

    assert find(first, Sample(second.images * np.float32(1.01), second.labels)) == [
        "normalisation",
        "exact pixels",
    ]
    assert find(first, first) == ["shuffle"]
    assert find(first, Sample(second.images, (second.labels + 1) % 10)) == ["labels"]
    assert "exact pixels" in find(first, Sample(np.roll(second.images, 1, 1), second.labels))


# What a machine with a GPU may lack.
WITHOUT = """
import sys

for name in ("h5py", "pytest", "hypothesis"):
    sys.modules[name] = None
from benchmarks import bench_gpu

bench_gpu.main(sys.argv[1:])
"""


def test_the_gpu_benchmark_runs_on_a_cpu_but_writes_nothing(tmp_path, capsys):
    output = ["--output", str(tmp_path)]
    options = ["--device", "cpu", "--quick", "--threads", "1", *output]
    text = subprocess.check_output(
        [sys.executable, "-c", WITHOUT, *options], cwd=BENCHMARKS.parent, text=True
    )
    assert "mean nothing" in text
    assert all(name in text for name in ("hand-off alone", "as airbench", "one cached batch"))
    with pytest.raises(SystemExit, match="2"):
        bench_gpu.main(["--device", "cpu", *output])
    assert "add --quick" in capsys.readouterr().err
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit, match="2"):
            bench_gpu.main(output)
        assert capsys.readouterr().err == "This measures a GPU, and torch sees none here.\n"
    assert not list(tmp_path.iterdir())
