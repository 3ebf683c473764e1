"""python -m lovecraft_jax.sweep --config=configs/c150.py --config.optimizer.lr=0.002,0.004 --seeds=3: trains both."""

import functools
import os
import shlex
import sys

from absl import flags

from lovecraft_jax import cli
from lovecraft_jax.runtime.console import log, printable
from lovecraft_jax.runtime.errors import DONE, RunError, UserError
from lovecraft_jax.runtime.files import locked_workdir, resolve_path
from lovecraft_jax.sweep.grid import Given, Point, make_points, parse_seeds, split_flags
from lovecraft_jax.sweep.runs import Outcome, check_runs, train_runs
from lovecraft_jax.sweep.table import Result, compare_best, format_table, sorted_results, write_results


def main(given: Given) -> int:
    """Trains a run for every point of the grid and every seed, prints the table and the best point's command, and
    returns an exit code. `given`: the values of the settings."""
    cli.required_flag("config", "configs/c150.py")
    file, seeds = cli.config_file(), parse_seeds(cli.required_flag("seeds", "3"))
    points = make_points(functools.partial(cli.parse_config, file), given, seeds)
    folder = cli.optional_flag("workdir") or cli.default_workdir(os.path.join("runs", "sweeps"))
    if (resolve_path(folder) / "config.json").exists():
        raise UserError(f"--workdir={folder}: a run is in it; give the sweep a folder of its own")
    workdirs = {
        (point.name, seed): os.path.join(folder, point.name, f"seed{seed}") for point in points for seed in seeds
    }
    runs = {workdirs[point.name, seed]: config for point in points for seed, config in point.by_seed.items()}
    known: dict[str, Outcome] = {}

    def results() -> list[Result]:
        for workdir in runs:
            if workdir not in known or not known[workdir].is_over:
                known[workdir] = Outcome.of(workdir)
        by_point = [{seed: known[workdirs[point.name, seed]] for seed in seeds} for point in points]
        return sorted_results([Result(*pair) for pair in zip(points, by_point, strict=True)])

    with locked_workdir(folder, flags.FLAGS.take_over) as path:
        check_runs(runs)
        report = lambda: write_results(path, results(), workdirs)  # noqa: E731
        report()  # so that the folder is known as a sweep's
        code = train_runs(runs, flags.FLAGS.stack, flags.FLAGS.take_over, report)
        report()
        if code != DONE:
            over = sum(outcome.is_over for outcome in known.values())
            log(f"interrupted with {over} of {len(runs)} runs done: the same command goes on from there")
            return code
        ranked = results()
        print(printable(format_table(ranked)), flush=True)
        if not ranked[0].has_score:
            raise RunError(f"{folder}: no point of the grid has a final score")
        log("", f"bits per character, medians of the seeds; all is in {path / 'results.json'}", *compare_best(ranked))
        print(f"\n{printable(_train_command(file, ranked[0].point, folder))}", flush=True)
        return DONE


def _train_command(file: str, point: Point, folder: str) -> str:
    settings = [f"--config.{name}={text}" for name, text in point.overrides]
    seed = f"--config.seed={min(point.by_seed)}"
    platform = [f"--platform={flags.FLAGS.platform}"] if flags.FLAGS["platform"].present else []
    line = [f"--config={file}", *settings, seed, f"--workdir={os.path.join(folder, 'best')}", *platform]
    return shlex.join(["python", "-m", "lovecraft_jax.train", *line])


if __name__ == "__main__":
    cli.define_sweep_flags()
    flags.DEFINE_string("seeds", "1", "How many seeds, from 0, or which: 3, or 0,5,7.")
    flags.DEFINE_integer(
        "stack",
        0,
        "Runs to train as one program; 0: 16 on an accelerator, 1 on a CPU, where it is faster.",
        lower_bound=0,
    )
    sys.argv[1:], given = split_flags(flags.FLAGS.read_flags_from_files(sys.argv[1:]))
    cli.run(functools.partial(main, given))
