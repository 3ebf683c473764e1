"""Being told to stop."""

import ctypes
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_PR_SET_PDEATHSIG = 1
_blocks: list[list[int]] = []
"""What each `caught_signals` that we are in has caught, the outermost first."""


@contextmanager
def collect_signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM instead of dying of them; the second one of either kills as always.

    Where one such block is in another, both collect.
    """

    def note(number: int, frame: FrameType | None) -> None:
        for caught in _blocks:
            caught.append(number)
        signal.signal(number, before[signal.Signals(number)])

    numbers = () if _blocks else (signal.SIGINT, signal.SIGTERM)  # the outermost block listens for all
    before = {number: signal.signal(number, note) for number in numbers}
    _blocks.append([])
    try:
        yield _blocks[-1]
    finally:
        _blocks.pop()
        for number, handler in before.items():
            signal.signal(number, handler)


def terminate_with_parent() -> None:
    """On Linux the process that calls this gets SIGTERM when the one that started it is killed: it saves and leaves."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
