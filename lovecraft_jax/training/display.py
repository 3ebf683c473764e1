"""What a person sees of a run on standard error: a summary before the first step, then a line that stays up to date."""

import datetime
from collections.abc import Sequence
from types import TracebackType

import jax
from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as ProgressBar

from lovecraft_jax.config import Config
from lovecraft_jax.data.dataset import Data
from lovecraft_jax.model.cells import cell_class
from lovecraft_jax.runtime.console import is_silent
from lovecraft_jax.training.progress import Progress


class Display:
    """The live line of a run of `total` steps, where there is a terminal, and lines above it. A context manager, so
    that the terminal is left tidy."""

    def __init__(self, step: int, total: int, progress: Progress) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True, quiet=is_silent())
        self._total, self._progress = total, progress
        columns = (BarColumn(bar_width=24), TextColumn("{task.description}", markup=False))
        is_live = self._console.is_terminal and not is_silent()
        self._live = ProgressBar(*columns, console=self._console, transient=True) if is_live else None
        self._task = self._live.add_task("compiling", total=total, completed=step) if self._live else None

    def __enter__(self) -> "Display":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live:
            self._live.stop()

    def show(self, step: int, bpc: float, chars_per_second: float, due: bool) -> None:
        """Updates the live line. Where there is no terminal it prints the line, but only when it is `due`."""
        seconds = round((self._total - step) * self._progress.chars_per_step / chars_per_second)
        line = f"step {step:,}/{self._total:,}  epoch {self._progress.epochs(step):.2f}  train {bpc:.3f} bpc"
        line += f"  {chars_per_second:,.0f} chars/s  {datetime.timedelta(seconds=seconds)} left"
        if self._live and self._task is not None:
            self._live.update(self._task, completed=step, description=line)
        elif due:
            self.log(line)

    def log(self, line: str) -> None:
        """Prints a line above the live one."""
        self._console.print(line, markup=False)


def startup_summary(
    config: Config, data: Data, parameters: int, devices: Sequence[jax.Device], steps: int, progress: Progress
) -> str:
    """Returns a few lines on the text, the model, the steps and the devices of a run."""
    characters = {split: encoded.n_chars for split, encoded in data.encoded.items()}
    lengths = ", ".join(f"{split} {n:,}" for split, n in characters.items())
    model, share, counts = config.model, config.data.share, data.splits.counts
    part = f"; data.share={share:g} of its training tales" if share < 1 else ""
    return "\n".join(
        (
            f"corpus      {data.name} ({lengths} characters{part})",
            f"cleaning    {counts.read:,} characters read, {counts.folded:,} folded, {counts.dropped:,} dropped "
            f"(alphabet {config.data.alphabet})",
            f"vocabulary  {data.tokenizer.size} {data.tokenizer.level}",
            f"model       {model.layers} {cell_class(model.cell).label} layers of {model.units}, "
            f"{parameters:,} parameters, {parameters / characters['train']:.3f} per training character",
            f"steps       {steps:,} of {config.data.batch_size} x {config.data.seq_len} tokens, "
            f"{progress.epochs(steps):.2f} epochs",
            f"devices     {len(devices)} x {devices[0].device_kind} ({devices[0].platform})",
        )
    )
