"""Throughput of a setting, and training of its seeds through the package's own loop."""

import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from experiments.study.measure import measure
from experiments.study.plan import DISPATCH
from experiments.study.study import Study
from lovecraft_jax.config import Config
from lovecraft_jax.data import dataset
from lovecraft_jax.runtime.errors import DONE, RunError
from lovecraft_jax.runtime.files import write_json
from lovecraft_jax.sweep.runs import Outcome, train_runs
from lovecraft_jax.training.compiled import dispatch_steps, make_program
from lovecraft_jax.training.settings_by_size import choose_settings

EVALUATIONS, SAVES = 4, 10
"""Scheduled evaluations and checkpoints of a run."""
MEASURED = "measured.json"


def steps_per_second(config: ConfigDict, least_seconds: float) -> float:
    """Returns the throughput in training steps per second of this process's CPU time, or of wall time on accelerators.

    Trains for at least `least_seconds`. Other load on the machine only ever slows a dispatch, so the result is the
    0.1 quantile of their times.
    """
    data = dataset.prepare(Config.of(config))
    typed, _ = choose_settings(Config.of(config), data)
    batches = dataset.make_batches(typed, data)
    program = make_program(typed, data.tokenizer.size, 10**6)
    clock = time.process_time if program.devices[0].platform == "cpu" else time.perf_counter
    state, K = program.init(typed.seed), dispatch_steps(typed)
    seconds: list[float] = []
    while sum(seconds[1:]) < least_seconds:
        began = clock()
        state, step_metrics = program.train_steps(state, program.put(batches.at(len(seconds) * K, K, program.rows)))
        jax.block_until_ready(step_metrics)
        seconds.append(clock() - began)
    return K / float(np.quantile(seconds[1:], 0.1))  # the first dispatch compiled


def train(
    study: Study, setting: str, config: ConfigDict, seconds: float, folder: Path, stacked: str, seeds: Sequence[int]
) -> int:
    """Trains or resumes the seeds as a sweep does and measures each; returns an exit code. Raises RunError where the
    loss of one is not finite.

    `seconds`: how long the steps should take, for the rows. `stacked`: "yes" trains the seeds as one program, "no" one
    after another, "auto" as one program on an accelerator.
    """
    steps = config.train.steps
    config.train.steps_per_dispatch = DISPATCH
    config.train.eval_every = _multiple(steps / EVALUATIONS)
    config.train.checkpoint_every = _multiple(steps / SAVES)
    typed = Config.of(config)
    runs = {str(folder / f"{setting}-{seed}"): typed.replace(seed=seed) for seed in seeds}

    def measure_finished() -> None:
        for workdir in map(Path, runs):
            if Outcome.of(str(workdir)).is_finished and not (workdir / MEASURED).exists():
                write_json(epath.Path(workdir / MEASURED), measure(study, setting, workdir, seconds))

    code = train_runs(runs, {"yes": len(runs), "no": 1, "auto": 0}[stacked], False, measure_finished)
    if code == DONE:
        measure_finished()  # what an interrupted command had trained
        if failed := [workdir for workdir in runs if not Outcome.of(workdir).is_finished]:
            raise RunError(f"{', '.join(failed)}: the loss or its gradient is not finite")
    return code


def _multiple(steps: float) -> int:
    return max(1, round(steps / DISPATCH)) * DISPATCH
