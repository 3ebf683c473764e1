"""Being told to stop."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def caught_signals(pass_on: bool = False) -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM instead of dying of them; the second one of either kills as always.

    With `pass_on` SIGTERM is left to whoever listens for it (JAX, which tells all processes), and SIGINT becomes one.
    """
    caught: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        signal.signal(number, before[signal.Signals(number)])
        if pass_on:
            os.kill(os.getpid(), signal.SIGTERM)

    numbers = (signal.SIGINT,) if pass_on else (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
