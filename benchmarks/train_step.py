"""Training steps of this project and its peers, in turns on the same cores: `python -m benchmarks.train_step`.

Takes the peers of benchmarks/requirements.txt; what is not installed is left out and said so. Every system is a process
of its own, with the same cores, tokens and recipe; seven turns each, one after the other (A B C A B C ...).
"""

from benchmarks import report, workloads
from benchmarks.peers import products
from benchmarks.systems import PRODUCTS, TRAIN
from benchmarks.turns import Measured, Plan, in_turns

HEAD = ("system", "ms a step (range)", "characters/s", "times ours (range)", "share of the product", "peak MB")


def table(sizes: str, measured: list[Measured]) -> str:
    """A row a system, with its median and range, and how many times as long as this project it takes.

    The last is the median over the rounds of the quotient within one round.
    """
    config = workloads.get_config(sizes)
    chars, flops = config.data.batch_size * config.data.seq_len, workloads.flops(config)
    roof = max((products.FLOPS / min(one.seconds) for one in measured if one.system in PRODUCTS), default=None)
    ours = report.ours_of(measured)
    title = (
        f"{sizes}: {config.model.layers} x {config.model.units} units, {config.data.batch_size} lanes of "
        f"{config.data.seq_len} characters, {flops / 1e9:.2f} GFLOP a step"
    )
    rows = [
        (
            one.system,
            report.span(one.seconds, one.median, 1e3),
            f"{chars / one.median:,.0f}",
            one.over(ours) if ours else "-",
            f"{flops / one.median / roof:.0%}" if roof else "-",
            f"{one.peak_mb:.0f}",
        )
        for one in measured
        if one.system not in PRODUCTS
    ]
    return report.markdown(title + (f"; best product {roof / 1e9:.0f} GFLOP/s" if roof else ""), HEAD, rows)


def main() -> None:
    """Runs, prints the tables, writes JSON and plot."""
    given = report.parser(__doc__, [*TRAIN, *PRODUCTS], workloads.SIZES).parse_args()
    given.to.mkdir(parents=True, exist_ok=True)
    results = {}
    for sizes in given.sizes:
        with open(given.to / "train_step.log", "a") as log:
            measured = in_turns(given.systems, Plan("train", sizes, given.cores, given.rounds, given.seconds), log)
        print(table(sizes, measured) + "\n", flush=True)
        report.save(given.to / f"train_step-{sizes}-{given.cores}", given.cores, {"sizes": sizes}, measured)
        data = workloads.get_config(sizes).data
        shown = [one for one in measured if one.system not in PRODUCTS]
        results[f"{sizes}, {given.cores} cores"] = (data.batch_size * data.seq_len, shown)
    report.plot(given.to / f"train_step-{given.cores}", results, "characters a second")


if __name__ == "__main__":
    main()
