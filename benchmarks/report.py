"""Command-line flags, tables, JSON files and plots of the benchmarks."""

import argparse
import dataclasses
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.turns import Measured, machine

OURS = "lovecraft_jax"


def parser(
    description: str | None, systems: Sequence[str], sizes: Iterable[str], more: Sequence[str] = ()
) -> argparse.ArgumentParser:
    """Returns a parser with the flags that the benchmarks share. `more` systems are measured where they are named."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--sizes", nargs="+", default=["c150"], choices=list(sizes))
    made.add_argument("--systems", nargs="+", default=list(systems), choices=[*systems, *more])
    made.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    made.add_argument("--rounds", type=int, default=7, choices=range(1, 1000), metavar="N", help="turns of each system")
    made.add_argument("--seconds", type=float, default=2.0, help="duration of a turn")
    made.add_argument("--to", type=Path, default=Path("runs/benchmarks"), help="a folder for JSON, plot and log")
    return made


def find_ours(measured: Sequence[Measured]) -> Measured | None:
    """Returns this project's measurements, which the others are compared with; None if it was not measured."""
    return next((one for one in measured if one.system == OURS), None)


def median_and_range(seconds: Sequence[float], median: float, scale: float) -> str:
    """Returns a table cell with a median and its range."""
    return f"{median * scale:.1f} ({min(seconds) * scale:.1f}-{max(seconds) * scale:.1f})"


def markdown(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table under its title."""
    lines = [title, "", "| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def save(path: Path, cores: int, about: dict[str, Any], measured: Sequence[Measured]) -> None:
    """Saves every turn, with the versions and the machine, as JSON."""
    result = about | {"machine": machine(cores), "systems": [dataclasses.asdict(one) for one in measured]}
    path.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")


def plot(path: Path, results: Mapping[str, tuple[float, Sequence[Measured]]], unit: str) -> None:
    """Plots throughputs: one panel a result, one bar a system with its range.

    `results` maps a title to how many characters one of the `Measured.seconds` stands for, and the systems.
    """
    height = 0.6 + 0.3 * max(len(measured) for _, measured in results.values())
    figure = Figure(figsize=(5.5 * len(results), height))
    all_axes = figure.subplots(1, len(results), squeeze=False)[0]
    for axes, (title, (count, measured)) in zip(all_axes, results.items(), strict=True):
        names = [one.system for one in measured]
        speeds = [count / one.median for one in measured]
        low = [speed - count / max(one.seconds) for speed, one in zip(speeds, measured, strict=True)]
        high = [count / min(one.seconds) - speed for speed, one in zip(speeds, measured, strict=True)]
        colours = ["#205493" if name.startswith(OURS) else "#9aa5b1" for name in names]
        axes.barh(names, speeds, color=colours, xerr=(low, high), error_kw={"elinewidth": 1, "capsize": 2})
        axes.invert_yaxis()
        axes.set_title(title, fontsize=10)
        axes.set_xlabel(f"{unit}; median, range")
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path.with_suffix(".svg"))
