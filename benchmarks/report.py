"""Command-line flags, tables, JSON files and plots of the benchmarks."""

import argparse
import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.systems import OURS, changes_of, find_system
from benchmarks.turns import Measured, machine
from benchmarks.workloads import SIZES, SIZES_BY_DEVICE


def parse_arguments(
    description: str | None, task: str, systems: Mapping[str, Sequence[str]], more: Mapping[str, Any] | None = None
) -> argparse.Namespace:
    """Returns the flags that the benchmarks share, and `more` with their defaults. `systems`: what is measured on each
    device where --systems does not say it."""

    def system(name: str) -> str:
        try:
            find_system(task, name)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        return name

    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--device", default="cpu", choices=list(systems))
    made.add_argument("--sizes", nargs="+", choices=list(SIZES))
    made.add_argument("--systems", nargs="+", type=system, metavar="SYSTEM", help="names as in benchmarks/systems.py")
    made.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    made.add_argument("--rounds", type=int, default=7, choices=range(1, 1000), metavar="N", help="turns of each system")
    made.add_argument("--seconds", type=float, help="duration of a turn; by default 2, on a GPU 0.3")
    made.add_argument("--limit", type=float, default=600.0, help="seconds after which a system that hangs is left out")
    made.add_argument("--within", type=float, default=float("inf"), help="seconds for everything, where time is short")
    made.add_argument("--to", type=Path, default=Path("runs/benchmarks"), help="a folder for JSON, plot and log")
    for name, default in (more or {}).items():
        made.add_argument(name, nargs="+", type=type(default[0]), default=default)
    args = made.parse_args()
    args.sizes = args.sizes or SIZES_BY_DEVICE[args.device]
    args.systems = args.systems or systems[args.device]
    args.seconds = args.seconds or {"cpu": 2.0, "gpu": 0.3}[args.device]
    args.where = "gpu" if args.device == "gpu" else str(args.cores)  # in names of files
    args.to.mkdir(parents=True, exist_ok=True)
    return args


def find_ours(measured: Sequence[Measured]) -> Measured | None:
    """Returns this project's measurements, which the others are compared with; None if it was not measured."""
    return next((one for one in measured if one.system == OURS), None)


def median_and_range(seconds: Sequence[float], median: float, scale: float) -> str:
    """Returns a table cell with a median and its range."""
    digits = 1 if median * scale >= 10 else 2 if median * scale >= 1 else 3
    low, high = min(seconds) * scale, max(seconds) * scale
    return f"{median * scale:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def markdown(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table under its title."""
    lines = [title, "", "| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def save(
    path: Path, args: argparse.Namespace, about: dict[str, Any], measured: Sequence[Measured], left_out: dict[str, str]
) -> None:
    """Saves every turn, with the versions, the machine, and why systems were left out, as JSON."""
    result = about | {"device": args.device, "machine": machine(args.cores, args.device), "left_out": left_out}
    result["systems"] = [dataclasses.asdict(one) for one in measured]
    path.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")


def plot(path: Path, results: Mapping[str, tuple[float, Sequence[Measured]]], unit: str) -> None:
    """Plots throughputs: one panel a result, one bar a system with its range. Nothing, where no system ran.

    `results` maps a title to how many characters one of the `Measured.seconds` stands for, and the systems.
    """
    results = {title: (count, measured) for title, (count, measured) in results.items() if measured}
    if not results:
        return
    height = max(1.5, 0.6 + 0.3 * max(len(measured) for _, measured in results.values()))
    figure = Figure(figsize=(5.5 * len(results), height))
    all_axes = figure.subplots(1, len(results), squeeze=False)[0]
    for axes, (title, (count, measured)) in zip(all_axes, results.items(), strict=True):
        names = [one.system for one in measured]
        counts = [count * changes_of(one.system)[1] for one in measured]
        speeds = [chars / one.median for chars, one in zip(counts, measured, strict=True)]
        low = [speed - n / max(one.seconds) for speed, n, one in zip(speeds, counts, measured, strict=True)]
        high = [n / min(one.seconds) - speed for speed, n, one in zip(speeds, counts, measured, strict=True)]
        colours = ["#205493" if name.startswith(OURS) else "#9aa5b1" for name in names]
        axes.barh(names, speeds, color=colours, xerr=(low, high), error_kw={"elinewidth": 1, "capsize": 2})
        axes.invert_yaxis()
        axes.set_title(title, fontsize=10)
        axes.set_xlabel(f"{unit}; median, range")
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path.with_suffix(".svg"))
