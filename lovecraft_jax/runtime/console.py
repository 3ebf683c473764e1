"""Lines on standard error, where everything about the work goes; results go to standard output."""

import sys
from collections.abc import Iterable, Sequence
from typing import TypeVar

Item = TypeVar("Item")
_silent = False


def log(line: str, always: bool = False) -> None:
    """Prints a line on standard error; after `silence` only with `always`."""
    if always or not _silent:
        print(line, file=sys.stderr, flush=True)


def silence() -> None:
    """Turns `log` off in this process, because another one logs for all."""
    global _silent
    _silent = True


def is_silent() -> bool:
    """Whether `silence` was called."""
    return _silent


def counted(items: Sequence[Item], doing: str) -> Iterable[Item]:
    """Returns the items; while thousands are taken, a live line counts them on a terminal."""
    if len(items) < 2000 or _silent or not sys.stderr.isatty():
        return items
    from rich.console import Console  # not at every start
    from rich.progress import track

    return track(items, doing, console=Console(stderr=True), transient=True)
