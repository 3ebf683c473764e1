"""Numbers in, matplotlib figures out, in the report's light colours."""

import dataclasses
import io
import re
from collections.abc import Sequence
from xml.etree import ElementTree

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from lovecraft_jax.report.palette import LIGHT, RUNS
from lovecraft_jax.runtime.files import Row
from lovecraft_jax.stylometry.authorship import DistributionComparison

matplotlib.rcParams["text.parse_math"] = False  # a dollar in the name of a run or a tale is a dollar

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
ElementTree.register_namespace("", _SVG)
ElementTree.register_namespace("xlink", _XLINK)

WIDTH = 4.9  # inches, of 72 units each in the SVG: with text of 10 it can be read on a telephone
LINES = ("-", (0, (4, 2)), (0, (1, 1.5)))
"""Of the most important text, the next, the least."""


@dataclasses.dataclass(frozen=True)
class Curve:
    """What is drawn of a run: its rows, and the characters of a step, so that batches of different sizes compare."""

    name: str
    rows: list[Row]
    chars_per_step: float
    baselines: dict[str, float]


def curve(curves: Sequence[Curve]) -> Figure:
    """Bits per character over the characters read: training, scheduled scores of the valid split, baselines."""
    figure, axes = _figure(3.1)
    for run, colour in zip(curves, RUNS, strict=False):
        for split, width, alpha in (("train", 0.8, 0.55), ("valid", 1.8, 1.0)):
            rows = [row for row in run.rows if row["split"] == split and row.get("scoring", "scheduled") == "scheduled"]
            rows = [row for row in rows if row["bpc"] is not None]
            read, bpc = [row["step"] * run.chars_per_step / 1e6 for row in rows], [row["bpc"] for row in rows]
            label = f"{run.name}: {split}" if len(curves) > 1 else split
            marker = "o" if len(read) == 1 else None  # a line of one point cannot be seen
            axes.plot(read, bpc, marker=marker, color=LIGHT[colour], label=_named(label), linewidth=width, alpha=alpha)
    scores = [row["bpc"] for run in curves for row in run.rows if row["split"] == "valid" and row["bpc"] is not None]
    if scores:  # the first hundred steps fall from so high that all the rest would be flat
        axes.set_ylim(top=min(axes.get_ylim()[1], 1.3 * max(scores)))
    top = axes.get_ylim()[1]
    for name, baseline in curves[0].baselines.items():
        if baseline < top and all(run.baselines == curves[0].baselines for run in curves):
            axes.axhline(baseline, color=LIGHT["author"], linestyle=(0, (4, 3)), linewidth=1)
            axes.annotate(
                f"{name} {baseline:.3f}",
                (0, baseline),
                xycoords=("axes fraction", "data"),
                xytext=(4, 3),
                textcoords="offset points",
                color=LIGHT["quiet"],
            )
    drawn = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.get_lines()])
    axes.set_ylim(bottom=float(np.min(drawn, initial=top)) - 0.05 * top)
    axes.locator_params(axis="x", nbins=6)
    axes.set(xlabel="million characters read", ylabel="bits per character")
    axes.legend(frameon=False, labelcolor=LIGHT["ink"])
    return figure


def learning(read: Sequence[float], figures: Sequence[tuple[str, Sequence[float]]], colour: str) -> Figure:
    """Figures of what was written while it learnt, one above the other, over the characters read."""
    figure = Figure(figsize=(WIDTH, 1.35 * len(figures) + 0.4), layout="constrained")
    panels = figure.subplots(len(figures), sharex=True, squeeze=False)[:, 0]
    for axes, (title, values) in zip(panels, figures, strict=True):
        _quiet(axes)
        axes.plot(read, values, "o-", color=LIGHT[colour], linewidth=1.5, markersize=3)
        axes.set_title(title, loc="left", fontsize=10, color=LIGHT["ink"])
        axes.locator_params(axis="y", nbins=4)
        axes.locator_params(axis="x", nbins=6)
    panels[-1].set_xlabel("million characters read")
    return figure


def letters(name: str, text: DistributionComparison, colour: str) -> Figure:
    """The frequency of each letter in per cent: the author's interval as a bar, the text's as a dot."""
    figure, axes = _figure(2.9)
    places = np.arange(len(text.x))
    axes.vlines(places, 100 * text.low, 100 * text.high, color=LIGHT["author"], linewidth=5, alpha=0.5)
    axes.plot(places, 100 * text.value, "o", color=LIGHT[colour], markersize=4, label=name)
    if not np.isnan(text.low).all():
        axes.plot([], [], color=LIGHT["author"], linewidth=5, alpha=0.5, label="author, 95 %")
    axes.set_xticks(places, text.x)
    axes.set(ylabel="% of letters", ylim=(0, None), xlim=(-0.8, len(text.x) - 0.2))
    axes.legend(frameon=False, labelcolor=LIGHT["ink"])
    return figure


def lines(
    texts: dict[str, DistributionComparison], xlabel: str, ylabel: str, colour: str, logarithmic: bool = False
) -> Figure:
    """The author's interval as a band with its median, each text as a line; the last is the most important."""
    figure, axes = _figure(2.9)
    for (name, text), dashes in zip(reversed(texts.items()), LINES, strict=False):
        axes.plot(text.x, text.value, color=LIGHT[colour], linewidth=1.5, linestyle=dashes, label=name)
    axes.fill_between(text.x, text.low, text.high, color=LIGHT["author"], alpha=0.35, linewidth=0)
    if not np.isnan(text.median).all():
        axes.plot(text.x, text.median, color=LIGHT["author"], linewidth=1.5, label="author, 95 %")
    if logarithmic:
        axes.set(xscale="log", yscale="log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(bottom=0)
        # What few sentences do, or none end, may stand far above: it runs off.
        axes.set_ylim(top=1.25 * np.nanmax([text.high, list(texts.values())[-1].value]))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.legend(frameon=False, labelcolor=LIGHT["ink"])
    return figure


def word(letters: Sequence[str], probs: Sequence[float], likeliest: Sequence[str], colour: str) -> Figure:
    """A word letter by letter: how probable each was, and above it what was likelier. "" is the word's end."""
    figure, axes = _figure(2.6)
    axes.bar(range(len(letters)), [100 * prob for prob in probs], color=LIGHT[colour], width=0.62)
    for place, (letter, prob, first) in enumerate(zip(letters, probs, likeliest, strict=True)):
        note = f"{100 * prob:.0f}" if letter == first else first or "end"
        shade = LIGHT["quiet" if letter == first else "ink"]
        axes.annotate(note, (place, 100 * prob), xytext=(0, 3), textcoords="offset points", ha="center", color=shade)
    axes.set_xticks(range(len(letters)), [letter or "end" for letter in letters])
    axes.set(ylabel="% probable", ylim=(0, 112))
    axes.set_yticks([0, 50, 100])
    return figure


def scores(runs: dict[str, dict[str, float]]) -> Figure:
    """Bits per character by run and tale, the first run's best on top."""
    tales = sorted(
        {tale for of in runs.values() for tale in of}, key=lambda tale: next(iter(runs.values())).get(tale, 0)
    )
    figure, axes = _figure(0.26 * len(tales) + 1.0)
    for (name, of), colour in zip(runs.items(), RUNS, strict=False):
        places = [tales.index(tale) for tale in of]
        axes.plot(list(of.values()), places, "o", color=LIGHT[colour], markersize=6, label=_named(name))
    axes.set_yticks(range(len(tales)), tales)
    axes.set(xlabel="bits per character", ylim=(len(tales) - 0.5, -0.5))
    axes.grid(axis="y", color=LIGHT["line"], linewidth=0.8)
    axes.set_axisbelow(True)
    if len(runs) > 1:
        axes.legend(frameon=False, labelcolor=LIGHT["ink"])
    return figure


def _named(label: str) -> str:
    """For a legend, which leaves out what begins with an underscore."""
    return "\u200b" + label if label.startswith("_") else label


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots()
    _quiet(axes)
    return figure, axes


def _quiet(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LIGHT["line"])
    axes.tick_params(which="both", color=LIGHT["line"], labelcolor=LIGHT["quiet"])
    axes.xaxis.label.set_color(LIGHT["quiet"])
    axes.yaxis.label.set_color(LIGHT["quiet"])


def svg(figure: Figure, label: str, key: str) -> str:
    """One `<svg>` element that fills its container; `label` says what it shows, `key` is its own on the page.

    A colour of LIGHT becomes a variable of the page's style sheet, which knows light and dark.
    """
    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": key}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(text.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            # Metadata is of no use here, and a style sheet inside would be the whole page's.
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        if element.tag == f"{{{_SVG}}}g":
            element.attrib.pop("id", None)  # figure_1, axes_1: the same in every figure
        if "style" in element.attrib:
            element.set("style", _themed(element.attrib["style"]))
    for size in ("width", "height"):
        root.attrib.pop(size)
    root.set("role", "img")
    root.set("aria-label", label)
    return ElementTree.tostring(root, encoding="unicode")


def _themed(style: str) -> str:
    """Variables for colours, and the page's font."""
    for name, colour in LIGHT.items():
        style = style.replace(colour, f"var(--{name})")
    return re.sub(r"font-family: [^;]+(; )?", "", style)
