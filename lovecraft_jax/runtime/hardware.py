"""This machine's hardware: its names, and the cores that this process may use."""

import hashlib
import os
import platform
from pathlib import Path


def cpu_name() -> str:
    """The model of the CPU where the system has it, else its architecture."""
    names = [line.partition(":")[2].strip() for line in _cpu_info() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def machine() -> str:
    """A hash of the kind of machine: what was compiled for one CPU may not run on another, or run slower."""
    what = sorted({line for line in _cpu_info() if line.startswith(("model name", "flags", "Features", "CPU part"))})
    what = what or [platform.processor(), platform.node()]  # without cpuinfo each machine is a kind of its own
    return hashlib.sha256("\n".join([platform.system(), platform.machine(), *what]).encode()).hexdigest()[:16]


def core_count() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_info() -> list[str]:
    """The lines of /proc/cpuinfo, which only Linux has."""
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
