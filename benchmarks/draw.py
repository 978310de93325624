"""The figures of README.md and docs/benchmarks.md: tables, charts and sentences from results.

python -m benchmarks.draw      # writes docs/*.svg and what is between the marks of both pages
"""

import json
import math
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from benchmarks.report import fill_between

__all__ = ["FEW", "draw_chart", "draw_pages", "draw_table", "fill_page"]

_ROOT = Path(__file__).parents[1]
_RESULTS = _ROOT / "benchmarks" / "results"
_CHARTS = _ROOT / "docs"
# The row that all other rows are compared with.
_BASE = "image_folder"

# The rows that the README's chart has: all crop, mirror and normalise each image, and give batches
# of 512 in float32.
FEW = (
    "WebDataset, PNG in tar shards",
    "ImageFolder + DataLoader",
    "packed array + DataLoader + torchvision v2",
    "tf.data, packed array",
    "torch by hand, a crop an image",
    "DALI on CPU, packed array",
    "FFCV, float32",
    "cinicpack, float32",
)
# And the rows that its table has.
_FEWER = (FEW[1], FEW[2], FEW[5], FEW[6], FEW[7])

_WIDTH, _LABELS, _VALUES = 860, 330, 130
_RADIUS, _PITCH, _TOP = 6, 28, 54
# Sentences are wrapped as wide as the README's other lines.
_COLUMNS = 100

# The chart has a background of its own: a dark page may be read on a light system, or the reverse.
_STYLE = """
svg { background: #ffffff; }
text { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #1f2328; }
.small { font-size: 11px; fill: #59636e; }
text.cinicpack { font-weight: 600; }
line { stroke: #d1d9e0; }
line.rival { stroke: #8c959f; stroke-width: 2; }
line.cinicpack, line.limit { stroke: #0969da; stroke-width: 2; }
circle.rival { fill: #8c959f; }
circle.cinicpack { fill: #0969da; }
circle.limit { fill: #ffffff; stroke: #0969da; stroke-width: 2; }
@media (prefers-color-scheme: dark) {
  svg { background: #0d1117; }
  text { fill: #e6edf3; }
  .small { fill: #9198a1; }
  line { stroke: #3d444d; }
  line.cinicpack, line.limit { stroke: #4493f8; }
  circle.cinicpack { fill: #4493f8; }
  circle.limit { fill: #0d1117; stroke: #4493f8; }
}
"""


def main() -> None:
    throughput, convert = _read("throughput", "run"), _read("convert", "bench_convert")
    # gpu.json is missing until somebody has run tools/gpu on a GPU.
    gpu = _read("gpu", "bench_gpu") if (_RESULTS / "gpu.json").exists() else None
    for name, parts in draw_pages(throughput, convert, gpu).items():
        page = _ROOT / name
        page.write_text(fill_page(name, page.read_text("utf-8"), parts), "utf-8")
    (_CHARTS / "throughput.svg").write_text(draw_chart(throughput, FEW), "utf-8")
    (_CHARTS / "throughput-all.svg").write_text(draw_chart(throughput), "utf-8")
    print(f"drawn from {_RESULTS}: README.md, docs/benchmarks.md, docs/throughput*.svg")


def _read(name: str, module: str) -> dict[str, Any]:
    path = _RESULTS / f"{name}.json"
    if not path.exists():
        raise SystemExit(
            f"{path}: expected results, found none; run python -m benchmarks.{module} first"
        )
    return dict(json.loads(path.read_text("utf-8")))


def draw_pages(
    throughput: dict[str, Any], convert: dict[str, Any], gpu: dict[str, Any] | None = None
) -> dict[str, dict[str, str]]:
    """Draw, by page and mark, what stands between the marks of the pages."""
    return {
        "README.md": {
            "throughput": _draw_few(throughput),
            "convert": _draw_conversion(convert, throughput["machine"]),
            "gpu": _draw_gpu(gpu),
        },
        "docs/benchmarks.md": {"throughput": draw_table(throughput), "gpu": _draw_gpu_table(gpu)},
    }


def fill_page(name: str, page: str, parts: Mapping[str, str]) -> str:
    """Write the parts between their marks in the text of a page."""
    for mark, text in parts.items():
        begin, end = f"<!-- {mark}: python -m benchmarks.draw -->\n", f"<!-- /{mark} -->\n"
        page = fill_between(name, page, begin, end, text)
    return page


def _draw_conversion(report: dict[str, Any], machine: dict[str, Any]) -> str:
    """Say how long conversion takes, and where, if not on the machine of the table above."""
    times = {row["name"]: row["median_s"] for row in report["times"]}
    here = report["machine"] == machine
    where = "the same machine" if here else _name_machine(report["machine"])
    return _fill(
        f"On {where} the tree of {report['images']:,} files is packed in "
        f"{times['pack the tree']:.1f} s and the archive in {times['pack the archive']:.1f} s, "
        f"and a pack is checked in {times['verify']:.1f} s "
        "([convert.json](benchmarks/results/convert.json))."
    )


# The three ways to a GPU, as the results and as the pages name them.
_PATHS = {
    "augmented on the host": "augmented by the CPU",
    "augmented on the device": '`augment_on="device"`',
    "resident": "`resident=True`",
}


def _draw_gpu(report: dict[str, Any] | None) -> str:
    """Say in a sentence how fast each path to a GPU is."""
    if report is None:
        return _fill("There are no figures of a GPU yet; `tools/gpu` measures them.")
    rates, _ = _read_paths(report)
    host, device, resident = (f"{rate / 1e6:.1f}" for rate in rates)
    return _fill(
        f"On one {report['gpu']['name']} these three give {host}, {device} and {resident} million "
        "images/s in float32, batches of 512 "
        "([what that means for training](docs/benchmarks.md#on-a-gpu))."
    )


def _read_paths(report: dict[str, Any]) -> tuple[list[float], list[float]]:
    """Read of each path the images/s, and the speed of training relative to one cached batch."""
    bus, trained = ({row["name"]: row for row in report[part]} for part in ("bus", "training"))
    [resident] = (row for row in report["resident"] if row["name"].startswith("batches of 512"))
    *others, _ = _PATHS
    rates = [*(bus[name]["median"] for name in others), resident["median"]]
    return rates, [trained[name]["ratio"] for name in _PATHS]


def _draw_gpu_table(report: dict[str, Any] | None) -> str:
    """Lay out how fast each path to a GPU is, and how fast a network trains on each."""
    if report is None:
        return _draw_gpu(report)
    rows = [row for part in ("bus", "resident", "training") for row in report[part]]
    medians = {row["name"]: row["median"] for row in rows}
    copy, idle, kernel = (
        medians[name] / 1e6
        for name in ("bus: plain pinned copy", "hand-off alone", "kernel alone, float32")
    )
    aims = [row["reached"] for row in [*rows, report["memory"]] if "reached" in row]
    gpu, tests = report["gpu"], report["tests"]
    lines = ["| where images are augmented | images/s | training, of the speed on one batch |"]
    lines.append("| --- | ---: | ---: |")
    for name, rate, trained in zip(_PATHS.values(), *_read_paths(report), strict=True):
        lines.append(f"| {name} | {_round(rate):,} | {trained:.2f} |")
    notes = _fill(
        f"On one {gpu['name']} with {report['threads']} threads of its host (torch "
        f"{gpu['torch']}); batches of 512 in float32. For comparison: a loader whose kernels do "
        f"nothing hands over {idle:.1f} million images/s, a plain copy to the GPU moves {copy:.1f} "
        f"million, and the GPU's kernel by itself makes {kernel:,.0f} million. Training is that of "
        "a ResNet-18 in bfloat16; 1.00 is its speed on one batch that is on the GPU already, "
        f"{_round(medians['one cached batch']):,} images/s. Of the {len(aims)} ratios that the "
        f"benchmark aims at {sum(aims)} are reached. The tests of "
        f"the GPU ran there: {tests['passed']} passed, {tests['failed']} failed, "
        f"{tests['skipped']} skipped ([gpu.json](../benchmarks/results/gpu.json), by `tools/gpu`)."
    )
    return "\n".join([*lines, "", notes])


def _fill(text: str) -> str:
    return textwrap.fill(text, _COLUMNS, break_long_words=False, break_on_hyphens=False) + "\n"


def _name_machine(machine: dict[str, Any]) -> str:
    return (
        f"{machine['cores_used']} cores of {machine['processor']}, {machine['memory_gb']} GB, "
        f"{machine['system']}, Python {machine['python']}"
    )


def draw_table(report: dict[str, Any]) -> str:
    """Lay out all results as Markdown, slowest row first."""
    lines = ["| loader | images/s | lowest to highest round | ratio | differs |"]
    lines.append("| --- | ---: | ---: | ---: | --- |")
    for row in _sort(report):
        spread = f"{_round(min(row['rounds'])):,} to {_round(max(row['rounds'])):,}"
        cells = (_name(row), f"{_round(row['median']):,}", spread, _compare(row, report))
        lines.append(f"| {' | '.join([*cells, _list_differences(row)])} |")
    notes = [_describe(report) + " where the row does not say otherwise."]
    if missing := report["unavailable"]:
        said = "; ".join(f"{row['name']} ({row['reason']})" for row in missing)
        notes.append(f"Not measured: {said}.")
    return "\n".join([*lines, "", "\n".join(map(_fill, notes))])


def _draw_few(report: dict[str, Any]) -> str:
    """Lay out the README's rows as Markdown, and say where all are."""
    lines = ["| loader | images/s | times ImageFolder |", "| --- | ---: | ---: |"]
    for row in _sort(report, _FEWER):
        cells = (_name(row), f"{_round(row['median']):,}", _compare(row, report))
        lines.append(f"| {' | '.join(cells)} |")
    count = len(report["rows"])
    note = f"{_describe(report)}. [All {count} rows, and how they differ](docs/benchmarks.md)."
    return "\n".join([*lines, "", _fill(note)])


def _sort(report: dict[str, Any], names: tuple[str, ...] | None = None) -> list[dict[str, Any]]:
    """Sort the rows with these names, or all, slowest first."""
    rows = [row for row in report["rows"] if names is None or row["name"] in names]
    return sorted(rows, key=lambda row: int(row["median"]))


def _name(row: dict[str, Any]) -> str:
    return f"**{row['name']}**" if row["kind"] == "cinicpack" else str(row["name"])


def _compare(row: dict[str, Any], report: dict[str, Any]) -> str:
    base = next((other["median"] for other in report["rows"] if other["file"] == _BASE), None)
    return f"{row['median'] / base:,.1f}" if base else ""


def _describe(report: dict[str, Any]) -> str:
    return (
        f"Medians of {report['rounds']} interleaved rounds on {_name_machine(report['machine'])}; "
        f"{report['images']:,} images of 32x32 in the page cache; "
        "random crop with padding 4, random flip, normalise, batches of 512 in float32"
    )


def draw_chart(report: dict[str, Any], names: tuple[str, ...] | None = None) -> str:
    """Draw results as dots on a logarithmic scale, as SVG that follows light and dark.

    A row has a dot at its median and a line from its lowest to its highest round. ``names`` are the
    rows that are drawn, all by default.
    """
    rows = _sort(report, names)
    every = [rate for row in rows for rate in row["rounds"]]
    low, high = math.floor(math.log10(min(every))), math.log10(max(every))
    span = _WIDTH - _LABELS - _VALUES
    bottom = _TOP + _PITCH * len(rows)

    def place(rate: float) -> float:
        return round(_LABELS + span * (math.log10(rate) - low) / (high - low), 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {bottom + 14}" '
        f'width="{_WIDTH}" height="{bottom + 14}" role="img">',
        f"<title>Images per second of {len(rows)} ways to load CINIC-10, logarithmic</title>",
        f"<style>{_STYLE}</style>",
        f'<text x="{_LABELS}" y="18">images per second: '
        "each vertical line is ten times the one before</text>",
    ]
    for power in range(low, math.floor(high) + 1):
        x = place(10**power)
        parts += [
            f'<line x1="{x}" x2="{x}" y1="{_TOP - 6}" y2="{bottom}"/>',
            f'<text class="small" x="{x}" y="{_TOP - 12}" text-anchor="middle">'
            f"{10**power:,}</text>",
        ]
    for number, row in enumerate(rows):
        parts += _draw_row(row, _TOP + _PITCH * (number + 0.5), place)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _draw_row(row: dict[str, Any], y: float, place: Callable[[float], float]) -> list[str]:
    kind, middle, fastest = row["kind"], place(row["median"]), place(max(row["rounds"]))
    value = max(fastest, middle + _RADIUS) + 8
    return [
        f'<text class="{kind}" x="{_LABELS - 14}" y="{y + 4}" text-anchor="end">'
        f"{escape(row['name'])}</text>",
        f'<line class="{kind}" x1="{place(min(row["rounds"]))}" x2="{fastest}" y1="{y}" y2="{y}"/>',
        f'<circle class="{kind}" cx="{middle}" cy="{y}" r="{_RADIUS}"/>',
        f'<text class="{kind}" x="{value:.1f}" y="{y + 4}">{_round(row["median"]):,}</text>',
    ]


def _round(rate: float) -> int:
    """Keep three figures: the spread is larger than the rest."""
    return round(int(rate), min(0, 3 - len(str(int(rate)))))


def _list_differences(row: dict[str, Any]) -> str:
    lacks = row.get("check", {}).get("left_out", [])
    marks = [f"**without {', '.join(lacks)}**"] if lacks else []
    return "; ".join([row["differs"]] * bool(row["differs"]) + marks)


if __name__ == "__main__":
    main()
