"""Characters a second that a trained run writes, whatever its tokens are: `python -m benchmarks.write --workdir=RUN`.

Counts what `sample` does: the prompt, all tokens, and their text. The first call of each number of streams compiles and
is not counted.
"""

import argparse
import json
import os
import time
from pathlib import Path

from benchmarks.report import markdown
from benchmarks.turns import machine
from lovecraft_jax.inference.sampling import Sampling
from lovecraft_jax.run import load_run

HEADER = ("streams", "characters/s, median (range)", "us a token of each stream", "characters a token")


def main() -> None:
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
    rows: list[tuple[str, ...]] = []
    turns: dict[int, list[tuple[int, float]]] = {}
    for streams in args.streams:
        turns[streams] = []
        for seed in range(args.rounds + 1):
            began = time.perf_counter()
            texts = run.generate(run.config.sample.prompt, args.length, seed, sampling, streams)
            turns[streams].append((sum(map(len, texts)), time.perf_counter() - began))
        _, *counted = turns[streams]
        speeds = sorted(chars / seconds for chars, seconds in counted)
        seconds = sorted(seconds for _, seconds in counted)[len(counted) // 2]
        rows.append(
            (
                str(streams),
                f"{speeds[len(speeds) // 2]:,.0f} ({speeds[0]:,.0f}-{speeds[-1]:,.0f})",
                f"{seconds / args.length * 1e6:,.0f}",
                f"{sum(chars for chars, _ in counted) / len(counted) / streams / args.length:.2f}",
            )
        )
    print(markdown(f"{args.workdir} at temperature {args.temperature:g}", HEADER, rows))
    about = {"workdir": args.workdir, "length": args.length, "temperature": args.temperature}
    result = about | {"machine": machine(len(os.sched_getaffinity(0))), "turns": turns}
    (args.to / "write.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
