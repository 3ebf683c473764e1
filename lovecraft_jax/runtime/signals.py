"""SIGINT and SIGTERM, collected so that a run can save before it exits."""

import ctypes
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_collected: list[list[int]] = []  # by each open block of `collect_signals`, the outermost first


@contextmanager
def collect_signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM in a list instead of ending the process; the second of either does end it. Where one
    block is within another, both lists get every signal."""

    def collect(number: int, frame: FrameType | None) -> None:
        for signals in _collected:
            signals.append(number)
        signal.signal(number, before[signal.Signals(number)])

    numbers = () if _collected else (signal.SIGINT, signal.SIGTERM)  # the outermost block installs the handlers
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
