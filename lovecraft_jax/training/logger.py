"""What a run shows and writes down, which one process does for all: plan, live line, rows, samples, baselines."""

import datetime
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, TypeVar

import jax
import numpy as np
from etils import epath
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from lovecraft_jax.config import Config
from lovecraft_jax.data.cleaning import Counts
from lovecraft_jax.data.dataset import Data
from lovecraft_jax.inference import generate
from lovecraft_jax.inference.baselines import Baselines
from lovecraft_jax.model.lm import LanguageModel
from lovecraft_jax.runtime import distributed
from lovecraft_jax.runtime.console import is_silent, log
from lovecraft_jax.runtime.files import Row, trim_samples, write_json, write_text
from lovecraft_jax.stylometry.features import measure
from lovecraft_jax.stylometry.overlap import Overlap
from lovecraft_jax.stylometry.reference import Reference
from lovecraft_jax.training.compiled import Program
from lovecraft_jax.training.metrics import MetricsWriter, results
from lovecraft_jax.training.run_files import run_record, write_run_files

BASELINE_SECONDS = 60
STYLE = ("real", "letters_tv", "copied_longest")
"""Of each sample written while training: % of its words that the corpus has, total variation of its letters from the
author's, characters of its longest span from the training text."""

Method = TypeVar("Method", bound=Callable)


def _main_process_only(method: Method) -> Method:
    """Process 0 does it; to the others it comes to nothing."""

    @functools.wraps(method)
    def only_there(self: Any, *args: Any, **kwargs: Any) -> Any:
        return method(self, *args, **kwargs) if distributed.is_main_process() else None

    return only_there  # type: ignore[return-value]


class Display:
    """`show` after every dispatch, `say` for everything else; a context, so that the terminal is left tidy."""

    def __init__(self, step: int, total: int, steps_per_epoch: int, chars_per_step: float) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True, quiet=is_silent())
        self._total, self._steps_per_epoch, self._chars_per_step = total, steps_per_epoch, chars_per_step
        columns = (BarColumn(bar_width=24), TextColumn("{task.description}", markup=False))
        self._live = (
            Progress(*columns, console=self._console, transient=True)
            if self._console.is_terminal and not is_silent()
            else None
        )
        self._task = self._live.add_task("compiling", total=total, completed=step) if self._live else None

    def __enter__(self) -> "Display":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live:
            self._live.stop()

    def show(self, step: int, bpc: float, chars_per_second: float, log: bool) -> None:
        """The line as of `step`. Where there is no terminal it is printed, and only when `log` is set."""
        left = datetime.timedelta(seconds=round((self._total - step) * self._chars_per_step / chars_per_second))
        line = f"step {step:,}/{self._total:,}  pass {step / self._steps_per_epoch:.2f}  train {bpc:.3f} bpc"
        line += f"  {chars_per_second:,.0f} chars/s  {left} left"
        if self._live and self._task is not None:
            self._live.update(self._task, completed=step, description=line)
        elif log:
            self.log(line)

    def log(self, line: str) -> None:
        """A line of its own above the live one."""
        self._console.print(line, markup=False)


class Logger:
    """Of a run in `path` that goes on at `step`. `prompt`: the ids that samples go on from."""

    def __init__(self, path: epath.Path, config: Config, data: Data, prompt: np.ndarray) -> None:
        self._path, self._config, self._data, self._prompt = path, config, data, prompt
        self.record = run_record(config, data)

    @_main_process_only
    def open(self, program: Program, step: int, total: int, steps_per_epoch: int, stack: ExitStack) -> None:
        """Writes the record, tells the plan, and removes what was written after `step`. `stack` closes the journal."""
        write_run_files(self._path, self.record)
        parameters = sum(leaf.size for leaf in jax.tree.leaves(program.target.variables["params"]))
        log(plan(self._config, self._data, parameters, program.devices, total / steps_per_epoch, total))
        log(f"{'resuming at' if step else 'starting at'} step {step:,} in {self._path}")
        trim_samples(self._path / "samples", step)
        self._metrics = MetricsWriter(self._path, step)
        stack.callback(self._metrics.close)
        self._baselines = Baselines(self._data.splits.text["train"], self._data.splits.text["valid"])
        stack.callback(self._baselines.close)
        self._baselines_logged = False
        self._display = Display(step, total, steps_per_epoch, self.chars_per_step)
        stack.enter_context(self._display)

    @_main_process_only
    def show(self, row: Row, due: bool) -> None:
        """A row of training on the live line, and, where it is due, written down."""
        self._log_baselines()
        self._display.show(row["step"], row["bpc"], row["chars_per_second"], due)
        if due:
            self._metrics.write(row)

    @_main_process_only
    def write(self, *rows: Row) -> None:
        """Rows that belong together."""
        self._metrics.write(*rows)

    @_main_process_only
    def log(self, line: str) -> None:
        """A line above the live one."""
        self._display.log(line)

    @_main_process_only
    def evaluation(self, row: Row, model: LanguageModel, variables: Mapping[str, Any]) -> None:
        """A scheduled score; a sample of the `variables`, as they lie on this process's devices; a row of its style."""
        written = self._sample(model, variables, f"{row['step']:08d}.txt")
        self.write(row, {"step": row["step"], "split": "sample"} | self._style(written))

    @_main_process_only
    def finish(self, rows: list[Row], model: LanguageModel, variables: Mapping[str, Any]) -> None:
        """The final scores, of the best checkpoint, and some of its writing."""
        if self._baselines.wait(BASELINE_SECONDS) is None:
            self.log("WARNING: the baselines could not be worked out")
        self._log_baselines()
        written = self._sample(model, variables, "best.txt")
        self.write(*rows)
        text = self._config.sample.prompt + written
        self.log(f"\n{text}\n\nfrom the best checkpoint, step {rows[0]['checkpoint']:,}; all is in {self._path}")
        self.results(rows)

    @_main_process_only
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

    def _sample(self, model: LanguageModel, variables: Mapping[str, Any], name: str) -> str:
        """Writes a text of config.sample, and returns it without the prompt."""
        config = self._config.sample
        sampling = generate.Sampling(config.temperature, config.top_k, config.top_p)
        parts = generate.write(model, dict(variables), self._prompt, config.length, self._config.seed, sampling)
        written = self._data.tokenizer.decode(np.concatenate(list(parts), axis=1)[0])
        (self._path / "samples").mkdir(exist_ok=True)
        write_text(self._path / "samples" / name, config.prompt + written + "\n")
        return written

    def _style(self, written: str) -> Row:
        """A few figures of `style` and `copying` that tell how the writing changes."""
        reference, overlap = self._author
        figures = measure(written, reference) | overlap.figures(written)
        return {key: figures[key] for key in STYLE}

    @functools.cached_property
    def _author(self) -> tuple[Reference, Overlap]:
        """What samples are read against; made for the first one, so that no training waits for it."""
        tales = self._data.splits.by_tale
        return Reference(tales["train"], tales["valid"] | tales["test"]), Overlap(tales["train"])

    def _chars(self, tokens: int) -> float:
        train = self._data.encoded["train"]
        return tokens * train.n_chars / len(train.ids)

    def _log_baselines(self) -> None:
        """Once, when they are known: what to read the loss against."""
        if (known := self._baselines.result()) and not self._baselines_logged:
            write_json(self._path / "baselines.json", known)
            self.log("baselines on valid: " + ", ".join(f"{name} {bpc:.3f}" for name, bpc in known.items()))
            self._baselines_logged = True


def plan(config: Config, data: Data, parameters: int, devices: Sequence[jax.Device], passes: float, steps: int) -> str:
    """What is about to happen, in a few lines."""
    characters = {split: encoded.n_chars for split, encoded in data.encoded.items()}
    lengths = ", ".join(f"{split} {n:,}" for split, n in characters.items())
    model, share = config.model, config.data.share
    kept = f"; data.share={share:g} of its training tales" if share < 1 else ""
    return "\n".join(
        (
            f"corpus      {data.name} ({lengths} characters{kept})",
            f"cleaning    {_cleaning(data.splits.counts, config.data.alphabet)}",
            f"vocabulary  {data.tokenizer.size} {data.tokenizer.level}",
            f"model       {model.layers} LSTM layers of {model.units}, {parameters:,} parameters, "
            f"{parameters / characters['train']:.3f} a training character",
            f"steps       {steps:,} of {config.data.batch_size} x {config.data.seq_len} tokens, "
            f"{passes:.2f} passes over the text",
            f"devices     {len(devices)} x {devices[0].device_kind} ({devices[0].platform})",
        )
    )


def _cleaning(counts: Counts, alphabet: str) -> str:
    return (
        f"{counts.read:,} characters read, {counts.folded:,} folded, {counts.dropped:,} dropped (alphabet {alphabet})"
    )
