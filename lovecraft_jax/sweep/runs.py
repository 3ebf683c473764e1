"""Training the runs of a sweep, one after another or several as one program, and what became of each."""

import contextlib
import dataclasses
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping

import jax
from etils import epath

from lovecraft_jax.config import Config
from lovecraft_jax.data import dataset
from lovecraft_jax.inference.generate import encode_prompt
from lovecraft_jax.runtime.console import log
from lovecraft_jax.runtime.errors import DONE, INTERRUPTED, RunError, UserError
from lovecraft_jax.runtime.files import Row, read_rows, resolve_path
from lovecraft_jax.runtime.mesh import make_mesh
from lovecraft_jax.runtime.signals import collect_signals
from lovecraft_jax.training import loop
from lovecraft_jax.training.checkpoint import saved_steps
from lovecraft_jax.training.metrics import FILE
from lovecraft_jax.training.optimizer import make_optimizer
from lovecraft_jax.training.progress import Progress
from lovecraft_jax.training.run_files import check_same_run, read_run_files
from lovecraft_jax.training.settings_by_size import choose_settings
from lovecraft_jax.training.stacked import program_settings, train_stacked

RUNS_IN_A_STACK = 16
"""On an accelerator, which a small model leaves mostly idle. A CPU trains one run after another faster (stacked.py)."""

Runs = Mapping[str, Config]
"""Configs by workdir."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What metrics.jsonl says of a run. Final scores are in bits per character, and infinite where they are not finite;
    None where the run has none. `minutes` is the time of its training steps: for a stacked run, those of its stack."""

    step: int = 0
    is_finite: bool = True
    valid: float | None = None
    test: float | None = None
    adaptive_test: float | None = None
    minutes: float = 0.0
    is_guess: bool = False
    """Whether the valid score is no better than where all characters are equally likely."""

    @property
    def is_finished(self) -> bool:
        return self.valid is not None and self.test is not None

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do: the run is finished, or the next start would fail at the same step again."""
        return self.is_finished or not self.is_finite

    @classmethod
    def of(cls, workdir: str) -> "Outcome":
        """The outcome of the run in `workdir`, which need not exist."""
        path = resolve_path(workdir)
        rows = read_rows(path / FILE)
        if not rows:
            return cls()
        final, adaptive = (
            {row["split"]: _bpc(row) for row in rows if row.get("scoring") == scoring}
            for scoring in ("final", "adaptive")
        )
        trained = [row for row in rows if row["split"] == "train"]
        return cls(
            step=rows[-1]["step"],
            is_finite=all(row["loss"] is not None for row in trained),
            valid=final.get("valid"),
            test=final.get("test"),
            adaptive_test=adaptive.get("test"),
            minutes=_progress(path).seconds(trained) / 60,
            is_guess=final.get("valid", 0.0) >= _uniform(path),
        )


def _bpc(row: Row) -> float:
    return math.inf if row["bpc"] is None else row["bpc"]


def _uniform(path: epath.Path) -> float:
    """The uniform baseline of a run; infinite where it has none yet."""
    file = path / "baselines.json"
    return float(json.loads(file.read_text())["uniform"]) if file.exists() else math.inf


def _progress(path: epath.Path) -> Progress:
    config, _, corpus = read_run_files(path)
    return Progress.of(config.data.batch_size, config.data.seq_len, corpus)


def check_runs(runs: Runs) -> None:
    """Raises UserError for what their configs alone do not show: a text that is missing or too short, a prompt that it
    does not contain, devices that do not divide a batch, folders that hold runs of another config or text."""
    texts: dict[tuple, tuple[str, str]] = {}  # name and hash
    for workdir, config in runs.items():
        make_optimizer(config.optimizer, 1)
        if (key := (config.data, config.train.eval_rows, config.sample.prompt)) not in texts:
            texts[key] = _check_data(config)
        path = resolve_path(workdir)
        if saved_steps(path) or Outcome.of(workdir).is_over:
            recorded, _, corpus = read_run_files(path)
            check_same_run(path, recorded, config.filled_from(recorded))
            name, sha256 = texts[key]
            if corpus["sha256"] != sha256:
                raise UserError(
                    f"workdir={path}: was trained on another text ({corpus['name']}) than data.corpus="
                    f"{config.data.corpus} is now ({name}): give that one, or another workdir"
                )


def _check_data(config: Config) -> tuple[str, str]:
    """Returns the name and the hash of the text that a run of `config` would train on. Raises UserError."""
    make_mesh(config.data.batch_size)
    data = dataset.prepare(config)
    dataset.make_batches(config, data)
    dataset.check_scored_parts(choose_settings(config, data)[0], data)
    encode_prompt(data.tokenizer, config.sample.prompt, "config.sample.prompt")
    return data.name, data.sha256


def train_runs(runs: Runs, stack_size: int, take_over: bool, report: Callable[[], None]) -> int:
    """Trains or resumes all runs that are not over, and returns an exit code. `report` is called whenever some are.

    Runs that can share a program are trained `stack_size` at a time; 0: RUNS_IN_A_STACK on an accelerator, 1 on a CPU.
    A run whose loss is not finite does not stop the others. Raises RunError for any other failure.
    """
    stack_size = stack_size or (1 if jax.default_backend() == "cpu" else RUNS_IN_A_STACK)
    with collect_signals() as signals:
        done = 0
        for stack in _stacks(runs, stack_size):
            if not all(Outcome.of(workdir).is_over for workdir in stack):
                log("", f"{done + 1} to {done + len(stack)} of {len(runs)}: {', '.join(stack)}")
                code = _train(stack, take_over)
                report()
                if code != DONE or signals:
                    return code or INTERRUPTED
            done += len(stack)
    return DONE


def _stacks(runs: Runs, size: int) -> Iterator[dict[str, Config]]:
    """Yields all runs, up to `size` that can share a program at a time. A stack has the same runs at every start, those
    that are over too: with other runs its program, and so the last bits of its results, would be others."""
    groups: dict[tuple, list[str]] = {}
    for workdir, config in runs.items():
        groups.setdefault((workdir,) if size == 1 else tuple(program_settings(config).values()), []).append(workdir)
    for group in groups.values():
        for at in range(0, len(group), size):
            yield {workdir: runs[workdir] for workdir in group[at : at + size]}


def _train(stack: Runs, take_over: bool) -> int:
    try:
        with contextlib.redirect_stdout(sys.stderr):  # the sweep's own output is the table
            if len(stack) > 1:
                return train_stacked(stack, take_over)
            ((workdir, config),) = stack.items()
            return loop.train(config, workdir, take_over=take_over)
    except RunError as error:
        if not all(Outcome.of(workdir).is_over for workdir in stack):
            raise
        log(f"{error}; the sweep goes on")
        return DONE
    except jax.errors.JaxRuntimeError as error:
        if len(stack) == 1 or "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise RunError(f"out of memory with {len(stack)} runs as one program: --stack={len(stack) // 2}") from error
