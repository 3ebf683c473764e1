"""Processes that end with the one that started them."""

import ctypes
import signal
import sys


def terminate_with_parent() -> None:
    """On Linux, makes the system send SIGTERM to this process when its parent dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # 1: PR_SET_PDEATHSIG
