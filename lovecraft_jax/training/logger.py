"""What a run shows and writes down, which one process does for all: plan, live line, rows, samples, baselines."""

import functools
import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, TypeVar

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from lovecraft_jax.data.dataset import Data
from lovecraft_jax.inference import generate
from lovecraft_jax.inference.baselines import Baselines
from lovecraft_jax.model.lm import LSTMLM
from lovecraft_jax.runtime import distributed
from lovecraft_jax.runtime.console import Display, say
from lovecraft_jax.runtime.files import trim_samples, write_json, write_text
from lovecraft_jax.stylometry.features import measure
from lovecraft_jax.stylometry.overlap import Copying
from lovecraft_jax.stylometry.reference import Reference
from lovecraft_jax.training.compiled import Program
from lovecraft_jax.training.metrics import MetricsWriter, Row, results
from lovecraft_jax.training.run_files import plan, record, write_record

BASELINE_SECONDS = 60
STYLE = ("real", "letters_tv", "copied_longest")
"""Of each sample written while training: % of its words that the corpus has, total variation of its letters from the
author's, characters of its longest span from the training text."""

Method = TypeVar("Method", bound=Callable)


def _by_first(method: Method) -> Method:
    """Process 0 does it; to the others it comes to nothing."""

    @functools.wraps(method)
    def only_there(self: Any, *args: Any, **kwargs: Any) -> Any:
        return method(self, *args, **kwargs) if distributed.is_first() else None

    return only_there  # type: ignore[return-value]


class Journal:
    """Of a run in `path` that goes on at `step`. `prompt`: the ids that samples go on from."""

    def __init__(self, path: epath.Path, config: ConfigDict, data: Data, prompt: np.ndarray) -> None:
        self._path, self._config, self._data, self._prompt = path, config, data, prompt
        self.record = record(config, data)

    @_by_first
    def open(self, program: Program, step: int, total: int, steps_per_pass: int, stack: ExitStack) -> None:
        """Writes the record, tells the plan, and removes what was written after `step`. `stack` closes the journal."""
        write_record(self._path, self.record)
        parameters = sum(leaf.size for leaf in jax.tree.leaves(program.target.variables["params"]))
        say(plan(self._config, self._data, parameters, program.devices, total / steps_per_pass, total))
        say(f"{'resuming at' if step else 'starting at'} step {step:,} in {self._path}")
        trim_samples(self._path / "samples", step)
        self._metrics = MetricsWriter(self._path, step)
        stack.callback(self._metrics.close)
        self._baselines = Baselines(self._data.splits.text["train"], self._data.splits.text["valid"])
        stack.callback(self._baselines.close)
        self._told_baselines = False
        self._display = Display(step, total, steps_per_pass, self.chars_per_step)
        stack.enter_context(self._display)

    @_by_first
    def show(self, row: Row, due: bool) -> None:
        """A row of training on the live line, and, where it is due, written down."""
        self._tell_baselines()
        self._display.show(row["step"], row["bpc"], row["chars_per_second"], due)
        if due:
            self._metrics.write(row)

    @_by_first
    def write(self, *rows: Row) -> None:
        """Rows that belong together."""
        self._metrics.write(*rows)

    @_by_first
    def say(self, line: str) -> None:
        """A line above the live one."""
        self._display.say(line)

    @_by_first
    def evaluation(self, row: Row, model: LSTMLM, variables: Mapping[str, Any]) -> None:
        """A scheduled score; a sample of the `variables`, as they lie on this process's devices; a row of its style."""
        written = self._sample(model, variables, f"{row['step']:08d}.txt")
        self.write(row, {"step": row["step"], "split": "sample"} | self._style(written))

    @_by_first
    def finish(self, rows: list[Row], model: LSTMLM, variables: Mapping[str, Any]) -> None:
        """The final scores, of the best checkpoint, and some of its writing."""
        if self._baselines.wait(BASELINE_SECONDS) is None:
            self.say("WARNING: the baselines could not be worked out")
        self._tell_baselines()
        written = self._sample(model, variables, "best.txt")
        self.write(*rows)
        text = self._config.sample.prompt + written
        self.say(f"\n{text}\n\nfrom the best checkpoint, step {rows[0]['checkpoint']:,}; all is in {self._path}")
        self.results(rows)

    @_by_first
    def results(self, rows: list[Row]) -> None:
        """Final scores, to standard output."""
        print(results(rows), flush=True)

    def bpc(self, loss: float) -> float:
        """Nats per training token as bits per character."""
        return loss / math.log(2) / self._chars(1)

    @property
    def chars_per_step(self) -> float:
        """How much training text a step reads, in characters."""
        return self._chars(self._config.data.batch_size * self._config.data.seq_len)

    def _sample(self, model: LSTMLM, variables: Mapping[str, Any], name: str) -> str:
        """Writes a text of config.sample, and returns it without the prompt."""
        config = self._config.sample
        sampling = generate.Sampling(config.temperature, config.top_k, config.top_p)
        parts = generate.write(model, dict(variables), self._prompt, config.length, self._config.seed, sampling)
        written = self._data.vocab.decode(np.concatenate(list(parts), axis=1)[0])
        (self._path / "samples").mkdir(exist_ok=True)
        write_text(self._path / "samples" / name, config.prompt + written + "\n")
        return written

    def _style(self, written: str) -> Row:
        """A few figures of `style` and `copying` that tell how the writing changes."""
        reference, copying = self._author
        figures = measure(written, reference) | copying.figures(written)
        return {key: figures[key] for key in STYLE}

    @functools.cached_property
    def _author(self) -> tuple[Reference, Copying]:
        """What samples are read against; made for the first one, so that no training waits for it."""
        tales = self._data.splits.by_tale
        return Reference(tales["train"], tales["valid"] | tales["test"]), Copying(tales["train"])

    def _chars(self, tokens: int) -> float:
        train = self._data.encoded["train"]
        return tokens * train.n_chars / len(train.ids)

    def _tell_baselines(self) -> None:
        """Once, when they are known: what to read the loss against."""
        if (known := self._baselines.result()) and not self._told_baselines:
            write_json(self._path / "baselines.json", known)
            self.say("baselines on valid: " + ", ".join(f"{name} {bpc:.3f}" for name, bpc in known.items()))
            self._told_baselines = True
