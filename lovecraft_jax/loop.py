"""Training: dispatch, report, evaluate, save, until done or told to stop."""

import math
import time
from contextlib import ExitStack
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from lovecraft_jax import data, generate, native, settings
from lovecraft_jax.baselines import Baselines
from lovecraft_jax.batches import Batches
from lovecraft_jax.checkpoint import Checkpoints
from lovecraft_jax.errors import RunError, UserError
from lovecraft_jax.metrics import FILE, MetricsWriter, Row, results
from lovecraft_jax.program import dispatch_steps, make_program
from lovecraft_jax.progress import Display, say
from lovecraft_jax.record import check_same_run, plan, read_record, record, write_record
from lovecraft_jax.scoring import Scorer, score_row
from lovecraft_jax.signals import caught_signals
from lovecraft_jax.state import TrainState
from lovecraft_jax.watchdog import Watchdog
from lovecraft_jax.workdir import owned, read_rows, trim_samples, write_json, write_text

DONE, FAILED = 0, 1
INTERRUPTED = 75
"""Exit codes; 75 (EX_TEMPFAIL, saved, to be started again) is the one that schedulers requeue."""

BASELINE_SECONDS = 60


def train(config: ConfigDict, workdir: str, cores: int = 0) -> int:
    """Trains `config` in `workdir`, or goes on with what is there; returns an exit code. `cores`: as `make_program`.

    Raises UserError for wrong input, RunError where the loss or its gradient blew up or nothing can be saved.
    """
    settings.check(config)
    native.prepare(config.model)  # while the corpus is read
    with caught_signals() as signals, owned(workdir) as path, ExitStack() as stack:
        return Training(config, path, signals, stack, cores).run()


class Training:
    """One start of a run, new or resumed, until it ends or `signals` has one. `stack` closes what it opens."""

    def __init__(self, config: ConfigDict, path: epath.Path, signals: list[int], stack: ExitStack, cores: int) -> None:
        self.config, self.path, self.signals, self.stack = config, path, signals, stack
        self.checkpoints = Checkpoints(path, config.train.keep)
        stack.callback(self.checkpoints.close)
        vocabulary, corpus = None, None
        if self.checkpoints.steps:
            old, vocabulary, corpus = read_record(path)
            check_same_run(path, old, config)
        self.data = data.prepare(config, corpus, vocabulary)
        ids = self.data.encoded["train"].ids
        self.batches = Batches(ids, config.data.batch_size, config.data.seq_len, config.data.regime, config.seed)
        if config.train.eval_lanes > (tokens := len(self.data.encoded["valid"].ids)):
            raise UserError(
                f"config.train.eval_lanes={config.train.eval_lanes}: valid has {tokens:,} tokens; use fewer lanes"
            )
        self.prompt = generate.encode_prompt(self.data.vocab, config.sample.prompt, "config.sample.prompt")
        self.total = config.train.steps or math.ceil(config.train.epochs * self.batches.steps_per_pass)
        self.program = make_program(config, self.data.vocab.size, self.total, cores)
        self.scorer = Scorer(self.program.model, self.data.vocab.start_id)
        self.record = record(config, self.data)

        restored = self.checkpoints.restore_newest(self.program.target)
        self.step = restored.step if restored else 0
        self.checkpoints.delete_after(self.step)
        self.state: TrainState = restored.state if restored else self.program.init(config.seed)

    def run(self) -> int:
        """From where the run stands to its end, to an interruption, or to `stop_at_step`."""
        final = [row for row in read_rows(self.path / FILE) if row.get("scoring") == "final"]
        if self.step == self.total and final:
            say(f"{self.path}: already finished at step {self.total:,}")
            print(results(final))
            return DONE
        write_record(self.path, self.record)
        parameters = sum(leaf.size for leaf in jax.tree.leaves(self.program.target.variables["params"]))
        passes = self.total / self.batches.steps_per_pass
        say(plan(self.config, self.data, parameters, self.program.devices, passes, self.total))
        say(f"{'resuming at' if self.step else 'starting at'} step {self.step:,} in {self.path}")
        trim_samples(self.path / "samples", self.step)
        self.metrics = MetricsWriter(self.path, self.step)
        self.stack.callback(self.metrics.close)
        self.baselines = Baselines(self.data.splits.text["train"], self.data.splits.text["valid"])
        self.stack.callback(self.baselines.close)
        self.told_baselines = False
        self.chars_per_step = self._chars(self.config.data.batch_size * self.config.data.seq_len)
        self.display = Display(self.step, self.total, self.batches.steps_per_pass, self.chars_per_step)
        self.stack.enter_context(self.display)

        self.watchdog = Watchdog(self.config.train.watchdog, self._tell_stuck, INTERRUPTED)
        self.stack.callback(self.watchdog.close)

        self._train(min(self.config.train.stop_at_step or self.total, self.total))
        if self.step == self.total:
            return self._finish()
        self._save()
        self.checkpoints.wait()
        if self.signals:
            self.display.say(f"interrupted at step {self.step:,}, saved: the same command goes on from there")
            return INTERRUPTED
        self.display.say(f"stopped at step {self.step:,} as train.stop_at_step asked, saved")
        return DONE

    def _train(self, end: int) -> None:
        """Dispatches K steps at a time. Dispatches end at multiples of K in absolute steps, as does all that is due."""
        due, K = self.config.train, dispatch_steps(self.config)
        pending: tuple[int, dict[str, jax.Array]] | None = None
        self.began, self.began_at = time.perf_counter(), self.step
        sent, stop = self._send(self.step, K)
        while self.step < end and not self.signals:
            self.state, metrics = self.program.train_steps(self.state, sent)
            self.step = step = stop
            sent, stop = self._send(step, K)  # while the devices are at work
            if pending:  # the device has this dispatch to do: now there is time to look at the one before
                self._report(*pending)
            pending = step, metrics
            if step % due.eval_every == 0 or step == self.total:
                self._report(*pending)
                self._evaluate()
            elif step % due.checkpoint_every == 0:
                self._report(*pending)
                self._save()
            else:
                continue
            pending, self.began, self.began_at = None, time.perf_counter(), self.step
        if pending:
            self._report(*pending)

    def _send(self, step: int, K: int) -> tuple[Any, int]:
        """The batches from `step` to where its dispatch ends, on their way to the devices, and where that is."""
        stop = min((step // K + 1) * K, self.total)
        return self.program.put(self.batches.at(step, stop - step, self.program.rows)) if stop > step else None, stop

    def _report(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Shows a dispatch that ended at `step` and writes its row where one is due. Raises RunError."""
        values = {name: np.asarray(value, np.float64) for name, value in metrics.items()}
        self.watchdog.feed()
        count = len(values["loss"])
        loss = float(values["loss"].mean())
        row: Row = {
            "step": step,
            "split": "train",
            "loss": loss,
            "bpc": self._bpc(loss),
            "grad_norm": float(values["grad_norm"].mean()),
            "learning_rate": float(values["learning_rate"][-1]),
            "chars_per_second": self.chars_per_step * (step - self.began_at) / (time.perf_counter() - self.began),
        }
        for at in np.flatnonzero(values["finite"] == 0)[:1]:
            self._stop_at_bad_step(row | {"step": step - count + 1 + int(at)}, float(values["learning_rate"][at]))
        self._tell_baselines()
        due = step % self.config.train.log_every == 0
        self.display.show(step, row["bpc"], row["chars_per_second"], due)
        if due:
            self.metrics.write(row)
            self.began, self.began_at = time.perf_counter(), step

    def _stop_at_bad_step(self, row: Row, rate: float) -> None:
        self.metrics.write(row | {"loss": math.nan, "bpc": math.nan, "grad_norm": math.nan, "learning_rate": rate})
        raise RunError(
            f"step {row['step']:,}: the loss or its gradient is not finite, at learning rate {rate:.3g}; last good "
            f"checkpoint: {self._last_saved()}; start again in another --workdir with a lower optimizer.lr or "
            "optimizer.clip"
        )

    def _tell_stuck(self) -> None:
        say(
            f"stuck: no step has finished for {self.config.train.watchdog} s (config.train.watchdog), at step "
            f"{self.step:,}; the same command goes on from the last checkpoint: {self._last_saved()}"
        )

    def _last_saved(self) -> str:
        saved = self.checkpoints.steps
        return f"step {saved[-1]:,} in {self.path / 'checkpoints'}" if saved else "none yet"

    def _evaluate(self) -> None:
        """Scores the valid split, writes a sample, saves with the score."""
        lanes = self.config.train.eval_lanes
        score = self.scorer.scheduled(self.state.variables, self.data.encoded["valid"], lanes)
        self.metrics.write(score_row(self.step, "valid", "scheduled", score) | self._window_score("valid", self.state))
        self._write_sample(self.state, f"{self.step:08d}.txt")
        self._save(score.bpc)
        self.watchdog.feed()
        self.display.say(f"step {self.step:,}: valid {score.bpc:.4f} bpc")

    def _finish(self) -> int:
        """Final scores of valid and test from the best checkpoint, and some of its writing."""
        self.checkpoints.wait()
        restored = self.checkpoints.restore_newest(self.program.target, first=self.checkpoints.best_step)
        assert restored is not None, "the last step is always evaluated, and so saved"
        rows = []
        for split in ("valid", "test"):
            score = self.scorer.final(restored.state.variables, self.data.encoded[split])
            row = score_row(self.total, split, "final", score) | self._window_score(split, restored.state)
            rows.append(row | {"checkpoint": restored.step})
            self.watchdog.feed()
        if self.baselines.wait(BASELINE_SECONDS) is None:
            self.display.say("WARNING: the baselines could not be worked out")
        self._tell_baselines()
        text = self._write_sample(restored.state, "best.txt")
        self.metrics.write(*rows)
        self.display.say(f"\n{text}\n\nfrom the best checkpoint, step {restored.step:,}; all is in {self.path}")
        print(results(rows))
        return DONE

    def _tell_baselines(self) -> None:
        """Once, when they are known: what to read the loss against."""
        if (known := self.baselines.result()) and not self.told_baselines:
            write_json(self.path / "baselines.json", known)
            self.display.say("baselines on valid: " + ", ".join(f"{name} {bpc:.3f}" for name, bpc in known.items()))
            self.told_baselines = True

    def _window_score(self, split: str, state: TrainState) -> Row:
        """In the window regime, the score as trained: every window from a zero carry."""
        if self.config.data.regime != "window":
            return {}
        lanes, seq_len = self.config.train.eval_lanes, self.config.data.seq_len
        return {"bpc_window": self.scorer.windows(state.variables, self.data.encoded[split], lanes, seq_len).bpc}

    def _write_sample(self, state: TrainState, name: str) -> str:
        config = self.config.sample
        sampling = generate.Sampling(config.temperature, config.top_k, config.top_p)
        model, seed = self.program.model, self.config.seed
        parts = generate.write(model, state.variables, self.prompt, config.length, seed, sampling)
        text = config.prompt + self.data.vocab.decode(np.concatenate(list(parts), axis=1)[0])
        (self.path / "samples").mkdir(exist_ok=True)
        write_text(self.path / "samples" / name, text + "\n")
        return text

    def _save(self, bpc: float | None = None) -> None:
        if self.step not in self.checkpoints.steps:
            self.checkpoints.save(self.step, self.state, self.record, bpc)

    def _chars(self, tokens: int) -> float:
        """How much training text so many tokens are, in characters."""
        train = self.data.encoded["train"]
        return tokens * train.n_chars / len(train.ids)

    def _bpc(self, loss: float) -> float:
        """Nats per training token as bits per character."""
        return loss / math.log(2) / self._chars(1)
