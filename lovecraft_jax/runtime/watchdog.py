"""Ends a run that hangs: in a collective, a driver, a file system. What was saved stays."""

import faulthandler
import os
import threading
from collections.abc import Callable

from lovecraft_jax.runtime.console import log

TICK = 1.0  # seconds between two checks


class Watchdog:
    """Prints the stacks of all threads, calls `report` and exits with `code` when `feed` was not called for `seconds`
    (0: never). Time is counted in ticks, so that a process that was stopped, or a laptop that slept, does not count as
    stuck."""

    def __init__(self, seconds: float, report: Callable[[], None], code: int) -> None:
        self._seconds, self._report, self._code = seconds, report, code
        self._seconds_without_progress = 0.0
        self._closed = threading.Event()
        if seconds:
            threading.Thread(target=self._watch, daemon=True).start()

    def feed(self) -> None:
        """Starts the time anew: the run has made progress."""
        self._seconds_without_progress = 0.0

    def close(self) -> None:
        self._closed.set()

    def _watch(self) -> None:
        tick = min(TICK, self._seconds / 2)
        while not self._closed.wait(tick):
            self._seconds_without_progress += tick
            if self._seconds_without_progress > self._seconds:
                log(f"no progress for {self._seconds} s; where each thread of process {os.getpid()} is:", always=True)
                faulthandler.dump_traceback(2)  # standard error, not sys.stderr, which tests and notebooks replace
                self._report()
                os._exit(self._code)  # a thread that hangs cannot be asked to end
