"""The short summary at the end of benchmarks.gpu, from what its parts have written."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.report import markdown
from benchmarks.systems import ROOFLINE
from benchmarks.training import seconds_by_part
from benchmarks.turns import Measured
from benchmarks.workloads import get_config

Results = Mapping[str, Any]


def summarise(results: Results, parts: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Returns a table of the parts, with what failed, and a line for each result."""
    rows = []
    for part, commands in parts.items():
        seconds = sum(command.get("seconds", 0.0) for command in commands)
        failed = "; ".join(f"{one['command']}: {one['why']}" for one in commands if one["why"])
        rows.append((part, f"{seconds:.0f}", failed or "done"))
    lines = [line for name, result in results.items() for line in _lines(name, result)]
    return "\n".join(["", markdown("## Summary", ("part", "seconds", ""), rows), "", *lines])


def plot(results: Results, folder: Path) -> None:
    """Plots training steps and generation into the folder."""
    for task in ("train_step", "generate"):
        panels = {}
        for name, result in results.items():
            command, _, file = name.partition("/")
            if not file.startswith(task):
                continue
            data = get_config(result["sizes"]).data
            count = data.batch_size * data.seq_len if task == "train_step" else result["streams"]
            measured = [Measured(**one) for one in result["systems"] if one["system"] not in ROOFLINE]
            panels[f"{command}: {file.removeprefix(f'{task}-')}"] = (float(count), measured)
        report.plot(folder / f"gpu-{task}", panels, "characters a second")


def _lines(name: str, result: Any) -> list[str]:
    """Returns the lines for one of the parts' files, whose name is that of its command and its own."""
    name = name.partition("/")[2]
    if name.startswith("kernels"):
        wrong = [case["form"] for case in result["results"] if case["is_wrong"]]
        return [f"kernels: {len(result['results'])} layers, wrong: {wrong or 'none'}"]
    if name.startswith("values"):
        return [f"values: {_values(result['results'])}"]
    if name.startswith(("train_step", "generate")):
        unit, scale = ("ms a step", 1e3) if name.startswith("train_step") else ("us a character", 1e6)
        measured = {one["system"]: statistics.median(one["seconds"]) for one in result["systems"]}
        fastest = sorted(measured, key=lambda system: measured[system])
        speeds = ", ".join(f"{system.replace(', ', ' ')} {measured[system] * scale:.3f}" for system in fastest)
        left_out = "".join(f"; left out: {system} ({why})" for system, why in result["left_out"].items())
        return [f"{name}, {unit}: {speeds}{left_out}"]
    if name.startswith("precision"):
        return [f"precision: {_scores(sweep)}" for sweep in result["sweeps"]]
    return [f"{name}: {_training(run)}" for run in result["runs"]]


def _values(cases: Sequence[Mapping[str, Any]]) -> str:
    """Returns how far each system is from float64."""
    found = []
    for system in dict.fromkeys(case["system"] for case in cases):
        mine = [case for case in cases if case["system"] == system]
        errors = [case["errors"]["gradient"] for case in mine if case["errors"]]
        wrong = [f"{case['size']} {case['recipe']}" for case in mine if case["is_wrong"]]
        text = f"{system}: {len(errors)} of {len(mine)} cases, gradients within {max(errors):.0e}" if errors else system
        found.append(text + ("" if errors else ": left out") + (f", WRONG: {', '.join(wrong)}" if wrong else ""))
    return "; ".join(found)


def _scores(sweep: Mapping[str, Any]) -> str:
    scores = ", ".join(f"seed {run['seed']}: valid {run['valid']}, test {run['test']}" for run in sweep["runs"])
    return f"{sweep['settings']}: {sweep.get('why') or scores} ({sweep['seconds']:.0f} s)"


def _training(run: Mapping[str, Any]) -> str:
    label = f"{run['config']} {run['settings']} {run['start']}"
    if "why" in run:
        return f"{label}: left out: {run['why']}"
    seconds, scores = seconds_by_part(run["spans"]), [line for line in run["output"] if "bpc" in line]
    return f"{label}: scores after {seconds['scores']:.1f} s, exit after {seconds['all']:.1f} s; {'; '.join(scores)}"
