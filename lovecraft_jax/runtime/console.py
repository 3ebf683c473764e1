"""Lines on standard error, where everything about the work goes, and results on standard output."""

import codecs
import contextlib
import functools
import io
import os
import sys
from typing import Any

from lovecraft_jax.runtime.errors import RunError

_silent = False


def log(line: str, always: bool = False) -> None:
    """Prints a line on standard error; after `silence` only with `always`."""
    if sys.stderr and (always or not _silent):  # print takes None for standard output
        print(line, file=sys.stderr, flush=True)


def silence() -> None:
    """Turns `log` off in this process, because another one logs for all."""
    global _silent
    _silent = True


def is_silent() -> bool:
    """Whether `silence` was called."""
    return _silent


def print_result(text: str, end: str = "\n", kept: str = "") -> None:
    """Prints on standard output. Where it cannot be written, as on a full disk, raises RunError, which says where the
    result is `kept`; BrokenPipeError where whoever read our output has closed it, as `head` does, and it is not kept"""
    try:
        print(text, end=end, flush=True)
    except OSError as error:
        if isinstance(error, BrokenPipeError) and not kept:
            raise
        remedy = kept or "free some space, or send it elsewhere"
        raise RunError(f"standard output: cannot be written ({error.strerror}); {remedy}") from error


def prepare_streams() -> None:
    """Makes the standard streams fit for a command. Standard output shows a "?" for each character that its encoding
    lacks; a standard error that cannot be written, as on a full disk or a closed terminal, ends no work."""
    for number in (0, 1, 2):  # closed ones are opened, so that no file of the run takes their number
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)  # takes the lowest free number; what is written to it still fails
    sys.stdout = sys.stdout or open(1, "w")
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors in ("strict", "surrogateescape"):
        codecs.register_error("show_as_question_mark", _show_as_question_mark)
        sys.stdout.reconfigure(errors="show_as_question_mark")
    errors: Any = _Lenient(sys.stderr)
    sys.stderr = errors


class _Lenient:
    """A text stream, but what cannot be written to it is dropped."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError, AttributeError):  # ValueError: closed, AttributeError: None
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            self._stream.flush()


def _show_as_question_mark(error: UnicodeError) -> tuple[str | bytes, int]:
    """An error handler for an encoding (module codecs), which logs a line the first time."""
    try:
        return codecs.lookup_error("surrogateescape")(error)  # the bytes of a file's name
    except UnicodeError:
        _log_once(
            f"WARNING: standard output ({sys.stdout.encoding}) cannot show every character: the others are replaced "
            "by ?; set PYTHONIOENCODING=utf-8"
        )
        return codecs.replace_errors(error)


_log_once = functools.cache(log)
