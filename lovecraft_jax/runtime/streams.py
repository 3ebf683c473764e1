"""The standard streams of a command: what they cannot show, or cannot write, does not end it."""

import codecs
import contextlib
import functools
import io
import os
import sys

from lovecraft_jax.runtime.console import log

_log_once = functools.cache(log)


def prepare_streams() -> None:
    """Makes the standard streams of a command show "?" for characters that standard output cannot, and standard error
    drop what it cannot: a full disk, or a terminal that was closed, is no reason to end a run."""
    sys.stdout = sys.stdout or open(os.devnull, "w")  # None where it was closed
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors in ("strict", "surrogateescape"):
        codecs.register_error("question_mark", _question_mark)
        sys.stdout.reconfigure(errors="question_mark")
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr = _Lenient(sys.stderr.buffer, sys.stderr.encoding, sys.stderr.errors, line_buffering=True)


class _Lenient(io.TextIOWrapper):
    """A text stream that drops what it cannot write."""

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            super().flush()


def _question_mark(error: UnicodeError) -> tuple[str | bytes, int]:
    """Handles errors of an encoding (module codecs), and logs a line about the first."""
    with contextlib.suppress(UnicodeError):
        return codecs.lookup_error("surrogateescape")(error)  # a byte of a file's name
    _log_once(f"WARNING: standard output is in {sys.stdout.encoding}: ? replaces others; set PYTHONIOENCODING=utf-8")
    return codecs.replace_errors(error)
