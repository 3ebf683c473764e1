"""Lines on standard error, where everything about the work goes; results go to standard output."""

import sys

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
