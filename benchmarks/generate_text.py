"""Characters per second that a trained run generates, whatever its tokens are:

python -m benchmarks.generate_text --workdir=RUN

Counts what `sample` does: the prompt, all tokens, and their text.
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.report import markdown
from benchmarks.turns import machine
from lovecraft_jax import cli
from lovecraft_jax.inference.sampling import Sampling
from lovecraft_jax.run import Run, load_run
from lovecraft_jax.runtime.errors import DONE

HEADER = ("streams", "characters/s, median (range)", "us a token of each stream", "characters a token")


def main() -> int:
    """Measures, prints a table, and saves JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True, help="of a run")
    parser.add_argument("--streams", nargs="+", type=int, default=[1, 256], help="texts generated at once")
    parser.add_argument("--length", type=int, default=1000, help="tokens of each text")
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--rounds", type=int, default=7, choices=range(1, 1000), metavar="N")
    parser.add_argument("--to", type=Path, default=Path("runs/benchmarks"), help="a folder for JSON")
    args = parser.parse_args()
    args.to.mkdir(parents=True, exist_ok=True)
    run, sampling = load_run(args.workdir), Sampling(args.temperature)
    measured = [_measure(run, args.length, sampling, streams, args.rounds) for streams in args.streams]
    print(markdown(f"{args.workdir} at temperature {args.temperature:g}", HEADER, list(map(_row, measured))))
    about = {"workdir": args.workdir, "temperature": args.temperature, "machine": machine(len(os.sched_getaffinity(0)))}
    file = args.to / f"generate_text-{Path(args.workdir).resolve().name}.json"
    file.write_text(json.dumps(about | {"measured": measured}, indent=1) + "\n")
    return DONE


def _measure(run: Run, length: int, sampling: Sampling, streams: int, rounds: int) -> dict[str, Any]:
    """Returns the characters and the seconds of each round, and the seconds of a call before them, which compiles."""
    chars, seconds = list[int](), list[float]()
    for seed in range(rounds + 1):
        began = time.perf_counter()
        texts = run.generate(run.config.sample.prompt, length, seed, sampling, streams)
        seconds.append(time.perf_counter() - began)
        chars.append(sum(map(len, texts)))
    return {
        "streams": streams,
        "length": length,
        "characters": chars[1:],
        "seconds": seconds[1:],
        "first_seconds": seconds[0],
    }


def _row(measured: dict[str, Any]) -> tuple[str, ...]:
    """Returns the cells of a line of the table."""
    chars, seconds = measured["characters"], measured["seconds"]
    speeds = [n / time for n, time in zip(chars, seconds, strict=True)]
    return (
        str(measured["streams"]),
        f"{statistics.median(speeds):,.0f} ({min(speeds):,.0f}-{max(speeds):,.0f})",
        f"{statistics.median(seconds) / measured['length'] * 1e6:,.0f}",
        f"{statistics.mean(chars) / measured['streams'] / measured['length']:.2f}",
    )


if __name__ == "__main__":
    sys.exit(cli.report_errors(main))
