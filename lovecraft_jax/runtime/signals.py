"""The signals that ask a process to end, collected so that a run can save before it exits."""

import ctypes
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

WARNINGS = ("SIGHUP", "SIGUSR1", "SIGXCPU")  # the terminal was closed, or a time limit is near; may come repeatedly

_collected: list[list[int]] = []  # by each open block of `collect_signals`, the outermost first


@contextmanager
def collect_signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM in a list instead of ending the process; the second of either does end it. Collects
    WARNINGS too, unless something else is done with them, as with nohup. Where one block is within another, both lists
    get every signal. Only the main thread gets signals: in another the list stays empty."""
    if threading.current_thread() is not threading.main_thread():
        yield []
        return

    def collect(number: int, frame: FrameType | None) -> None:
        for signals in _collected:
            signals.append(number)
        if number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, before[signal.Signals(number)])

    known = [getattr(signal, name) for name in WARNINGS if hasattr(signal, name)]  # none on Windows
    # What Python knows is from its start, before libtpu had the process ignore SIGHUP.
    fatal = [number for number in known if signal.getsignal(number) == signal.SIG_DFL]
    numbers = () if _collected else (signal.SIGINT, signal.SIGTERM, *fatal)  # the outermost block installs the handlers
    before = {number: signal.signal(number, collect) for number in numbers}
    _collected.append([])
    try:
        yield _collected[-1]
    finally:
        _collected.pop()
        for number, handler in before.items():
            signal.signal(number, handler)


def terminate_with_parent() -> None:
    """On Linux, makes the system send SIGTERM to this process when its parent dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # 1: PR_SET_PDEATHSIG
