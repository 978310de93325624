"""The README's table and chart, drawn from results/throughput.json.

python -m benchmarks.draw      # writes docs/throughput.svg and the table between README.md's marks
"""

import json
import math
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

__all__ = ["draw_chart", "draw_table"]

_ROOT = Path(__file__).parents[1]
_RESULTS = _ROOT / "benchmarks" / "results" / "throughput.json"
_CHART = _ROOT / "docs" / "throughput.svg"
_README = _ROOT / "README.md"
_MARKS = "<!-- throughput: python -m benchmarks.draw -->\n", "<!-- /throughput -->"
# The row that the others are compared with.
_BASE = "image_folder"

_WIDTH, _LABELS, _VALUES = 860, 330, 80
_BAR, _PITCH, _TOP = 16, 24, 30

_STYLE = """
text { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #1f2328; }
.small { font-size: 11px; fill: #59636e; }
.cinicpack { font-weight: 600; }
line { stroke: #d1d9e0; }
rect.rival { fill: #8c959f; }
rect.cinicpack { fill: #0969da; }
rect.bound { fill: none; stroke: #0969da; stroke-dasharray: 4 3; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; }
  .small { fill: #9198a1; }
  line { stroke: #3d444d; }
  rect.rival { fill: #6e7681; }
  rect.cinicpack { fill: #4493f8; }
  rect.bound { stroke: #4493f8; }
}
"""


def main() -> None:
    report = json.loads(_RESULTS.read_text())
    _CHART.parent.mkdir(exist_ok=True)
    _CHART.write_text(draw_chart(report))
    table = draw_table(report)
    print(table)
    readme = _README.read_text()
    begin, end = _MARKS
    if begin in readme:
        before, rest = readme.split(begin, 1)
        _README.write_text(before + begin + table + end + rest.split(end, 1)[1])


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
    machine = report["machine"]
    lines += [
        "",
        f"Medians of {report['rounds']} interleaved rounds on {machine['cores_used']} cores of "
        f"{machine['processor']}, {machine['memory_gb']} GB, {machine['system']}, "
        f"Python {machine['python']}; {report['images']:,} images of 32x32 in the page cache; "
        "random crop with padding 4, random flip, normalise, batches of 512 in float32 where the "
        "row does not say otherwise.",
    ]
    if missing := report["unavailable"]:
        said = "; ".join(f"{row['name']} ({row['reason']})" for row in missing)
        lines += ["", f"Not measured: {said}."]
    return "\n".join(lines) + "\n"


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
