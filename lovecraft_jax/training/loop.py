"""The training loop: dispatches, reports, evaluates and saves, until the run ends or is interrupted."""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from lovecraft_jax.config import Config, flatten
from lovecraft_jax.data import dataset
from lovecraft_jax.inference import generate
from lovecraft_jax.inference.adaptive import MOST_TOKENS, AdaptiveScorer
from lovecraft_jax.inference.neural_cache import CacheScorer
from lovecraft_jax.inference.scoring import Scorer, score_row
from lovecraft_jax.model import backend
from lovecraft_jax.model.lm import Variables
from lovecraft_jax.runtime import distributed
from lovecraft_jax.runtime.checks import checked
from lovecraft_jax.runtime.console import log
from lovecraft_jax.runtime.errors import DONE, INTERRUPTED, RunError, UserError
from lovecraft_jax.runtime.files import Row, locked_workdir, read_rows, resolve_path
from lovecraft_jax.runtime.lock import command_after_kill
from lovecraft_jax.runtime.signals import collect_signals
from lovecraft_jax.runtime.watchdog import Watchdog
from lovecraft_jax.training.checkpoint import Checkpoints, saved_steps
from lovecraft_jax.training.compiled import dispatch_steps, make_program
from lovecraft_jax.training.early_stopping import ValidScores, final_warnings, uniform_bpc
from lovecraft_jax.training.logger import Logger
from lovecraft_jax.training.metrics import FILE, FINAL
from lovecraft_jax.training.profiler import Profiler
from lovecraft_jax.training.run_files import check_can_resume, check_same_run, read_run_files, write_rates
from lovecraft_jax.training.settings_by_size import choose_settings
from lovecraft_jax.training.state import TrainState
from lovecraft_jax.training.step import Metrics
from lovecraft_jax.training.throughput import MatmulPeak, Throughput


def train(config: ConfigDict | Config, workdir: str, take_over: bool = False, profile: int = 0) -> int:
    """Trains `config` in `workdir`, or resumes what is there, and returns an exit code. In the main thread signals
    interrupt it (`collect_signals`); in another they stay with the program, and nothing does.

    `take_over`: see `lock.locked`. `profile`: training steps to trace with jax.profiler.

    Raises UserError for wrong input, RunError where the loss or its gradient is not finite or nothing can be saved.
    """
    checked("profile", profile, int, "a whole number of at least 0", lambda value: value >= 0)
    path = resolve_path(workdir)
    exit_on_peer_failure = distributed.exit_on_peer_failure(
        lambda: max(saved_steps(path), default=None), command_after_kill(path)
    )
    with collect_signals() as signals, ExitStack() as stack, exit_on_peer_failure:
        typed = distributed.on_all_processes(lambda: config if isinstance(config, Config) else Config.of(config))
        distributed.assert_same_on_all_processes(flatten(typed) | {"workdir": str(path)})
        backend.start_compiling(typed.model)  # while the corpus is read
        distributed.on_all_processes(
            lambda: stack.enter_context(locked_workdir(workdir, take_over)) if distributed.is_main_process() else None
        )
        distributed.on_all_processes(lambda: _check_folder(path))
        training = Training(typed, path, signals, stack, profile)
        with training.report_disk_errors():
            return training.run()


def _check_folder(path: epath.Path) -> None:
    if (path / "results.json").exists() and not (path / "config.json").exists():
        raise UserError(f"workdir={path}: a sweep is in it; give the run a folder of its own, as {path / 'best'}")


class Training:
    """A run, new or resumed, until it ends or `signals` is not empty. `stack` closes whatever it opens."""

    def __init__(
        self, config: Config, path: epath.Path, signals: list[int], stack: ExitStack, profile: int = 0
    ) -> None:
        self.config, self.path, self.signals, self.stack = config, path, signals, stack
        self.checkpoints = Checkpoints(path, config.train.keep)
        stack.callback(self.checkpoints.close)
        listed = {f"the list of checkpoints in workdir={path}": list(self.checkpoints.steps)}
        distributed.assert_same_on_all_processes(listed)
        distributed.on_all_processes(self._prepare)
        distributed.assert_same_on_all_processes({"the SHA-256 of data.corpus": self.data.sha256})
        model = self.program.model
        self.scorer = Scorer(model, self.data.tokenizer.start_id)
        self.bce = config.train.loss == "binary_cross_entropy"
        progress = self.logger.progress
        self.throughput = Throughput(progress.chars_per_step, 3 * model.flops_per_token() * progress.tokens_per_step)
        self.peak = MatmulPeak(self.program.devices, config.model.dtype)
        profile = profile if distributed.is_main_process() else 0
        self.profiler = Profiler(path / "profile", profile, self.logger.log, self.throughput.paused)

        restored = self.checkpoints.restore_newest(self.program.target)
        self.step = restored.step if restored else 0
        self.checkpoints.delete_after(self.step)
        self.state: TrainState = restored.state if restored else self.program.init(config.seed)
        self.scores = ValidScores(row for row in self._recorded("scheduled") if row["step"] <= self.step)

    def _prepare(self) -> None:
        """Builds what each process needs of its own. Raises UserError for wrong input."""
        config, tokenizer, corpus = self.config, None, None
        if self.checkpoints.steps:
            recorded, tokenizer, corpus = read_run_files(self.path)
            check_can_resume(self.path)
            config = config.filled_from(recorded)
            check_same_run(self.path, recorded, config)
        self.data = dataset.prepare(config, corpus, tokenizer)
        config, chosen = choose_settings(config, self.data)
        self.config = config
        self.batches = dataset.make_batches(config, self.data)
        dataset.check_scored_parts(config, self.data)
        prompt = generate.encode_prompt(self.data.tokenizer, config.sample.prompt, "config.sample.prompt")
        self.logger = Logger(self.path, config, self.data, prompt, chosen)
        self.total = self.logger.progress.total_steps(config.train)
        K, asked = dispatch_steps(config), config.train.stop_at_step
        self.end = min(-(-asked // K) * K or self.total, self.total)  # where this start stops: the end of a dispatch
        self.program = make_program(config, self.data.tokenizer.size, self.total)

    def run(self) -> int:
        """Trains until the run ends, is interrupted or reaches `stop_at_step`, and returns an exit code."""
        final = self._recorded(*FINAL)
        if self.is_over and final:
            log(f"{self.path}: already finished at step {self.step:,}{self._why_early()}")
            self.logger.print_results(final)
            for line in self._warnings(final):
                log(line)
            return DONE
        self.open()
        stop_requested = self._train()
        if self.is_over:
            return self._finish()
        self.save()
        self.checkpoints.wait()
        if stop_requested:
            self.logger.log(f"interrupted at step {self.step:,}, saved: the same command goes on from there")
            return INTERRUPTED
        asked = self.config.train.stop_at_step
        self.logger.log(f"stopped at step {self.step:,}, the end of its dispatch, saved; train.stop_at_step is {asked}")
        return DONE

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to train: all steps are done, or train.patience is at its end."""
        return self.step == self.total or self._is_out_of_patience()

    def open(self) -> None:
        """Opens the run's files and display, starts watchdog and clock. To be called before its first dispatch."""
        self.logger.open(self.program, self.step, self.total, self.stack)
        self.watchdog = Watchdog(self.config.train.watchdog, self._report_stuck, INTERRUPTED)
        self.stack.callback(self.watchdog.close)
        self.throughput.start(self.step)

    def after(self, step: int, state: TrainState, metrics: Metrics) -> None:
        """Reports, evaluates and saves after a dispatch to `step` that stacked.py has run. Raises RunError."""
        self.step, self.state = step, state
        if not self._run_due_work(metrics):
            self._report(step, metrics)

    def save(self, bpc: float | None = None) -> None:
        """Saves a checkpoint of the current state, with its score if it has one."""
        if self.step not in self.checkpoints.steps:
            self.checkpoints.save(self.step, self.state, self.logger.record, bpc)

    @contextmanager
    def report_disk_errors(self) -> Iterator[None]:
        """Raises RunError for a file of the run, or its results, that cannot be written, as on a full disk."""
        try:
            yield
        except OSError as error:
            file, why = error.filename or self.path, error.strerror or error
            raise RunError(f"{file}: cannot be written ({why}); last good checkpoint: {self._last_saved()}") from error

    def _train(self) -> bool:
        """Dispatches K steps at a time up to step `end`, and returns whether it was interrupted before. Dispatches end
        at multiples of K in absolute steps, as do logging, evaluating and saving."""
        K, stop, stop_requested = dispatch_steps(self.config), distributed.StopRequest(self.signals), False
        pending: tuple[int, Metrics] | None = None
        batches, after = self._send(self.step, K)
        while self.step < self.end and not self.is_over and not (stop_requested := stop.received()):
            self.profiler.start_if_due(self.step, self.state)
            self.state, metrics = self.program.train_steps(self.state, batches)
            self.step = after
            batches, after = self._send(self.step, K)  # while the devices compute
            self.profiler.stop_if_due(self.step, self.state)
            if pending:  # the devices are busy with this dispatch: time to look at the one before
                self._report(*pending)
            pending = None if self._run_due_work(metrics) else (self.step, metrics)
        if pending:
            self._report(*pending)
        self.profiler.close(self.step)
        return stop_requested

    def _run_due_work(self, metrics: Metrics) -> bool:
        """Where an evaluation or a checkpoint is due, reports the dispatch and does it; returns whether it was due."""
        scored = self.step % self.config.train.eval_every == 0 or self.step == self.total
        if not scored and self.step % self.config.train.checkpoint_every:
            return False
        self._report(self.step, metrics)
        if scored:
            self._evaluate()
        else:
            self.save()
        self.throughput.start(self.step)
        return True

    def _send(self, step: int, K: int) -> tuple[Any, int]:
        """Starts sending the batches from `step` to the end of its dispatch to the devices; returns both."""
        stop = min((step // K + 1) * K, self.total)
        return self.program.put(self.batches.at(step, stop - step, self.program.rows)) if stop > step else None, stop

    def _report(self, step: int, metrics: Metrics) -> None:
        """Shows a dispatch that ended at `step`, and every log_every steps writes its row. Raises RunError."""
        values = {name: np.asarray(value, np.float64) for name, value in metrics.items() if name != "tensors"}
        self.watchdog.feed()
        due = step % self.config.train.log_every == 0
        count, loss, rates = len(values["loss"]), float(values["loss"].mean()), self.throughput.rates(step, restart=due)
        row: Row = {
            "step": step,
            "split": "train",
            "loss": loss,
            "bpc": self.logger.progress.bpc(loss),
            "grad_norm": float(values["grad_norm"].mean()),
            "learning_rate": float(values["learning_rate"][-1]),
        } | rates
        if self.bce:
            row["bce"] = float(values["bce"].mean())
        for at in np.flatnonzero(values["finite"] == 0)[:1]:
            rate = float(values["learning_rate"][at])
            self._stop_at_bad_step(row | {"step": step - count + 1 + int(at), "learning_rate": rate})
        if due:
            row |= self._utilization(row["flops_per_second"])
            if "tensors" in metrics:
                row["tensors"] = jax.tree.map(lambda value_K: float(value_K[-1]), jax.device_get(metrics["tensors"]))
        self.logger.show(row, due)

    def _utilization(self, flops_per_second: float) -> Row:
        """The share of the device's matmul peak, which is measured first on a new kind of machine."""
        if distributed.is_main_process() and self.peak.is_to_be_measured(flops_per_second):
            jax.block_until_ready(self.state)
            with self.throughput.paused():
                self.peak.measure()
            self.logger.log(f"matmul peak of a device: {self.peak}")
        return {"mfu": self.peak.share(flops_per_second)}

    def _stop_at_bad_step(self, row: Row) -> None:
        unknown = {key: math.nan for key in ("loss", "bpc", "grad_norm", "bce") if key in row}
        self.logger.write(row | unknown)
        self.checkpoints.wait()
        clip, rate = self.config.optimizer.clip, row["learning_rate"]
        raise RunError(
            f"step {row['step']:,}: the loss or its gradient is not finite, at learning rate {rate:.3g}; last good "
            f"checkpoint: {self._last_saved()}; start again in another workdir with a lower optimizer.lr or "
            f"{'a lower optimizer.clip' if clip else 'with optimizer.clip=1'}"
        )

    def _report_stuck(self) -> None:
        log(
            f"stuck: no step has finished for {self.config.train.watchdog} s (config.train.watchdog), at step "
            f"{self.step:,}; {command_after_kill(self.path)} goes on from the last checkpoint: {self._last_saved()}"
        )

    def _last_saved(self) -> str:
        saved = self.checkpoints.steps
        return f"step {saved[-1]:,} in {self.path / 'checkpoints'}" if saved else "none yet"

    def _evaluate(self) -> None:
        """Scores the valid split, generates a sample, and saves with the score."""
        variables = distributed.local_copy(self.state.scored)
        score = self.scorer.scheduled(variables, self.data.encoded["valid"], self.config.train.eval_rows, self.bce)
        row = score_row(self.step, "valid", "scheduled", score) | self._window_score("valid", variables)
        self.logger.evaluation(row, self.program.model, variables)
        self.save(score.bpc)
        self.watchdog.feed()
        self.logger.log(f"step {self.step:,}: valid {score.bpc:.4f} bpc")
        self.scores.add(self.step, score.bpc)
        if self.scores.began_to_get_worse and not self.config.train.patience:
            self.logger.log(f"{self.scores.describe_worse()}; train.patience ends such a run")

    def _finish(self) -> int:
        """Writes the final scores of valid and test from the best checkpoint, and a sample of it."""
        if early := self._why_early():
            self.logger.log(f"ended at step {self.step:,} of {self.total:,}{early}")
        ended = {"patience": self.config.train.patience} if early else {}
        self.checkpoints.wait()
        restored = self.checkpoints.restore_newest(self.program.target, first=self.checkpoints.best_step)
        assert restored is not None, "the last step is always evaluated, and so saved"
        variables, rows = distributed.local_copy(restored.state.scored), []
        for split in ("valid", "test"):
            score = self.scorer.final(variables, self.data.encoded[split], self.bce)
            row = score_row(self.step, split, "final", score) | self._window_score(split, variables)
            rows.append(row | {"checkpoint": restored.step} | ended)
            self.watchdog.feed()
        if self.config.train.adaptive:
            rows += self._adaptive_rows(variables, restored.step)
        self.watchdog.close()  # waiting for the baselines may take longer than it allows
        self.logger.finish(rows, self.program.model, variables)
        for line in self._warnings(rows):
            self.logger.log(line)
        distributed.gather(None)  # wait for all: JAX takes a process that exits earlier for lost
        return DONE

    def _adaptive_rows(self, variables: Variables, checkpoint: int) -> list[Row]:
        """The adaptive scores of valid and test: by dynamic evaluation and, where tokens are longer than characters, by
        a neural cache."""
        texts = self.data.encoded
        if (tokens := len(texts["valid"].ids) + len(texts["test"].ids)) > MOST_TOKENS:
            why = f"valid and test have {tokens:,} tokens, over {MOST_TOKENS:,}"
            self.logger.log(f"no adaptive scores: {why}; evaluate --adaptive and --cache compute them")
            return []
        self.logger.log("tuning the rates of the adaptive scores on valid")
        rows = self._tuned_rows("adaptive", AdaptiveScorer.of(self.scorer, variables, texts["train"]), checkpoint)
        if self.config.data.level != "chars":
            rows += self._tuned_rows("cache", CacheScorer(self.scorer, variables), checkpoint)
        return rows

    def _tuned_rows(self, scoring: str, scorer: Any, checkpoint: int) -> list[Row]:
        """Tunes an AdaptiveScorer or a CacheScorer on valid, saves its rates, and returns its scores of both splits."""
        texts = self.data.encoded
        self.watchdog.feed()
        (rates, tuned), rows = scorer.tune(texts["valid"], self.watchdog.feed), []
        if distributed.is_main_process():
            write_rates(self.path, checkpoint, rates)
        for split in ("valid", "test"):
            is_known = split == "valid" and tuned.tokens == len(texts["valid"].ids)
            score = tuned if is_known else scorer.score(texts[split], rates)
            row = score_row(self.step, split, scoring, score)
            rows.append(row | rates._asdict() | {"checkpoint": checkpoint})
            self.watchdog.feed()
        return rows

    def _recorded(self, *scorings: str) -> list[Row]:
        """The scores of these kinds in metrics.jsonl, as the main process reads them."""
        read = lambda: read_rows(self.path / FILE) if distributed.is_main_process() else []  # noqa: E731
        rows = distributed.on_all_processes(read)
        return distributed.gather([row for row in rows if row.get("scoring") in scorings])[0]

    def _is_out_of_patience(self) -> bool:
        return 0 < self.config.train.patience <= self.scores.without_improvement

    def _why_early(self) -> str:
        """Why the run ends before its last step, as the end of a sentence; "" where it does not."""
        if self.step == self.total or not self._is_out_of_patience():
            return ""
        (step, bpc), count = self.scores.best, self.scores.without_improvement
        since = f"no improvement in {count} evaluations on valid {bpc:.4f} bpc at step {step:,}"
        return f": {since} (train.patience={self.config.train.patience})"

    def _warnings(self, final: list[Row]) -> list[str]:
        uniform = {part: uniform_bpc(text, self.data.tokenizer.size) for part, text in self.data.encoded.items()}
        return final_warnings(self.scores, final, uniform)

    def _window_score(self, split: str, variables: Variables) -> Row:
        """In the window regime, the score as the model was trained: every window from a zero carry."""
        if self.config.data.regime != "window":
            return {}
        rows, T = self.config.train.eval_rows, self.config.data.seq_len
        score = self.scorer.windows(variables, self.data.encoded[split], rows, T, self.bce)
        return {"bpc_window": score.bpc} | ({"bce_window": score.bce} if self.bce else {})
