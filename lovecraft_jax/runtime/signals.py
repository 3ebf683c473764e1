"""The signals that ask a process to end, collected so that a run can save before it exits."""

import ctypes
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ASKED_TO_STOP = (signal.SIGINT, signal.SIGTERM)
WARNINGS = ("SIGHUP", "SIGUSR1", "SIGXCPU")
"""A closed terminal, the warning of Slurm and others before their time limit, and of the system's own."""

_collected: list[list[int]] = []  # by each open block of `collect_signals`, the outermost first


@contextmanager
def collect_signals() -> Iterator[list[int]]:
    """Collects signals in a list instead of ending the process. SIGINT and SIGTERM do end it the second time; WARNINGS,
    which may come several times, are collected where they would end it, and not with nohup. Where one block is within
    another, both lists get every signal. In a thread other than the main one nothing is collected: Python leaves
    signals to the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield []
        return

    def collect(number: int, frame: FrameType | None) -> None:
        for signals in _collected:
            signals.append(number)
        if number in ASKED_TO_STOP:
            signal.signal(number, before[signal.Signals(number)])

    # What Python knows is from its start: libtpu has the process ignore SIGHUP when JAX looks for devices.
    warnings = [number for name in WARNINGS if (number := getattr(signal, name, None))]
    fatal = [number for number in warnings if signal.getsignal(number) == signal.SIG_DFL]
    numbers = () if _collected else (*ASKED_TO_STOP, *fatal)  # the outermost block installs the handlers
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
