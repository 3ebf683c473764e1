"""What a person sees of a run on standard error: a summary before the first step, then a line that stays up to date."""

import datetime
from collections.abc import Sequence
from contextlib import ExitStack

import jax
from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as ProgressBar

from lovecraft_jax.config import Config
from lovecraft_jax.data.dataset import Data
from lovecraft_jax.data.splits import describe
from lovecraft_jax.model.cells import cell_class
from lovecraft_jax.runtime.console import visible
from lovecraft_jax.training.progress import Progress


class Display:
    """The live line of a run of `total` steps, where there is a terminal, and lines above it. `stack` ends it."""

    def __init__(self, step: int, total: int, progress: Progress, stack: ExitStack) -> None:
        self._console = Console(stderr=True, markup=False, emoji=False, highlight=False, soft_wrap=True)
        self._total, self._progress = total, progress
        self._is_live = self._console.is_terminal
        columns = (BarColumn(bar_width=24), TextColumn("{task.description}", markup=False))
        self._bar = ProgressBar(*columns, console=self._console, transient=True, disable=not self._is_live)
        self._task = self._bar.add_task("compiling", total=total, completed=step)
        stack.enter_context(self._bar)

    def show(self, step: int, bpc: float, chars_per_second: float, due: bool) -> None:
        """Updates the live line. Where there is no terminal it prints the line, but only when it is `due`."""
        seconds = min(1e12, round((self._total - step) * self._progress.chars_per_step / chars_per_second))
        line = f"step {step:,}/{self._total:,}  epoch {self._progress.epochs(step):.2f}  train {bpc:.3f} bpc"
        line += f"  {chars_per_second:,.0f} chars/s  {datetime.timedelta(seconds=seconds)} left"
        if self._is_live:
            self._bar.update(self._task, completed=step, description=line)
        elif due:
            self.log(line)

    def log(self, *lines: str) -> None:
        for line in lines:
            self._console.print(visible(line, one_line=True))


def startup_summary(
    config: Config, data: Data, parameters: int, devices: Sequence[jax.Device], steps: int, progress: Progress
) -> list[str]:
    """Returns a few lines on the text, the model, the steps and the devices of a run."""
    lengths = ", ".join(f"{split} {encoded.n_chars:,}" for split, encoded in data.encoded.items())
    longer = progress.tokens_with_dropout / progress.tokens - 1
    dropped = f"; bpe_dropout makes {longer:.0%} more tokens of the training text" if data.bpe_dropout else ""
    model, share, counts = config.model, config.data.share, data.splits.counts
    part = f"; data.share={share:g} of its training tales" if share < 1 else ""
    facts = describe(data.splits.facts)
    chosen = {name: getattr(model, name) for name in ("norm", "mogrify", "skip")}
    more = ", ".join(f"{name}={value}" for name, value in chosen.items() if value not in ("none", 0))
    train = config.train
    unused = f" (train.steps; train.epochs={train.epochs:g} is not used)" if train.steps and train.epochs else ""
    layers = f"{model.layers} {cell_class(model.cell, model.input_gate).label} layers of {model.units}"
    return [
        f"corpus      {data.name} ({lengths} characters{part})",
        *([f"splits      {facts}"] if facts else []),
        f"cleaning    {counts.read:,} characters read, {counts.folded:,} folded, {counts.dropped:,} dropped "
        f"(alphabet {config.data.alphabet})",
        f"vocabulary  {data.tokenizer.size:,} ids ({data.tokenizer.level}){dropped}",
        f"model       {layers}{f' ({more})' if more else ''}, {parameters:,} parameters, "
        f"{parameters / data.encoded['train'].n_chars:.3f} per training character",
        f"steps       {steps:,} of {config.data.batch_size} x {config.data.seq_len} tokens, "
        f"{progress.epochs(steps):.2f} epochs{unused}",
        f"devices     {len(devices)} x {devices[0].device_kind} ({devices[0].platform})",
    ]
