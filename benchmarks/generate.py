"""Text generation by this project and its peers, in turns on the same device: `python -m benchmarks.generate`.

As benchmarks.train_step, but the systems generate text character by character, in one stream or in many.
"matmuls alone" is a bare loop, compiled by XLA, of the matmuls that a character needs: no gates, embedding or sampling.
"""

from collections.abc import Sequence

from benchmarks import report
from benchmarks.systems import GENERATE_BY_DEVICE
from benchmarks.turns import Measured, Plan, measure_in_turns

HEADER = ("system", "us a character of each stream (range)", "characters/s", "times ours (range)", "peak MB")


def main() -> None:
    """Measures, prints the tables, and saves JSON and a plot."""
    args = report.parse_arguments(__doc__, "generate", GENERATE_BY_DEVICE, {"--streams": [1, 256]})
    results, within = {}, args.within / len(args.sizes) / len(args.streams)
    for sizes in args.sizes:
        for streams in args.streams:
            systems = [system for system in args.systems if streams == 1 or "printing" not in system]
            turns = args.rounds, args.seconds, streams, args.limit, within
            plan = Plan("generate", sizes, args.device, args.cores, *turns)
            with open(args.to / "generate.log", "a") as log:
                measured, left_out = measure_in_turns(systems, plan, log)
            print(table(sizes, streams, measured) + "\n", flush=True)
            about = {"sizes": sizes, "streams": streams}
            report.save(args.to / f"generate-{sizes}-{streams}-{args.where}", args, about, measured, left_out)
            where = "GPU" if args.device == "gpu" else f"{args.cores} cores"
            results[f"{sizes}, {streams} at once, {where}"] = (streams, measured)
            report.plot(args.to / f"generate-{args.where}", results, "characters a second")


def table(sizes: str, streams: int, measured: Sequence[Measured]) -> str:
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
