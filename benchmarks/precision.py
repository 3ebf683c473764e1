"""Trains the same seeds in float32 and in bfloat16, and compares their scores: `python -m benchmarks.precision`.

Each is a `lovecraft_jax.sweep` over the seeds, which on a GPU trains them as one program. The first settings are what
the others are compared with, seed by seed.
"""

import argparse
import json
import math
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.report import markdown
from benchmarks.turns import ROOT, machine

SETTINGS = ("model.dtype=float32", "model.dtype=bfloat16", "model.dtype=bfloat16 model.backend=cuda")
HEADER = ("settings", "valid, bits per character", "test", "minus the first: valid, mean (range)", "test", "seconds")


def main() -> None:
    """Prints a table, and after each sweep saves JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/c150.py")
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), help="lines of settings; a sweep each")
    parser.add_argument("--seeds", default="3", help="as of lovecraft_jax.sweep")
    parser.add_argument("--device", default="cpu", choices=["cpu", "gpu"])
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds after which a sweep is ended")
    parser.add_argument("--to", type=Path, default=Path("runs/benchmarks"), help="a folder for JSON and log")
    args = parser.parse_args()
    args.to.mkdir(parents=True, exist_ok=True)
    about = {"device": args.device, "machine": machine(len(os.sched_getaffinity(0)), args.device)}
    sweeps: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, open(args.to / "precision.log", "a") as log:
        for number, settings in enumerate(args.settings):
            sweeps.append({"settings": settings} | _sweep(settings, args, Path(folder) / str(number), log))
            (args.to / "precision.json").write_text(json.dumps(about | {"sweeps": sweeps}, indent=1) + "\n")
    print(markdown(f"{args.config}, seeds {args.seeds}", HEADER, [_row(sweep, sweeps[0]) for sweep in sweeps]))


def _sweep(settings: str, args: argparse.Namespace, folder: Path, log: Any) -> dict[str, Any]:
    """Trains all seeds; returns their scores, or why there are none, and the seconds it took."""
    command = [sys.executable, "-m", "lovecraft_jax.sweep", f"--config={args.config}", f"--seeds={args.seeds}"]
    command += [
        f"--workdir={folder}",
        "--config.train.adaptive=False",
        *(f"--config.{setting}" for setting in settings.split()),
    ]
    environment = os.environ | ({"JAX_PLATFORMS": "cpu"} if args.device == "cpu" else {})
    began = time.time()
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=args.limit, check=False
        )
        why, said = (done.stderr.splitlines() or [""])[-1][:400] if done.returncode else "", done.stderr
    except subprocess.TimeoutExpired:
        why, said = f"ended after {args.limit:g} s", ""
    log.write(f"{shlex.join(command)}\n{said}\n")
    found: dict[str, Any] = {"seconds": time.time() - began, "runs": []}
    if (folder / "results.json").exists():
        found["runs"] = json.loads((folder / "results.json").read_text())[0]["runs"]
    return found | ({"why": why} if why else {})


def _row(sweep: dict[str, Any], first: dict[str, Any]) -> list[str]:
    label = sweep["settings"]
    if "why" in sweep:
        return [label, f"left out: {sweep['why']}", *[""] * 4]
    scores, differences = [], []
    for split in ("valid", "test"):
        mine, theirs = (
            {run["seed"]: run[split] if run[split] is not None else math.nan for run in one["runs"]}
            for one in (sweep, first)
        )
        pairs = [mine[seed] - theirs[seed] for seed in mine if seed in theirs]
        scores.append(", ".join(f"{score:.4f}" for score in mine.values()))
        differences.append(f"{statistics.fmean(pairs):+.4f} ({min(pairs):+.4f} to {max(pairs):+.4f})" if pairs else "-")
    return [label, *scores, *differences, f"{sweep['seconds']:.0f}"]


if __name__ == "__main__":
    main()
