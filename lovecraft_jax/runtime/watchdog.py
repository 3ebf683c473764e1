"""Ends a run that is stuck: in a collective, a driver, a file system; what was saved stays."""

import os
import threading
from collections.abc import Callable

TICK = 1.0


class Watchdog:
    """Calls `tell` and leaves with `code` once `feed` was not called for `seconds`; 0 waits for ever.

    Counts time in ticks, so that a process that was stopped, or a laptop asleep, is not taken for a stuck one.
    """

    def __init__(self, seconds: float, tell: Callable[[], None], code: int) -> None:
        self._seconds, self._tell, self._code = seconds, tell, code
        self._hungry = 0.0
        self._closed = threading.Event()
        if seconds:
            threading.Thread(target=self._watch, daemon=True).start()

    def feed(self) -> None:
        """The run has come on."""
        self._hungry = 0.0

    def close(self) -> None:
        """Watches no longer."""
        self._closed.set()

    def _watch(self) -> None:
        tick = min(TICK, self._seconds / 2)
        while not self._closed.wait(tick):
            self._hungry += tick
            if self._hungry > self._seconds:
                self._tell()
                os._exit(self._code)  # whoever is stuck cannot be asked
