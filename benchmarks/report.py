"""What the turns came to: a table, a JSON file, a plot."""

import argparse
import dataclasses
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.turns import Measured, machine

OURS = "lovecraft_jax"


def parser(about: str | None, systems: Sequence[str], sizes: Iterable[str]) -> argparse.ArgumentParser:
    """The flags that the benchmarks share."""
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--sizes", nargs="+", default=["c150"], choices=list(sizes))
    made.add_argument("--systems", nargs="+", default=list(systems), choices=list(systems))
    made.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    made.add_argument("--rounds", type=int, default=7, choices=range(1, 1000), metavar="N", help="turns of each system")
    made.add_argument("--seconds", type=float, default=2.0, help="of a turn")
    made.add_argument("--to", type=Path, default=Path("runs/benchmarks"), help="a folder for JSON, plot and log")
    return made


def ours_of(measured: Sequence[Measured]) -> Measured | None:
    """This project's turns, which the others are held against."""
    return next((one for one in measured if one.system == OURS), None)


def span(seconds: Sequence[float], median: float, scale: float) -> str:
    """A median and its range."""
    return f"{median * scale:.1f} ({min(seconds) * scale:.1f}-{max(seconds) * scale:.1f})"


def markdown(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table under its title."""
    lines = [title, "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def save(path: Path, cores: int, about: dict[str, Any], measured: Sequence[Measured]) -> None:
    """Every turn, with the versions and the machine, as JSON."""
    result = about | {"machine": machine(cores), "systems": [dataclasses.asdict(one) for one in measured]}
    path.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")


def plot(path: Path, results: Mapping[str, tuple[float, Sequence[Measured]]], unit: str) -> None:
    """One panel a result, one bar a system: `unit` (title, so many in what `Measured` times) a second, with range."""
    height = 0.6 + 0.3 * max(len(measured) for _, measured in results.values())
    figure, axes = plt.subplots(1, len(results), figsize=(5.5 * len(results), height), squeeze=False)
    for axis, (title, (count, measured)) in zip(axes[0], results.items(), strict=True):
        names = [one.system for one in measured]
        speeds = [count / one.median for one in measured]
        low = [speed - count / max(one.seconds) for speed, one in zip(speeds, measured, strict=True)]
        high = [count / min(one.seconds) - speed for speed, one in zip(speeds, measured, strict=True)]
        colours = ["#205493" if name.startswith(OURS) else "#9aa5b1" for name in names]
        axis.barh(names, speeds, color=colours, xerr=(low, high), error_kw={"elinewidth": 1, "capsize": 2})
        axis.invert_yaxis()
        axis.set_title(title, fontsize=10)
        axis.set_xlabel(f"{unit}; median, range")
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path.with_suffix(".svg"))
    plt.close(figure)
