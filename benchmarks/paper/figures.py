"""The figures: errors by epoch, and bars of ours beside those that were published."""

import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
from matplotlib.figure import Figure

__all__ = ["Bars", "draw_bars", "draw_curves"]

_COLOURS = ("#1f78b4", "#d95f02", "#999999")


class Bars(NamedTuple):
    """A panel of bars: a group for each name, and in it a bar for each series.

    Attributes:
        title: what is above it.
        names: of the groups.
        series: by label an error in percent for every name; None: no bar.
    """

    title: str
    names: Sequence[str]
    series: Mapping[str, Sequence[float | None]]


def draw_curves(reports: Sequence[Mapping[str, Any]]) -> bytes:
    """Draw the error of every epoch as SVG: in training, in validation, and on test at the end.

    Where there are several runs, each has a colour.
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained", facecolor="white")
    panel = figure.subplots()
    for number, report in enumerate(reports):
        epochs = [entry["epoch"] for entry in report["history"]]
        test = report["last"]["error"]
        name = f"{report['name']}: " if len(reports) > 1 else ""
        for key, label, style in (
            ("train_error", "in training, augmented", ":"),
            ("valid_error", "in validation", "-"),
        ):
            if key in report["history"][0]:
                errors = [entry[key] for entry in report["history"]]
                panel.plot(epochs, errors, style, color=f"C{number}", label=name + label)
        label = f"{name}test, {test:.2f} % after the last epoch"
        panel.plot(epochs[-1], test, "o", color=f"C{number}", label=label)
    panel.set(xlabel="epoch", ylabel="error in %", ylim=(0, None))
    if len(reports) == 1:
        panel.set_title(_describe(reports[0]), loc="left", fontsize=9)
    return _finish(figure, panel)


def draw_bars(panels: Sequence[Bars]) -> bytes:
    """Draw groups of bars as SVG."""
    figure = Figure(figsize=(8, 1 + 2.6 * len(panels)), layout="constrained", facecolor="white")
    axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for panel, bars in zip(axes, panels, strict=True):
        width = 0.8 / len(bars.series)
        for number, (label, values) in enumerate(bars.series.items()):
            shift = (number - (len(bars.series) - 1) / 2) * width
            there = [place for place, value in enumerate(values) if value is not None]
            drawn = panel.bar(
                [place + shift for place in there],
                [values[place] for place in there],
                0.95 * width,
                color=_COLOURS[number],
                label=label,
            )
            panel.bar_label(drawn, fmt="%.1f", fontsize=7)
        panel.set_xticks(range(len(bars.names)), bars.names, fontsize=7)
        panel.set_title(bars.title, loc="left", fontsize=9)
        panel.set_ylabel("test error in %")
    return _finish(figure, *axes)


def _describe(report: Mapping[str, Any]) -> str:
    return (
        f"{report['name']} on {report['images']['train']:,} images of {report['pack']['name']}: "
        f"{report['minutes']:.0f} min, {report['cpu_minutes']:.0f} CPU min, "
        f"{report['waited_share']:.2%} of the time waited for data"
    )


def _finish(figure: Figure, *panels: Any) -> bytes:
    """Write a figure as SVG, the same bytes for the same figures."""
    for panel in panels:
        panel.grid(color="#e5e5e5", linewidth=0.6)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(fontsize=7.5, frameon=False)
    file = io.BytesIO()
    # Texts stay texts, which take a quarter of the bytes that their outlines would.
    with matplotlib.rc_context({"svg.hashsalt": "cinicpack", "svg.fonttype": "none"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()
