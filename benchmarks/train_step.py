"""Training steps of this project and its peers, in turns on the same device: `python -m benchmarks.train_step`.

Needs the peers of benchmarks/requirements.txt, with --device=gpu those of requirements-gpu.txt; what is not installed,
or does not run on the device, is left out with a warning. Every system runs in its own process with the same cores,
tokens and recipe, for seven turns, one system after the other (A B C A B C ...). "lovecraft_jax" is
configs/c150.py:plain, what all peers compute. --systems takes names as "PyTorch, CUDA graph, bfloat16", or
"lovecraft_jax, recipe, bfloat16": changes may follow our name.
"""

from collections.abc import Mapping, Sequence

from benchmarks import report, workloads
from benchmarks.peers import matmuls
from benchmarks.systems import ROOFLINE, TRAIN_BY_DEVICE, changes_of, config_of, precision_of
from benchmarks.turns import Measured, Plan, measure_in_turns

HEADER = ("system", "ms a step (range)", "characters/s", "times ours (range)", "share of the matmul peak", "peak MB")


def main() -> None:
    """Measures, prints the tables, and saves JSON and a plot."""
    args = report.parse_arguments(__doc__, "train", TRAIN_BY_DEVICE)
    results = {}
    for sizes in args.sizes:
        plan = Plan(
            "train",
            sizes,
            args.device,
            args.cores,
            args.rounds,
            args.seconds,
            1,
            args.limit,
            args.within / len(args.sizes),
        )
        with open(args.to / "train_step.log", "a") as log:
            measured, left_out = measure_in_turns(args.systems, plan, log)
        print(table(sizes, args.device, measured) + "\n", flush=True)
        report.save(args.to / f"train_step-{sizes}-{args.where}", args, {"sizes": sizes}, measured, left_out)
        data = workloads.get_config(sizes).data
        training = [one for one in measured if one.system not in ROOFLINE]
        where = "GPU" if args.device == "gpu" else f"{args.cores} cores"
        results[f"{sizes}, {where}"] = (data.batch_size * data.seq_len, training)
        report.plot(args.to / f"train_step-{args.where}", results, "characters a second")


def table(sizes: str, device: str, measured: Sequence[Measured]) -> str:
    """Returns a row for each system: its median and range, its time divided by this project's, and which share of its
    time the step's matmuls would take at the speed of the fastest large matmul of the same precision."""
    config = workloads.get_config(sizes)
    chars, peaks = config.data.batch_size * config.data.seq_len, _peaks(device, measured)
    title = (
        f"{sizes}: {config.model.layers} x {config.model.units} units, {config.data.batch_size} rows of "
        f"{config.data.seq_len} characters, {workloads.flops(config) / 1e9:.2f} GFLOP a step"
    )
    ours, rows = report.find_ours(measured), []
    for one in measured:
        if one.system in ROOFLINE:
            continue
        runs, peak = changes_of(one.system)[1], peaks.get(precision_of(one.system, device))
        flops = runs * workloads.flops(config_of(one.system, config))
        rows.append(
            (
                one.system,
                report.median_and_range(one.seconds, one.median, 1e3),
                f"{runs * chars / one.median:,.0f}",
                one.times(ours) if ours else "-",
                f"{flops / one.median / peak:.0%}" if peak else "-",
                f"{one.peak_mb:.0f}",
            )
        )
    return report.markdown(title + _roofline(device, measured), HEADER, rows) + _stacked(measured)


def _peaks(device: str, measured: Sequence[Measured]) -> Mapping[str, float]:
    """Returns the FLOPs per second of the fastest large matmul by its precision."""
    peaks = dict[str, float]()
    for one in measured:
        if one.system.startswith("matmul"):
            # numpy computes on the CPU, whatever the device.
            size, precision = (
                ("cpu", "float32") if "numpy" in one.system else (device, precision_of(one.system, device))
            )
            peaks[precision] = max(peaks.get(precision, 0.0), matmuls.flops(size) / min(one.seconds))
    return peaks


def _roofline(device: str, measured: Sequence[Measured]) -> str:
    """Returns the peaks for the table's title."""
    peaks = _peaks(device, measured)
    is_named = device == "gpu" or len(peaks) > 1
    found = [f"{peak / 1e9:,.0f} GFLOP/s" + (f" in {name}" if is_named else "") for name, peak in peaks.items()]
    text = f"; best matmul {', '.join(found)}" if found else ""
    bandwidth = [matmuls.copied_bytes(device) / min(one.seconds) for one in measured if one.system == "memory in jax"]
    return text + "".join(f"; memory {speed / 1e9:,.0f} GB/s" for speed in bandwidth)


def _stacked(measured: Sequence[Measured]) -> str:
    """Returns a line below the table for each program of several runs whose single run was measured too."""
    lines, by_name = [], {one.system: one for one in measured}
    for name, one in by_name.items():
        changes, runs = changes_of(name)
        if runs > 1 and (alone := by_name.get(", ".join([report.OURS, *changes]))):
            lines.append(f"\n{name}: {one.times(alone)} times the step of one")
    return "\n" + "".join(lines) if lines else ""


if __name__ == "__main__":
    main()
