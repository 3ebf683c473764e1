"""The report's plots: matplotlib figures in the light colours, and their conversion to SVG for the page."""

import dataclasses
import io
import math
import re
import warnings
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from lovecraft_jax.inference.baselines import labelled_scores
from lovecraft_jax.probing.rare_words import LetterPrediction
from lovecraft_jax.report.palette import LIGHT, RUNS
from lovecraft_jax.runtime.files import Row
from lovecraft_jax.stylometry.authorship import DistributionComparison

WIDTH = 4.9  # inches; text of 10 points is then readable on a phone
MAX_TALES = 100
DASHES = ("-", (0, (4, 2)), (0, (1, 1.5)))  # line styles, for the most important text first


@dataclasses.dataclass(frozen=True)
class TrainingCurve:
    """What `training_curve` needs of a run."""

    name: str
    rows: list[Row]
    chars_per_step: float  # makes runs with different batches comparable
    baselines: dict[str, float]  # as baselines.json has them


def training_curve(curves: Sequence[TrainingCurve]) -> Figure:
    """Bits per character over the characters read: the training loss, scheduled valid scores, baselines."""
    figure, (axes,) = _figure(3.1)
    for run, colour in zip(curves, RUNS, strict=False):
        for split, width, alpha in (("train", 0.8, 0.55), ("valid", 1.8, 1.0)):
            rows = [row for row in run.rows if row["split"] == split and row.get("scoring", "scheduled") == "scheduled"]
            rows = [row for row in rows if row["bpc"] is not None]
            read, bpc = [row["step"] * run.chars_per_step / 1e6 for row in rows], [row["bpc"] for row in rows]
            label = _legend_label(f"{run.name}: {split}" if len(curves) > 1 else split)
            marker = "o" if len(read) == 1 else None  # a line of one point is invisible
            axes.plot(read, bpc, marker=marker, color=LIGHT[colour], label=label, linewidth=width, alpha=alpha)
    scores = [row["bpc"] for run in curves for row in run.rows if row["split"] == "valid" and row["bpc"] is not None]
    if scores:  # the loss of the first steps is so high that everything else would look flat
        axes.set_ylim(top=min(axes.get_ylim()[1], 1.3 * max(scores)))
    top = axes.get_ylim()[1]
    first, *others = (labelled_scores(run.baselines) for run in curves)
    for name, baseline in first.items():
        if baseline < top and all(other.get(name) == baseline for other in others):
            axes.axhline(baseline, color=LIGHT["author"], linestyle=(0, (4, 3)), linewidth=1)
            style: dict[str, Any] = {"xytext": (4, 3), "textcoords": "offset points", "color": LIGHT["quiet"]}
            axes.annotate(f"{name} {baseline:.3f}", (0, baseline), xycoords=("axes fraction", "data"), **style)
    drawn = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.get_lines()])
    axes.set_ylim(bottom=float(np.min(drawn, initial=top)) - 0.05 * top)
    axes.locator_params(axis="x", nbins=6)
    axes.set(xlabel="million characters read", ylabel="bits per character")
    _legend(axes)
    return figure


def training_samples(read: Sequence[float], features: Sequence[tuple[str, Sequence[float]]], colour: str) -> Figure:
    """Features of the training samples over the million characters read, one panel each."""
    figure, panels = _figure(1.35 * len(features) + 0.4, len(features))
    for axes, (title, values) in zip(panels, features, strict=True):
        axes.plot(read, values, "o-", color=LIGHT[colour], linewidth=1.5, markersize=3)
        axes.set_title(title, loc="left", fontsize=10, color=LIGHT["ink"])
        axes.locator_params(axis="y", nbins=4)
        axes.locator_params(axis="x", nbins=6)
    panels[-1].set_xlabel("million characters read")
    return figure


def letter_frequencies(name: str, letters: DistributionComparison, colour: str) -> Figure:
    """Letter frequencies in per cent: the author's interval as a bar, the text's as a dot."""
    figure, (axes,) = _figure(2.9)
    places = np.arange(len(letters.x))
    axes.vlines(places, 100 * letters.low, 100 * letters.high, color=LIGHT["author"], linewidth=5, alpha=0.5)
    axes.plot(places, 100 * letters.value, "o", color=LIGHT[colour], markersize=4, label=name)
    if not np.isnan(letters.low).all():
        axes.plot([], [], color=LIGHT["author"], linewidth=5, alpha=0.5, label="author, 95 %")
    axes.set_xticks(places, letters.x)
    axes.set(ylabel="% of letters", ylim=(0, None), xlim=(-0.8, len(letters.x) - 0.2))
    _legend(axes)
    return figure


def distributions(
    texts: dict[str, DistributionComparison], xlabel: str, ylabel: str, colour: str, logarithmic: bool = False
) -> Figure:
    """A distribution of several texts as lines, the last one solid; the author's interval as a band with the median."""
    figure, (axes,) = _figure(2.9)
    for (name, text), dashes in zip(reversed(texts.items()), DASHES, strict=False):
        axes.plot(text.x, text.value, color=LIGHT[colour], linewidth=1.5, linestyle=dashes, label=name)
    axes.fill_between(text.x, text.low, text.high, color=LIGHT["author"], alpha=0.35, linewidth=0)
    if not np.isnan(text.median).all():
        axes.plot(text.x, text.median, color=LIGHT["author"], linewidth=1.5, label="author, 95 %")
    # The range is set by the author and the last text, so that an outlier of another text leaves the plot.
    highest = np.max(np.nan_to_num([text.high, list(texts.values())[-1].value]), initial=0)
    if logarithmic and highest:
        axes.set(xscale="log", yscale="log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(bottom=0)
        axes.set_ylim(top=1.25 * (highest or 1))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.set(xlabel=xlabel, ylabel=ylabel)
    _legend(axes)
    return figure


def word_probabilities(letters: Sequence[LetterPrediction], colour: str) -> Figure:
    """The probability of each letter of a word as a bar, with the most probable letter above it. "" is the end."""
    figure, (axes,) = _figure(2.6)
    axes.bar(range(len(letters)), [100 * letter.prob for letter in letters], color=LIGHT[colour], width=0.62)
    for place, letter in enumerate(letters):
        height, best = 100 * letter.prob, letter.text == letter.likeliest
        note, shade = (f"{height:.0f}", "quiet") if best else (letter.likeliest or "end", "ink")
        colour = LIGHT[shade]
        axes.annotate(note, (place, height), xytext=(0, 3), textcoords="offset points", ha="center", color=colour)
    axes.set_xticks(range(len(letters)), [letter.text or "end" for letter in letters])
    axes.set(ylabel="% probable", ylim=(0, 112))
    axes.set_yticks([0, 50, 100])
    return figure


def tale_scores(runs: dict[str, dict[str, float]]) -> Figure:
    """Bits per character of each tale (run -> tale -> score), from the first run's best on, those that it has
    not last; MAX_TALES of more."""
    first_run = next(iter(runs.values()))
    order = {tale: (first_run.get(tale, math.inf), tale) for scores in runs.values() for tale in scores}
    tales = sorted(order, key=order.__getitem__)
    tales = [tales[n] for n in np.unique(np.linspace(0, len(tales) - 1, MAX_TALES).round().astype(int))]
    figure, (axes,) = _figure(0.26 * len(tales) + 1.0)
    for (name, scores), colour in zip(runs.items(), RUNS, strict=False):
        places, label = [n for n, tale in enumerate(tales) if tale in scores], _legend_label(name)
        axes.plot([scores[tales[n]] for n in places], places, "o", color=LIGHT[colour], markersize=6, label=label)
    axes.set_yticks(range(len(tales)), tales, parse_math=False)
    axes.set(xlabel="bits per character", ylim=(len(tales) - 0.5, -0.5))
    axes.grid(axis="y", color=LIGHT["line"], linewidth=0.8)
    axes.set_axisbelow(True)
    if len(runs) > 1:
        _legend(axes)
    return figure


def svg(figure: Figure, label: str, key: str) -> str:
    """Returns a figure as one `<svg>` element for an HTML page. `label` describes it for screen readers. `key` must be
    unique on the page: ids are derived from it. Each colour of LIGHT becomes a CSS variable of the page."""
    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": key}), warnings.catch_warnings():
        # The browser draws the text, in a font that has it; matplotlib only measures it, in one that may lack it.
        warnings.filterwarnings("ignore", r"Glyph \d+|Matplotlib currently does not support", UserWarning)
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(text.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            # A style sheet in here would apply to the whole page.
            if _local_name(child.tag) in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        # HTML needs no namespaces, and ElementTree would invent prefixes for them.
        element.tag = _local_name(element.tag)
        element.attrib = {_local_name(name): value for name, value in element.attrib.items()}
        if element.tag == "g":
            element.attrib.pop("id", None)  # figure_1, axes_1: the same in every figure
        if "style" in element.attrib:
            element.set("style", _with_css_variables(element.attrib["style"]))
    del root.attrib["width"], root.attrib["height"]
    root.set("role", "img")
    root.set("aria-label", label)
    return ElementTree.tostring(root, encoding="unicode")


def _local_name(name: str) -> str:
    return name.rpartition("}")[-1]


def _with_css_variables(style: str) -> str:
    """Replaces colours by the page's variables, and removes the font, so that the page's applies."""
    for name, colour in LIGHT.items():
        style = style.replace(colour, f"var(--{name})")
    return re.sub(r"font-family: [^;]+(; )?", "", style)


def _figure(height: float, panels: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    all_axes = list(figure.subplots(panels, sharex=True, squeeze=False)[:, 0])
    for axes in all_axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(LIGHT["line"])
        axes.tick_params(which="both", color=LIGHT["line"], labelcolor=LIGHT["quiet"])
        axes.xaxis.label.set_color(LIGHT["quiet"])
        axes.yaxis.label.set_color(LIGHT["quiet"])
    return figure, all_axes


def _legend(axes: Axes) -> None:
    for text in axes.legend(frameon=False, labelcolor=LIGHT["ink"]).get_texts():
        text.set_parse_math(False)  # a dollar in the name of a run is a dollar


def _legend_label(label: str) -> str:
    """A label that the legend shows even if it begins with an underscore, which matplotlib hides."""
    return "\u200b" + label if label.startswith("_") else label
