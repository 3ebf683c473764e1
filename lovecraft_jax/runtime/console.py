"""Lines on standard error: what a person sees of the work, while results go to standard output."""

import sys

_silent = False


def log(line: str, always: bool = False) -> None:
    """Prints a line on standard error; after `silence` only one that must `always` be seen."""
    if always or not _silent:
        print(line, file=sys.stderr, flush=True)


def silence() -> None:
    """From here on another process does the talking."""
    global _silent
    _silent = True


def is_silent() -> bool:
    """Whether `silence` was called."""
    return _silent
