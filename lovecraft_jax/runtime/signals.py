"""The signals that ask a process to end, collected so that a run can save before it exits."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_collected: list[list[int]] = []  # by each open block of `collect_signals`, the outermost first


@contextmanager
def collect_signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM in a list instead of ending the process; the second of either does end it. Collects
    every SIGHUP too (the terminal was closed), unless it is ignored, as with nohup. Where one block is within another,
    both lists get every signal. Only the main thread gets signals: in another the list stays empty."""
    if threading.current_thread() is not threading.main_thread():
        yield []
        return

    def collect(number: int, frame: FrameType | None) -> None:
        for signals in _collected:
            signals.append(number)
        if number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, before[signal.Signals(number)])

    numbers = [signal.SIGINT, signal.SIGTERM]
    # Windows has no SIGHUP. What Python knows of it is from its start, before libtpu had the process ignore it.
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
        numbers.append(signal.SIGHUP)
    # The outermost block installs the handlers, once there is a list for the first signal.
    before = {} if _collected else {number: signal.getsignal(number) for number in numbers}
    mine: list[int] = []
    try:
        _collected.append(mine)
        for number in before:
            signal.signal(number, collect)
        yield mine
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if _collected and _collected[-1] is mine:  # else a signal came before it was there
            _collected.pop()
