"""Lines on standard error, where everything about the work goes; results go to standard output."""

import contextlib
import functools
import io
import os
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

_HIDDEN = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that command a terminal, end a line, reorder what stands beside them, or cannot be encoded."""

_silent = False


def visible(text: str, one_line: bool = False) -> str:
    r"""Returns a text with escapes (\x1b) in place of control characters, but for line ends and tabs where it need not
    be `one_line`, bidirectional overrides and surrogates. Whatever comes from outside is shown through this."""
    shown = _HIDDEN.sub(_escape, text)
    return re.sub(r"[\n\t]", _escape, shown) if one_line else shown


def log(*lines: str, always: bool = False) -> None:
    """Prints lines on standard error, each as one line whatever is in it; after `silence` only with `always`."""
    if sys.stderr and (always or not _silent):  # print takes None, which a closed one is, for standard output
        print(*(visible(line, one_line=True) for line in lines), sep="\n", file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """Returns a text as standard output gets it: visible on a terminal, which would obey it, and exact elsewhere, but
    for characters that its encoding lacks: they become "?", which is logged once."""
    shown, encoding = visible(text) if sys.stdout.isatty() else text, sys.stdout.encoding or "utf-8"
    encoded = shown.encode(encoding, "replace").decode(encoding)
    if encoded != shown:
        log_once(f"WARNING: standard output is in {encoding}: ? replaces others; set PYTHONIOENCODING=utf-8")
    return encoded


def prepare_streams() -> None:
    """Makes standard error drop what it cannot write: a full disk, or a terminal that was closed, ends no run."""
    sys.stdout = sys.stdout or open(os.devnull, "w")  # None where it was closed
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


def silence() -> None:
    """Turns `log` off in this process, because another one logs for all."""
    global _silent
    _silent = True


def counted(items: Sequence[Any], doing: str) -> Iterable[Any]:
    """Returns the items; while thousands are taken, a live line counts them on a terminal."""
    if len(items) < 2000 or _silent or not sys.stderr.isatty():
        return items
    from rich.console import Console  # not at every start
    from rich.progress import track

    return track(items, doing, console=Console(stderr=True), transient=True)


log_once = functools.cache(log)


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()
