"""Training steps of this project and its peers, in turns on the same cores: `python -m benchmarks.train_step`.

Needs the peers of benchmarks/requirements.txt; a peer that is not installed is left out with a warning. Every system
runs in its own process with the same cores, tokens and recipe, for seven turns, one system after the other
(A B C A B C ...). The first system is configs/c150.py:plain, what all peers compute; "lovecraft_jax, recipe" and its
variants are measured where --systems names them.
"""

from benchmarks import report, workloads
from benchmarks.peers import matmuls
from benchmarks.systems import MATMULS, TRAIN, TRAIN_VARIANTS
from benchmarks.turns import Measured, Plan, measure_in_turns

HEADER = ("system", "ms a step (range)", "characters/s", "times ours (range)", "share of the matmul peak", "peak MB")


def main() -> None:
    """Measures, prints the tables, and saves JSON and a plot."""
    args = report.parser(__doc__, [*TRAIN, *MATMULS], workloads.SIZES, list(TRAIN_VARIANTS)).parse_args()
    args.to.mkdir(parents=True, exist_ok=True)
    results = {}
    for sizes in args.sizes:
        plan = Plan("train", sizes, args.cores, args.rounds, args.seconds)
        with open(args.to / "train_step.log", "a") as log:
            measured = measure_in_turns(args.systems, plan, log)
        print(table(sizes, measured) + "\n", flush=True)
        report.save(args.to / f"train_step-{sizes}-{args.cores}", args.cores, {"sizes": sizes}, measured)
        data = workloads.get_config(sizes).data
        training = [one for one in measured if one.system not in MATMULS]
        results[f"{sizes}, {args.cores} cores"] = (data.batch_size * data.seq_len, training)
    report.plot(args.to / f"train_step-{args.cores}", results, "characters a second")


def table(sizes: str, measured: list[Measured]) -> str:
    """Returns a row for each system: its median and range, its time divided by this project's, and which share of its
    time the step's matmuls would take at the speed of the fastest large matmul."""
    config = workloads.get_config(sizes)
    chars, flops = config.data.batch_size * config.data.seq_len, workloads.flops(config)
    peak = max((matmuls.FLOPS / min(one.seconds) for one in measured if one.system in MATMULS), default=None)
    ours = report.find_ours(measured)
    title = (
        f"{sizes}: {config.model.layers} x {config.model.units} units, {config.data.batch_size} rows of "
        f"{config.data.seq_len} characters, {flops / 1e9:.2f} GFLOP a step"
    )
    rows = [
        (
            one.system,
            report.median_and_range(one.seconds, one.median, 1e3),
            f"{chars / one.median:,.0f}",
            one.times(ours) if ours else "-",
            f"{flops / one.median / peak:.0%}" if peak else "-",
            f"{one.peak_mb:.0f}",
        )
        for one in measured
        if one.system not in MATMULS
    ]
    return report.markdown(title + (f"; best matmul {peak / 1e9:.0f} GFLOP/s" if peak else ""), HEADER, rows)


if __name__ == "__main__":
    main()
