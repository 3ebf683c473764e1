"""Text generation by this project and its peers, in turns on the same cores: `python -m benchmarks.generate`.

As benchmarks.train_step, but the systems generate text character by character, in one stream or in many.
"matmuls alone" is a bare loop, compiled by XLA, of the matmuls that a character needs: no gates, embedding or sampling.
"""

from benchmarks import report, workloads
from benchmarks.systems import GENERATE
from benchmarks.turns import Measured, Plan, measure_in_turns

HEADER = ("system", "us a character of each stream (range)", "characters/s", "times ours (range)", "peak MB")


def main() -> None:
    """Measures, prints the tables, and saves JSON and a plot."""
    parser = report.parser(__doc__, list(GENERATE), workloads.SIZES)
    parser.add_argument("--streams", nargs="+", type=int, default=[1, 256], help="texts generated at once")
    args = parser.parse_args()
    args.to.mkdir(parents=True, exist_ok=True)
    results = {}
    for sizes in args.sizes:
        for streams in args.streams:
            systems = [system for system in args.systems if streams == 1 or "printing" not in system]
            plan = Plan("generate", sizes, args.cores, args.rounds, args.seconds, streams)
            with open(args.to / "generate.log", "a") as log:
                measured = measure_in_turns(systems, plan, log)
            print(table(sizes, streams, measured) + "\n", flush=True)
            name = f"generate-{sizes}-{streams}-{args.cores}"
            report.save(args.to / name, args.cores, {"sizes": sizes, "streams": streams}, measured)
            results[f"{sizes}, {streams} at once, {args.cores} cores"] = (streams, measured)
    report.plot(args.to / f"generate-{args.cores}", results, "characters a second")


def table(sizes: str, streams: int, measured: list[Measured]) -> str:
    """Returns a row for each system: its median and range, and its time divided by this project's."""
    ours = report.find_ours(measured)
    rows = [
        (
            one.system,
            report.median_and_range(one.seconds, one.median, 1e6),
            f"{streams / one.median:,.0f}",
            one.times(ours) if ours else "-",
            f"{one.peak_mb:.0f}",
        )
        for one in measured
    ]
    return report.markdown(f"{sizes}, {streams} stream{'s' if streams > 1 else ''}", HEADER, rows)


if __name__ == "__main__":
    main()
