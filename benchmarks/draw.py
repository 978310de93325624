"""The README's figures: table and chart of the loaders, sentences on the converter and on a GPU.

python -m benchmarks.draw      # writes docs/throughput.svg and what is between README.md's marks
"""

import json
import math
import textwrap
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

__all__ = ["draw_chart", "draw_gpu", "draw_sentence", "draw_table", "fill_readme"]

_ROOT = Path(__file__).parents[1]
_RESULTS = _ROOT / "benchmarks" / "results"
_CHART = _ROOT / "docs" / "throughput.svg"
_README = _ROOT / "README.md"
# The row that all other rows are compared with.
_BASE = "image_folder"

_WIDTH, _LABELS, _VALUES = 860, 330, 80
_BAR, _PITCH, _TOP = 16, 24, 54
# Sentences are wrapped as wide as the README's other lines.
_COLUMNS = 100

# The chart has a background of its own: a dark page may be read on a light system, or the reverse.
_STYLE = """
svg { background: #ffffff; }
text { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #1f2328; }
.small { font-size: 11px; fill: #59636e; }
.cinicpack { font-weight: 600; }
line { stroke: #d1d9e0; }
rect.rival { fill: #8c959f; }
rect.cinicpack { fill: #0969da; }
rect.limit { fill: none; stroke: #0969da; stroke-dasharray: 4 3; }
@media (prefers-color-scheme: dark) {
  svg { background: #0d1117; }
  text { fill: #e6edf3; }
  .small { fill: #9198a1; }
  line { stroke: #3d444d; }
  rect.rival { fill: #6e7681; }
  rect.cinicpack { fill: #4493f8; }
  rect.limit { stroke: #4493f8; }
}
"""


def main() -> None:
    throughput, convert = _read("throughput", "run"), _read("convert", "bench_convert")
    # gpu.json is missing until somebody has run tools/gpu on a GPU.
    gpu = _read("gpu", "bench_gpu") if (_RESULTS / "gpu.json").exists() else None
    readme = fill_readme(_README.read_text("utf-8"), throughput, convert, gpu)
    _CHART.parent.mkdir(exist_ok=True)
    _CHART.write_text(draw_chart(throughput), "utf-8")
    _README.write_text(readme, "utf-8")
    print(f"drawn from {_RESULTS}: {_README.name}, {_CHART.relative_to(_ROOT)}")


def _read(name: str, module: str) -> dict[str, Any]:
    path = _RESULTS / f"{name}.json"
    if not path.exists():
        raise SystemExit(
            f"{path}: expected results, found none; run python -m benchmarks.{module} first"
        )
    return dict(json.loads(path.read_text("utf-8")))


def fill_readme(
    readme: str,
    throughput: dict[str, Any],
    convert: dict[str, Any],
    gpu: dict[str, Any] | None = None,
) -> str:
    """Write the table and the sentences between their marks in the README's text."""
    for name, text in (
        ("throughput", draw_table(throughput)),
        ("convert", draw_sentence(convert, throughput["machine"])),
        ("gpu", draw_gpu(gpu)),
    ):
        begin, end = f"<!-- {name}: python -m benchmarks.draw -->\n", f"<!-- /{name} -->\n"
        before, mark, rest = readme.partition(begin)
        _, closing, after = rest.partition(end)
        if not (mark and closing):
            raise SystemExit(
                f"README.md: expected the lines {begin.strip()} and {end.strip()}, "
                "found not both; put them back around what is drawn"
            )
        readme = before + begin + text + end + after
    return readme


def draw_sentence(report: dict[str, Any], machine: dict[str, Any]) -> str:
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


def draw_gpu(report: dict[str, Any] | None) -> str:
    """Say how fast each path to a GPU is, and how fast a network trains on each."""
    if report is None:
        return _fill("How fast this is on a GPU: not measured.")
    parts = ("bus", "resident", "training")
    rows = {(part, row["name"]): row for part in parts for row in report[part]}
    paths = ("augmented on the host", "augmented on the device", "resident")
    host, device = (rows["bus", name]["median"] / 1e6 for name in paths[:2])
    [resident] = (row for (_, name), row in rows.items() if name.startswith("batches of 512"))
    alone = rows["training", "one cached batch"]["median"]
    trained = [rows["training", name]["ratio"] for name in paths]
    aims = [row["reached"] for row in [*rows.values(), report["memory"]] if "reached" in row]
    gpu, tests = report["gpu"], report["tests"]
    copy, idle = (
        rows["bus", name]["median"] / 1e6 for name in ("bus: plain pinned copy", "hand-off alone")
    )
    kernel = rows["resident", "kernel alone, float32"]["median"] / 1e6
    return _fill(
        f"On one {gpu['name']} with {report['threads']} threads of its host (torch "
        f"{gpu['torch']}), batches of 512 in float32 arrive at {host:.1f} million images/s "
        f"augmented on the host, {device:.1f} million augmented on the device, and "
        f"{resident['median'] / 1e6:.1f} million from resident pixels. For comparison, a loader "
        f"whose kernels do nothing hands over {idle:.1f} million, a plain copy over the bus moves "
        f"{copy:.1f} million, and the kernel by itself makes {kernel:,.0f} million. A ResNet-18 in "
        f"bfloat16 trains on one cached batch at {_round(alone):,} images/s, and on the three "
        f"paths at {trained[0]:.2f}, {trained[1]:.2f} and {trained[2]:.2f} times that. Of the "
        f"{len(aims)} ratios that the benchmark aims at {sum(aims)} are reached. The tests of the "
        f"GPU ran there: {tests['passed']} passed, {tests['failed']} failed, {tests['skipped']} "
        "skipped ([gpu.json](benchmarks/results/gpu.json), by `tools/gpu`)."
    )


def _fill(text: str) -> str:
    return textwrap.fill(text, _COLUMNS, break_long_words=False, break_on_hyphens=False) + "\n"


def _name_machine(machine: dict[str, Any]) -> str:
    return (
        f"{machine['cores_used']} cores of {machine['processor']}, {machine['memory_gb']} GB, "
        f"{machine['system']}, Python {machine['python']}"
    )


def draw_table(report: dict[str, Any]) -> str:
    """Lay out the results as Markdown, slowest row first."""
    rows = sorted(report["rows"], key=lambda row: row["median"])
    base = next((row["median"] for row in rows if row["file"] == _BASE), None)
    lines = ["| loader | images/s | lowest to highest round | ratio | differs |"]
    lines.append("| --- | ---: | ---: | ---: | --- |")
    for row in rows:
        name = f"**{row['name']}**" if row["kind"] == "cinicpack" else row["name"]
        ratio = f"{row['median'] / base:,.1f}" if base else ""
        spread = f"{_round(min(row['rounds'])):,} to {_round(max(row['rounds'])):,}"
        cells = (name, f"{_round(row['median']):,}", spread, ratio, _list_differences(row))
        lines.append(f"| {' | '.join(cells)} |")
    notes = [
        f"Medians of {report['rounds']} interleaved rounds on {_name_machine(report['machine'])}; "
        f"{report['images']:,} images of 32x32 in the page cache; "
        "random crop with padding 4, random flip, normalise, batches of 512 in float32 where the "
        "row does not say otherwise."
    ]
    if missing := report["unavailable"]:
        said = "; ".join(f"{row['name']} ({row['reason']})" for row in missing)
        notes.append(f"Not measured: {said}.")
    return "\n".join([*lines, "", "\n".join(map(_fill, notes))])


def draw_chart(report: dict[str, Any]) -> str:
    """Draw the results as bars on a logarithmic scale, as SVG that follows light and dark."""
    rows = sorted(report["rows"], key=lambda row: row["median"])
    low = math.floor(math.log10(rows[0]["median"]))
    high = math.ceil(math.log10(rows[-1]["median"]))
    span = _WIDTH - _LABELS - _VALUES
    bottom = _TOP + _PITCH * len(rows)

    def place(rate: float) -> float:
        return round(_LABELS + span * (math.log10(rate) - low) / (high - low), 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {bottom + 14}" '
        f'width="{_WIDTH}" height="{bottom + 14}" role="img">',
        f"<title>Images per second of {len(rows)} ways to load CINIC-10, logarithmic</title>",
        f"<style>{_STYLE}</style>",
        f'<text x="{_LABELS}" y="18">images/s, on a logarithmic scale: '
        "each line is ten times the one before</text>",
    ]
    for power in range(low, high + 1):
        x = place(10**power)
        parts += [
            f'<line x1="{x}" x2="{x}" y1="{_TOP - 6}" y2="{bottom}"/>',
            f'<text class="small" x="{x}" y="{_TOP - 12}" text-anchor="middle">'
            f"{10**power:,}</text>",
        ]
    for number, row in enumerate(rows):
        y = _TOP + _PITCH * number + (_PITCH - _BAR) / 2
        end, middle = place(row["median"]), y + _BAR - 4
        kind = row["kind"]
        parts += [
            f'<text class="{kind}" x="{_LABELS - 8}" y="{middle}" text-anchor="end">'
            f"{escape(row['name'])}</text>",
            f'<rect class="{kind}" x="{_LABELS}" y="{y}" width="{end - _LABELS:.1f}" '
            f'height="{_BAR}" rx="2"/>',
            f'<text class="{kind}" x="{end + 6}" y="{middle}">{_round(row["median"]):,}</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _round(rate: int) -> int:
    """Keep three figures: the spread is larger than the rest."""
    return round(rate, min(0, 3 - len(str(rate))))


def _list_differences(row: dict[str, Any]) -> str:
    lacks = row.get("check", {}).get("left_out", [])
    marks = [f"**without {', '.join(lacks)}**"] if lacks else []
    return "; ".join([row["differs"]] * bool(row["differs"]) + marks)


if __name__ == "__main__":
    main()
