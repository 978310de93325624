"""The distribution of pixel intensities of each source, counted and drawn."""

import io
import os
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cinicpack.cinic10 import Origin
from cinicpack.errors import CinicPackError
from cinicpack.jit import jit
from cinicpack.store.pack import Pack
from cinicpack.study.output import require_suffix, write_file
from cinicpack.study.planes import map_planes
from cinicpack.study.statistics import SOURCE_OF_ORIGIN
from cinicpack.text import one_line

__all__ = ["Histograms", "count_intensities", "draw_histograms", "import_matplotlib"]

#: For every source, uint64 (3, 256): how many pixels have each intensity, per channel.
Histograms = Mapping[str, NDArray[np.uint64]]

# By source: label, colour, opacity of the area, and dashes of the mean. The colours can be told
# apart with any colour vision, and are not red, green or blue, which would look like channels. The
# dashes of imagenet and cifar10 are offset, so that both are seen where the means coincide.
_STYLES: Final = {
    "imagenet": ("ImageNet contributors", "#d95f02", 0.35, (0, (4, 4))),
    "cifar10": ("CIFAR-10", "#1f78b4", 0.0, (4, (4, 4))),
    "unknown": ("unknown source", "#666666", 0.0, (0, (1, 2))),
}
_PANELS: Final = ("all channels", "red", "green", "blue")


def count_intensities(pack: Pack, split: str | None = None) -> dict[str, NDArray[np.uint64]]:
    """Count the pixels of every intensity, per source and channel.

    Args:
        pack: an open pack.
        split: a split, or several joined by ``+``; all by default.

    Returns:
        For every source that occurs, uint64 (3, 256).
    """
    names = pack.splits if split is None else pack[split].name.split("+")
    splits = [pack[name] for name in names]
    origins = np.concatenate([split.sources["origin"] for split in splits])

    def count(rows: slice, planes: NDArray[np.uint8]) -> NDArray[np.uint64]:
        counts = np.zeros((len(Origin), 3, 256), np.uint64)
        _count_block(planes, origins[rows], counts)
        return counts

    counts = np.sum(map_planes(splits, count), axis=0)
    found = {}
    for name in _STYLES:
        of_source = counts[[origin for origin in Origin if SOURCE_OF_ORIGIN[origin] == name]].sum(0)
        if of_source.any():
            found[name] = of_source
    return found


@jit
def _count_block(
    planes: NDArray[np.uint8], origins: NDArray[np.uint8], counts: NDArray[np.uint64]
) -> None:
    for row in range(len(planes)):
        for channel in range(3):
            for value in planes[row, channel]:
                counts[origins[row], channel, value] += np.uint64(1)


def import_matplotlib() -> Any:
    """Return matplotlib with what draws figures; raises `CinicPackError` if it is not there."""
    try:
        import matplotlib.figure
        import matplotlib.lines
    except ImportError as error:
        raise CinicPackError(
            f"expected matplotlib, which draws histograms, found {one_line(error)}; "
            "install it with pip install matplotlib"
        ) from None
    return matplotlib


def draw_histograms(
    path: str | os.PathLike[str], histograms: Histograms, *, title: str | None = None
) -> None:
    """Draw what `count_intensities` counted as ``.png`` or ``.svg``.

    After ``images/histogram-cinic.svg`` of the authors, which has all channels in one: shares of
    the pixels by colour intensity, the means as dashed lines. ``title`` says whose they are.

    Raises:
        ArgumentError: for any other suffix.
        CinicPackError: matplotlib is not installed.
    """
    suffix = require_suffix(path, ".png", ".svg")
    matplotlib = import_matplotlib()
    shares = {name: _share_pixels(counts) for name, counts in histograms.items()}
    # The axis fits the intensities 1 to 254: black and overexposed pixels would press all others
    # into a third of the height. The figure says what is cut off.
    top = 1.4 * max(float(share[:, 1:255].max()) for share in shares.values()) or 1
    # Matplotlib's ids with a fixed salt, and no date, so that the same pack gives the same file.
    with matplotlib.rc_context({"svg.hashsalt": "cinicpack", "font.size": 9}):
        figure = matplotlib.figure.Figure(
            figsize=(8, 5), dpi=150, layout="constrained", facecolor="white"
        )
        panels = figure.subplots(2, 2, sharex=True, sharey=True).flat
        for number, (panel, channel) in enumerate(zip(panels, _PANELS, strict=True)):
            for name, share in shares.items():
                _draw_curve(panel, name, share[number])
            panel.set_title(channel, loc="left", fontsize=10)
            panel.set(xlim=(-2, 257), ylim=(0, top))
            panel.grid(color="#e5e5e5", linewidth=0.6)
            panel.set_axisbelow(True)
            panel.spines[["top", "right"]].set_visible(False)
            panel.legend(loc="upper center", fontsize=7.5, framealpha=1, edgecolor="none")
        names = [*(_STYLES[name][0] for name in shares), "dashed: mean intensity"]
        dashed = matplotlib.lines.Line2D(
            [], [], color="#333333", linestyle=(0, (4, 4)), linewidth=1.2
        )
        handles = [*panel.get_legend_handles_labels()[0], dashed]
        figure.legend(handles, names, loc="outside upper right", ncols=len(names), frameon=False)
        if title is not None:
            # A pack's name may have signs that the font lacks, and dollar signs without formulas.
            plain = title.encode("ascii", "backslashreplace").decode()
            figure.suptitle(plain, x=0.01, ha="left", fontsize=11, parse_math=False)
        figure.supxlabel(
            "colour intensity (black, at 0, and full brightness, at 255, may go beyond the top)",
            fontsize=9,
        )
        figure.supylabel("share of the pixels", fontsize=9)
        file = io.BytesIO()
        metadata = {"Date": None} if suffix == ".svg" else {"Software": None}
        figure.savefig(file, format=suffix[1:], metadata=metadata)
    write_file(path, file.getvalue())


def _share_pixels(counts: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Turn counts (3, 256) into shares (4, 256): of all channels, then of each."""
    each = np.concatenate([counts.sum(0, keepdims=True), counts])
    shares: NDArray[np.float64] = each / each.sum(1, keepdims=True)
    return shares


def _draw_curve(panel: Any, name: str, share: NDArray[np.float64]) -> None:
    _, colour, opacity, dashes = _STYLES[name]
    mean = float(share @ np.arange(256))
    label = f"mean {mean:.1f}, {share[0]:.1%} at 0, {share[255]:.1%} at 255"
    edges = np.arange(257) - 0.5
    panel.stairs(share, edges, fill=True, color=colour, alpha=opacity)
    panel.stairs(share, edges, color=colour, linewidth=1, label=label)
    panel.axvline(mean, color=colour, linestyle=dashes, linewidth=1.2)
