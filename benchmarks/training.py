"""Whole trainings, from the start of the process to the scores, and where their seconds go:

python -m benchmarks.training --configs configs/c150.py --settings "" model.dtype=bfloat16 --starts cold warm

For each config and each line of settings, `lovecraft_jax.train` runs in a new workdir: `cold` with an empty cache
folder (nothing compiled, the peak of matmuls unknown), `warm` with what the cold start has put there. The corpus would
be downloaded again for each of these folders: LOVECRAFT_CORPUS names one that has it.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import markdown
from benchmarks.turns import ROOT, machine
from lovecraft_jax.runtime.errors import WRONG_INPUT
from lovecraft_jax.training.metrics import FILE, FINAL

HEADER = ("config, settings", "start", "to the scores", "to the exit")
PARTS = (
    "imports",
    "devices",
    "data",
    "program",
    "first state",
    "first dispatch",
    "steps",
    "evaluation",
    "final scores",
    "adaptive scores",
)
"""Columns of the table, in the order in which they first happen. "program" traces and lowers the first state, and on a
CPU may wait for the C++ compiler; "steps" is the rest of training."""
COMPILE = "backend_compile_duration"
"""JAX's event for the time that XLA compiles, or reads what it compiled earlier."""


def main() -> None:
    """Prints a table, after each run its row, and saves JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", nargs="+", default=["configs/c150.py"], help="as lovecraft_jax.train --config")
    parser.add_argument(
        "--settings", nargs="+", default=[""], help='lines as "model.dtype=bfloat16 seed=1"; a run each'
    )
    parser.add_argument("--starts", nargs="+", default=["cold", "warm"], choices=["cold", "warm"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "gpu"])
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds after which a run is ended")
    parser.add_argument("--name", default="training", help="of the JSON file")
    parser.add_argument("--to", type=Path, default=Path("runs/benchmarks"), help="a folder for JSON and log")
    args = parser.parse_args()
    args.to.mkdir(parents=True, exist_ok=True)
    print(markdown("seconds", [*HEADER, *PARTS, "XLA compiles", "scores, bits per character"], []), flush=True)
    runs: list[dict[str, Any]] = []
    about = {"device": args.device, "machine": machine(len(os.sched_getaffinity(0)), args.device)}
    with tempfile.TemporaryDirectory() as folder, open(args.to / f"{args.name}.log", "a") as log:
        for config in args.configs:
            for settings in args.settings:
                cache = Path(folder) / f"cache{len(runs)}"
                for start in args.starts:
                    workdir = Path(folder) / f"run{len(runs)}"
                    run = {"config": config, "settings": settings, "start": start}
                    run |= _train(config, settings, args, workdir, cache, log)
                    runs.append(run)
                    (args.to / f"{args.name}.json").write_text(json.dumps(about | {"runs": runs}, indent=1) + "\n")
                    print("| " + " | ".join(_row(run)) + " |", flush=True)
                    if run["exit_code"] == WRONG_INPUT:
                        break  # the other start would say the same


def _train(
    config: str, settings: str, args: argparse.Namespace, workdir: Path, cache: Path, log: Any
) -> dict[str, Any]:
    """Trains once; returns the exit code, seconds, the record of traced_train.py and the scores."""
    environment = os.environ | {"XDG_CACHE_HOME": str(cache), "CUDA_CACHE_PATH": str(cache / "cuda")}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    environment |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""} if args.device == "cpu" else {}
    record = workdir.with_suffix(".json")
    began = time.time()
    command = [sys.executable, "-m", "benchmarks.traced_train", str(record), str(began), f"--config={config}"]
    command += [f"--workdir={workdir}", *(f"--config.{setting}" for setting in settings.split())]
    errors = workdir.with_suffix(".log")
    with open(errors, "w") as stderr:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True)
        try:
            output = process.communicate(timeout=args.limit)[0]
            code = process.returncode
        except subprocess.TimeoutExpired:
            process.kill()
            code, output = -1, process.communicate()[0]
    seconds, said = time.time() - began, errors.read_text(errors="replace")
    log.write(f"{shlex.join(command)}\n{said}\n")
    log.flush()
    found: dict[str, Any] = {"exit_code": code, "seconds": seconds, "output": output.splitlines()}
    if code:
        found["why"] = f"ended after {args.limit:g} s" if code == -1 else (said.splitlines() or [""])[-1][:400]
    if record.exists():
        found |= json.loads(record.read_text())
    if (workdir / FILE).exists():
        rows = [json.loads(line) for line in (workdir / FILE).read_text().splitlines()]
        found["scores"] = [row for row in rows if row.get("scoring") in FINAL]
        found["rates"] = [row["chars_per_second"] for row in rows if row["split"] == "train"][-3:]
    return found


def _row(run: Mapping[str, Any]) -> list[str]:
    """Returns a run's cells in the table."""
    label = " ".join([run["config"].removeprefix("configs/").replace(".py", ""), run["settings"]]).strip()
    cells = [label, run["start"]]
    if "why" in run:
        return [*cells, f"left out: {run['why']}"]
    parts = seconds_by_part(run["spans"])
    cells += [f"{parts[name]:.1f}" for name in ("scores", "all")]
    cells += [f"{parts.get(name, 0.0):.1f}" for name in PARTS]
    compiled = {name.partition(" ")[2]: took for name, took in run["jax"].items() if name.startswith(COMPILE)}
    longest = sorted(compiled, key=lambda name: -compiled[name])[:3]
    listed = ", ".join(f"{name} {compiled[name]:.1f}" for name in longest)
    cells.append(f"{sum(compiled.values()):.1f} ({listed})")
    return [*cells, "; ".join(line for line in run["output"] if "bpc" in line)]


def seconds_by_part(spans: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Returns the seconds of each part that traced_train.py records, of "steps" and of "final scores", and after how
    many "scores" all of them were known."""
    parts, ends = dict[str, float](), dict[str, float]()
    for span in spans:
        parts[span["name"]] = parts.get(span["name"], 0.0) + span["end"] - span["start"]
        ends[span["name"]] = span["end"]
    other = sum(parts.get(name, 0.0) for name in ("first dispatch", "evaluation", "matmul peak"))
    final = parts.get("finish", 0.0) - parts.get("adaptive scores", 0.0)
    steps = parts.get("training", 0.0) - other
    return parts | {"steps": steps, "final scores": final, "scores": ends.get("finish", 0.0)}


if __name__ == "__main__":
    main()
