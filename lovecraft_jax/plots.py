"""Numbers in, matplotlib figures out, in the report's light colours."""

import dataclasses
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lovecraft_jax.colours import LIGHT, RUNS
from lovecraft_jax.metrics import Row

WIDTH = 4.9  # inches, of 72 units each in the SVG: with text of 10 it can be read on a telephone


@dataclasses.dataclass(frozen=True)
class Curve:
    """What is drawn of a run: its rows, and the characters of a step, so that batches of different sizes compare."""

    name: str
    rows: list[Row]
    chars_per_step: int
    baselines: dict[str, float]


def curve(curves: Sequence[Curve]) -> Figure:
    """Bits per character over the characters read: training, scheduled scores of the valid split, baselines."""
    figure, axes = _figure(3.1)
    for run, colour in zip(curves, RUNS, strict=False):
        for split, width, alpha in (("train", 0.8, 0.55), ("valid", 1.8, 1.0)):
            rows = [row for row in run.rows if row["split"] == split and row.get("scoring", "scheduled") == "scheduled"]
            rows = [row for row in rows if row["bpc"] is not None]
            label = f"{run.name}: {split}" if len(curves) > 1 else split
            read = [row["step"] * run.chars_per_step / 1e6 for row in rows]
            axes.plot(
                read, [row["bpc"] for row in rows], color=LIGHT[colour], label=label, linewidth=width, alpha=alpha
            )
    scores = [row["bpc"] for run in curves for row in run.rows if row["split"] == "valid" and row["bpc"] is not None]
    top = min(axes.get_ylim()[1], max(scores) * 1.3) if scores else axes.get_ylim()[1]
    axes.set_ylim(top=top)  # the first hundred steps fall from so high that all the rest would be flat
    for name, bpc in curves[0].baselines.items():
        if bpc < top and all(run.baselines == curves[0].baselines for run in curves):
            axes.axhline(bpc, color=LIGHT["author"], linestyle=(0, (4, 3)), linewidth=1)
            axes.annotate(
                f"{name} {bpc:.3f}",
                (0, bpc),
                xycoords=("axes fraction", "data"),
                xytext=(4, 3),
                textcoords="offset points",
                color=LIGHT["quiet"],
            )
    axes.set(xlabel="million characters read", ylabel="bits per character")
    axes.legend(frameon=False, labelcolor=LIGHT["ink"])
    return figure


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LIGHT["line"])
    axes.tick_params(color=LIGHT["line"], labelcolor=LIGHT["quiet"])
    axes.xaxis.label.set_color(LIGHT["quiet"])
    axes.yaxis.label.set_color(LIGHT["quiet"])
    return figure, axes
