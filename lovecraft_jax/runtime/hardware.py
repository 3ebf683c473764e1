"""What this machine computes with, by name."""

import hashlib
import platform
from pathlib import Path


def cpu_name() -> str:
    """The CPU's model where the system tells, else its kind."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # elsewhere than on Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def machine() -> str:
    """A name for this kind of machine: what was compiled for one CPU may not run on another, or run slower."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        told = sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))})
    except OSError:  # elsewhere than on Linux each machine is a kind of its own
        told = [platform.processor(), platform.node()]
    return hashlib.sha256("\n".join([platform.system(), platform.machine(), *told]).encode()).hexdigest()[:16]
