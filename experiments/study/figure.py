"""The figure of the results: a panel for each question, in it a line for each setting with its seeds and interval."""

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from experiments.study.results import Line, by_question
from lovecraft_jax.report.palette import LIGHT

LINE, MARGIN = 0.27, 0.75
"""Inches of a line, and of a panel's title and ticks."""
COLOURS = {"better": LIGHT["run"], "worse": LIGHT["run2"], "no clear difference": LIGHT["author"], "": LIGHT["ink"]}
"""By verdict."""
LEGEND = (
    "bits per character of the valid tales, lower is better; dots are seeds, bars the 95 % interval of their mean;\n"
    "on the right: the gain over the line before, or over the line with the dashed line"
)


def draw(path: Path, lines: Sequence[Line]) -> None:
    """Draws the bits per character of the valid tales, lower is better, and saves the figure as an SVG."""
    panels = by_question(lines)
    heights = [LINE * len(panel) + MARGIN for panel in panels]
    figure = Figure(figsize=(9, sum(heights) + 0.3), layout=ConstrainedLayoutEngine(h_pad=0.08))
    all_axes = figure.subplots(len(panels), squeeze=False, height_ratios=heights)[:, 0]
    for axes, panel in zip(all_axes, panels, strict=True):
        _panel(axes, panel)
    all_axes[-1].set_xlabel(LEGEND, fontsize=9, color=LIGHT["ink"])
    figure.draw_without_rendering()  # which lays it out
    figure.set_layout_engine("none")
    for axes in all_axes:  # the same names of clip paths each time need the same digits
        axes.set_position([round(edge, 6) for edge in axes.get_position().bounds])
    with matplotlib.rc_context({"svg.hashsalt": path.name}):
        figure.savefig(path, metadata={"Date": None})


def _panel(axes: Axes, panel: Sequence[Line]) -> None:
    for y, line in enumerate(panel):
        colour, mean = COLOURS[line.verdict], sum(line.bpc) / len(line.bpc)
        axes.errorbar(mean, y, xerr=line.half_width, fmt="|", color=colour, capsize=3, markersize=11)
        axes.plot(line.bpc, [y] * len(line.bpc), "o", color=colour, markersize=3.5, alpha=0.7)
        if line.entry.setting == line.question.baseline:
            axes.axvline(mean, color=LIGHT["quiet"], linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
    axes.set_yticks(range(len(panel)), [line.entry.label for line in panel])
    axes.set_ylim(len(panel) - 0.4, -0.6)
    right = axes.secondary_yaxis("right")
    right.set_yticks(range(len(panel)), [_gain(line) for line in panel])
    for label, line in zip(right.get_yticklabels(), panel, strict=True):
        label.set_color(COLOURS[line.verdict])
    axes.set_title(panel[0].question.title, loc="left", fontsize=10, fontweight="bold", color=LIGHT["ink"])
    axes.grid(axis="both", color=LIGHT["line"], linewidth=0.6)
    axes.set_axisbelow(True)
    for part in (axes, right):
        part.spines[:].set_visible(False)
        part.tick_params(length=0, labelsize=9)
    axes.tick_params(labelcolor=LIGHT["ink"])


def _gain(line: Line) -> str:
    gain = line.gain[0]
    if math.isnan(gain) or line.verdict == "no clear difference":
        return line.verdict
    return f"{abs(gain):.3f} {line.verdict}" if line.verdict else f"{gain:+.3f}"
