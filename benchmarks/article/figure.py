"""One figure of the table: a panel a question, a line a rung, a dot a seed, and the interval of their mean."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from benchmarks.article.experiments import questions
from benchmarks.article.results import Line
from lovecraft_jax.colours import LIGHT

FILE = "article.svg"


def draw(path: Path, lines: Sequence[Line]) -> None:
    """Bits per character of the valid tales, lower is better, as an SVG."""
    panels = {name: [line for line in lines if line.question == name] for name in questions()}
    panels = {name: of for name, of in panels.items() if of}
    sizes = [len(of) for of in panels.values()]
    figure = Figure(figsize=(8, 0.27 * sum(sizes) + 0.5 * len(sizes) + 0.6), layout="constrained")
    every = figure.subplots(len(panels), sharex=True, squeeze=False, height_ratios=[size + 0.6 for size in sizes])
    for axes, (name, of) in zip(every[:, 0], panels.items(), strict=True):
        for place, line in enumerate(of):
            mean = sum(line.bpc) / len(line.bpc)
            axes.errorbar(mean, place, xerr=line.half_width, fmt="|", color=LIGHT["run"], capsize=3, markersize=9)
            axes.plot(line.bpc, [place] * len(line.bpc), "o", color=LIGHT["run2"], markersize=3, alpha=0.7)
        axes.set_yticks(range(len(of)), [line.rung.label for line in of])
        axes.set_ylim(len(of) - 0.4, -0.6)
        axes.set_title(questions()[name].title, loc="left", fontsize=10, color=LIGHT["ink"])
        axes.grid(axis="both", color=LIGHT["line"], linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
        axes.tick_params(length=0, labelcolor=LIGHT["ink"], labelsize=9)
    every[-1, 0].set_xlabel("bits per character of the valid tales; dots are seeds, bars the mean's 95 % interval")
    with matplotlib.rc_context({"svg.hashsalt": path.name}):
        figure.savefig(path, metadata={"Date": None})
