"""Writing by this project and its peers, in turns on the same cores: `python -m benchmarks.generate`.

As benchmarks.train_step, but the systems write text, one character after the other, in one stream or many at once.
"products alone" is a bare loop, compiled by XLA, of the products that a character needs: no gates, no lookup, no draw.
"""

from benchmarks import report, workloads
from benchmarks.systems import WRITE
from benchmarks.turns import Measured, Plan, in_turns

HEAD = ("system", "us a character of each stream (range)", "characters/s", "times ours (range)", "peak MB")


def table(sizes: str, streams: int, measured: list[Measured]) -> str:
    """A row a system, with its median and range, and how many times as long as this project it takes."""
    ours = report.ours_of(measured)
    rows = [
        (
            one.system,
            report.span(one.seconds, one.median, 1e6),
            f"{streams / one.median:,.0f}",
            one.over(ours) if ours else "-",
            f"{one.peak_mb:.0f}",
        )
        for one in measured
    ]
    return report.markdown(f"{sizes}, {streams} stream{'s' if streams > 1 else ''}", HEAD, rows)


def main() -> None:
    """Runs, prints the tables, writes JSON and plot."""
    parser = report.parser(__doc__, list(WRITE), workloads.SIZES)
    parser.add_argument("--streams", nargs="+", type=int, default=[1, 256], help="texts written at once")
    given = parser.parse_args()
    given.to.mkdir(parents=True, exist_ok=True)
    results = {}
    for sizes in given.sizes:
        for streams in given.streams:
            systems = [one for one in given.systems if streams == 1 or "printing" not in one]
            plan = Plan("write", sizes, given.cores, given.rounds, given.seconds, streams)
            with open(given.to / "generate.log", "a") as log:
                measured = in_turns(systems, plan, log)
            print(table(sizes, streams, measured) + "\n", flush=True)
            name = f"generate-{sizes}-{streams}-{given.cores}"
            report.save(given.to / name, given.cores, {"sizes": sizes, "streams": streams}, measured)
            results[f"{sizes}, {streams} at once, {given.cores} cores"] = (streams, measured)
    report.plot(given.to / f"generate-{given.cores}", results, "characters a second")


if __name__ == "__main__":
    main()
