"""Training steps of this project and its peers, in turns on the same cores: `python -m benchmarks.train_step`.

Takes the peers of benchmarks/requirements.txt; what is not installed is left out and said so. Every system is a process
of its own, with the same cores, tokens and recipe; seven turns each, one after the other (A B C A B C ...).
"""

import argparse
import dataclasses
import json
import os
import platform
from pathlib import Path

from benchmarks import workloads
from benchmarks.peers import products
from benchmarks.turns import Measured, in_turns

SYSTEMS = (
    "lovecraft_jax",
    "PyTorch, eager",
    "PyTorch, compiled",
    "Keras, as in 2019",
    "Keras",
    "Keras, XLA",
    "Flax, plain",
)
PRODUCTS = ("product in numpy", "product in jax", "product in torch")


def table(sizes: str, measured: list[Measured]) -> str:
    """Markdown: a row a system, with its median and range, and how many times as long as this project it takes.

    The last is the median over the rounds of the quotient within one round.
    """
    config = workloads.get_config(sizes)
    chars, flops = config.data.batch_size * config.data.seq_len, workloads.flops(config)
    roof = max((products.FLOPS / min(one.seconds) for one in measured if one.system in PRODUCTS), default=None)
    ours = next((one for one in measured if one.system == "lovecraft_jax"), None)
    lines = [
        f"{sizes}: {config.model.layers} x {config.model.units} units, {config.data.batch_size} lanes of "
        f"{config.data.seq_len} characters, {flops / 1e9:.2f} GFLOP a step"
        + (f"; best product {roof / 1e9:.0f} GFLOP/s" if roof else ""),
        "",
        "| system | ms a step (range) | characters/s | times ours (range) | share of the product | peak MB |",
        "|---|---|---|---|---|---|",
    ]
    for one in measured:
        if one.system in PRODUCTS:
            continue
        span = f"{one.median * 1e3:.1f} ({min(one.seconds) * 1e3:.1f}-{max(one.seconds) * 1e3:.1f})"
        times = one.over(ours) if ours else "-"
        share = f"{flops / one.median / roof:.0%}" if roof else "-"
        lines.append(f"| {one.system} | {span} | {chars / one.median:,.0f} | {times} | {share} | {one.peak_mb:.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Runs, prints the tables, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["c150"], choices=list(workloads.SIZES))
    parser.add_argument("--systems", nargs="+", default=[*SYSTEMS, *PRODUCTS], choices=[*SYSTEMS, *PRODUCTS])
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--to", type=Path, default=Path("runs/benchmarks"), help="a folder for the JSON and the log")
    given = parser.parse_args()
    given.to.mkdir(parents=True, exist_ok=True)
    for sizes in given.sizes:
        with open(given.to / "train_step.log", "a") as log:
            measured = in_turns(given.systems, sizes, given.cores, given.rounds, log)
        result = {"sizes": sizes, "cores": given.cores, "machine": platform.processor() or platform.machine()}
        result |= {"systems": [dataclasses.asdict(one) for one in measured]}
        (given.to / f"train_step-{sizes}-{given.cores}.json").write_text(json.dumps(result, indent=1) + "\n")
        print(table(sizes, measured) + "\n", flush=True)


if __name__ == "__main__":
    main()
