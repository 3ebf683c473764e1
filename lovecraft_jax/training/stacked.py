"""Several runs trained as one program, their states stacked on a leading axis: seeds, learning rates, dropout rates.

For accelerators, which a small model leaves mostly idle. On a CPU it is slower than one run after another: on one core
of an AMD EPYC (Zen 5), c150:plain trains at 27 steps a second alone, and three runs as one program at 12.4 in all, 13.6
with the layer in XLA.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from lovecraft_jax.config import Config, flatten
from lovecraft_jax.data.batches import Batch
from lovecraft_jax.runtime import distributed
from lovecraft_jax.runtime.console import log
from lovecraft_jax.runtime.errors import DONE, INTERRUPTED, RunError, UserError
from lovecraft_jax.runtime.files import locked_workdir
from lovecraft_jax.runtime.signals import collect_signals
from lovecraft_jax.training import loop
from lovecraft_jax.training.compiled import dispatch_steps, make_stacked_steps, stack_trees, unstack_trees
from lovecraft_jax.training.loop import Training

MAY_DIFFER = ("seed", "optimizer.lr", "optimizer.weight_decay")
"""The settings that are values in a run's state instead of constants of the program."""
MAY_DIFFER_ABOVE_0 = (
    "model.dropout_embedding",
    "model.dropout_input",
    "model.dropout_recurrent",
    "model.dropout_weights",
    "model.dropout",
)
"""The settings that are arguments of the program where they are above 0; at 0 the program has no such part."""


def train_stacked(configs: Mapping[Any, Config | ConfigDict], take_over: bool = False) -> int:
    """Trains runs, given by their workdirs, as one program on one device; returns an exit code as `loop.train` does.

    Each workdir is an ordinary run's, which `loop.train` can resume or have begun. A run learns what it would learn
    alone, up to rounding, and the same runs stacked again learn the same to the last bit, also when they are resumed.
    Runs at different steps, as a kill may leave them, first catch up. `take_over`: see `lock.locked`.

    Raises UserError for configs whose `program_settings` differ or for other wrong input. A run that fails, as with
    too high a learning rate, does not stop the others: once they are done, raises RunError.
    """
    typed = {
        os.fspath(workdir): config if isinstance(config, Config) else Config.of(config)
        for workdir, config in configs.items()
    }
    if not typed:
        raise UserError("no runs: expected one or more workdirs with their configs")
    _check_configs(typed)
    with collect_signals() as signals:
        failures = _train_steps(typed, signals, take_over)
        for workdir, config in typed.items():
            if signals:
                return INTERRUPTED
            if workdir not in failures and (code := loop.train(config, workdir)) != DONE:  # the final scores
                return code
    if failures:
        raise RunError("; ".join(f"{workdir}: {why}" for workdir, why in failures.items()))
    return DONE


def program_settings(config: Config) -> dict[str, Any]:
    """Returns the settings that must be equal in runs trained as one program. Of a dropout rate only whether it is
    above 0, or None, must be equal; the values chosen for None are compared once the runs are prepared."""
    settings = {name: value for name, value in flatten(config).items() if name not in MAY_DIFFER}
    rates = {name: settings[name] for name in MAY_DIFFER_ABOVE_0}
    return settings | {name: rate if rate is None else rate > 0 for name, rate in rates.items()}


def _check_configs(configs: Mapping[str, Config]) -> None:
    if (count := distributed.process_count()) > 1:
        raise UserError(f"stacked runs on {count} processes: expected one; train them one after another")
    first, *others = configs
    shared, expected = program_settings(configs[first]), flatten(configs[first])
    for workdir in others:
        values = flatten(configs[workdir])
        for name, setting in program_settings(configs[workdir]).items():
            if setting != shared[name]:
                raise UserError(
                    f"{workdir}: config.{name}={values[name]!r}, but {expected[name]!r} in {first}: stacked runs may "
                    f"differ in {', '.join(MAY_DIFFER)} and dropout rates above 0 only; train this one on its own"
                )


def _train_steps(configs: Mapping[str, Config], signals: list[int], take_over: bool) -> dict[str, str]:
    """Trains to the last step, or until `signals` is not empty, and saves. Returns why runs failed, by workdir."""
    with ExitStack() as stack:
        runs = {
            workdir: Training(config, stack.enter_context(locked_workdir(workdir, take_over)), signals, stack)
            for workdir, config in configs.items()
        }
        _check_configs({workdir: run.config for workdir, run in runs.items()})  # with what each chose or had recorded
        stacked = _Stack(list(runs.values()), signals)
        stacked.train()
        return {workdir: stacked.failures[run] for workdir, run in runs.items() if run in stacked.failures}


class _Stack:
    """Runs in a fixed order, and the program that trains all of them at once."""

    def __init__(self, runs: list[Training], signals: list[int]) -> None:
        first, self.device = runs[0], jax.devices()[0]
        self.runs, self.signals, self.failures = runs, signals, dict[Training, str]()
        configs, vocab_size = [run.config for run in runs], first.data.tokenizer.size
        self.train_steps = make_stacked_steps(configs, vocab_size, first.total, self.device)
        self.K = dispatch_steps(first.config)
        self.end = first.end
        self.unfinished = [run for run in runs if self._is_unfinished(run)]

    def train(self) -> None:
        """Trains all runs to the end, those that are behind first, and saves them."""
        for run in self.unfinished:
            run.open()
        while not self.signals and (behind := list(filter(self._is_unfinished, self._good(self.unfinished)))):
            step = min(run.step for run in behind)
            stop = min((run.step for run in behind if run.step > step), default=self.end)
            active = [run for run in behind if run.step == step]
            with self._clocks_paused(run for run in self.unfinished if run not in active):
                self._advance(active, step, stop)
        for run in self._good(self.unfinished):
            with self._record_failure(run):
                run.save()
        for run in self._good(self.unfinished):
            with self._record_failure(run):
                run.checkpoints.wait()
        if self.signals:
            log(f"{len(self.unfinished)} stacked runs interrupted, saved: started again, they go on from there")

    def _advance(self, active: list[Training], step: int, stop: int) -> None:
        """Trains `active` runs from `step` to `stop`.

        The first of them also stands in for the runs that are not active, and those results are dropped: with as many
        runs as always the program is the same, and so is every bit of its results.
        """
        places = [run if run in active else active[0] for run in self.runs]
        state = stack_trees([jax.device_put(run.state, self.device) for run in places])
        batches, after = self._batches(places, step, stop)
        while step < stop and not self.signals and (training := list(filter(self._is_unfinished, self._good(active)))):
            state, metrics = self.train_steps(state, batches)
            step = after
            if step < stop:
                batches, after = self._batches(places, step, stop)  # while the device computes
            results = unstack_trees((jax.block_until_ready(state), metrics))
            for run, (run_state, run_metrics) in zip(self.runs, results, strict=True):
                if run in training:
                    others = (other for other in training if other is not run)
                    with self._record_failure(run), self._clocks_paused(others):
                        run.after(step, run_state, run_metrics)
                    if run.is_over and step < self.end:
                        run.watchdog.close()  # nothing feeds it while the others are trained
                    for waiting in self.unfinished:
                        waiting.watchdog.feed()

    def _batches(self, places: list[Training], step: int, stop: int) -> tuple[Batch, int]:
        """Returns the batches of the dispatch from `step`, with leaves [S, K, ...], and the step that it ends at."""
        after = min((step // self.K + 1) * self.K, stop)
        batches = [run.batches.at(step, after - step) for run in places]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *batches), after

    def _is_unfinished(self, run: Training) -> bool:
        """Whether a run is to be trained: its patience may end it before the others."""
        return run.step < self.end and not run.is_over

    def _good(self, runs: list[Training]) -> list[Training]:
        return [run for run in runs if run not in self.failures]

    @contextmanager
    def _clocks_paused(self, runs: Iterable[Training]) -> Iterator[None]:
        """Leaves the time of the block, in which others are trained or evaluated, out of the throughput of `runs`."""
        with ExitStack() as stack:
            for run in runs:
                stack.enter_context(run.throughput.paused())
            yield

    @contextmanager
    def _record_failure(self, run: Training) -> Iterator[None]:
        """Ends the training of a run for which the block raises RunError; the other runs continue."""
        try:
            with run.report_disk_errors():
                yield
        except RunError as error:
            self.failures[run] = str(error)
            run.watchdog.close()
            log(f"{run.path}: {error}; the other runs continue")
