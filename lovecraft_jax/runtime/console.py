"""What a person sees of a run, on standard error: a live line in a terminal, plain lines elsewhere."""

import datetime
import sys
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn


class Display:
    """`show` after every dispatch, `say` for everything else; a context, so that the terminal is left tidy."""

    def __init__(self, step: int, total: int, steps_per_pass: int, chars_per_step: float) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True, quiet=_hushed)
        self._total, self._steps_per_pass, self._chars_per_step = total, steps_per_pass, chars_per_step
        columns = (BarColumn(bar_width=24), TextColumn("{task.description}", markup=False))
        self._live = (
            Progress(*columns, console=self._console, transient=True)
            if self._console.is_terminal and not _hushed
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
        line = f"step {step:,}/{self._total:,}  pass {step / self._steps_per_pass:.2f}  train {bpc:.3f} bpc"
        line += f"  {chars_per_second:,.0f} chars/s  {left} left"
        if self._live and self._task is not None:
            self._live.update(self._task, completed=step, description=line)
        elif log:
            self.say(line)

    def say(self, line: str) -> None:
        """A line of its own above the live one."""
        self._console.print(line, markup=False)


def say(line: str, always: bool = False) -> None:
    """A line on standard error, before there is a display; after `hush` only what must `always` be said."""
    if always or not _hushed:
        print(line, file=sys.stderr, flush=True)


def hush() -> None:
    """From here on another process does the talking."""
    global _hushed
    _hushed = True


_hushed = False
