"""Measures systems in turns, A B C A B C ..., each in its own process, which waits while the others run."""

import dataclasses
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lovecraft_jax.runtime.hardware import cpu_name

ROOT = Path(__file__).parents[1]
PAUSE = 0.3
"""Seconds between turns, in which thread pools stop spinning."""


@dataclasses.dataclass
class Measured:
    """The measurements of one system.

    `seconds`: per step, or per character of each stream, for each turn in order. `peak_mb`: peak memory.
    `first_seconds`: duration of the first call, which compiles.
    """

    system: str
    seconds: list[float]
    peak_mb: float = 0.0
    first_seconds: float = 0.0
    versions: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def median(self) -> float:
        """The median of `seconds`."""
        return statistics.median(self.seconds)

    def times(self, other: "Measured") -> str:
        """Returns this system's time divided by the other's in the same round: median and range over the rounds."""
        ratios = [mine / theirs for mine, theirs in zip(self.seconds, other.seconds, strict=True)]
        return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


@dataclasses.dataclass(frozen=True)
class Plan:
    """What every system runs: the task ("train", or "generate" with `streams` texts at once), the sizes (workloads.py),
    the number of cores, and how many rounds of how many seconds."""

    task: str
    sizes: str
    cores: int
    rounds: int
    seconds: float
    streams: int = 1


def measure_in_turns(systems: Sequence[str], plan: Plan, log: Any) -> list[Measured]:
    """Returns the measurements of every system that runs; one that fails is left out with a warning."""
    workers = []
    for system in systems:
        try:
            workers.append(_Worker(system, plan, log))
        except RuntimeError as error:
            print(f"left out: {system}: {error}", file=sys.stderr)
    for _ in range(plan.rounds):
        for worker in list(workers):
            time.sleep(PAUSE)
            try:
                worker.turn()
            except (RuntimeError, BrokenPipeError) as error:
                print(f"left out: {worker.measured.system}: {error}", file=sys.stderr)
                workers.remove(worker)
    for worker in workers:
        worker.close()
    return [worker.measured for worker in workers]


class _Worker:
    """A running `benchmarks.worker` process."""

    def __init__(self, system: str, plan: Plan, log: Any) -> None:
        arguments = [plan.task, system, plan.sizes, str(plan.streams), str(plan.cores), str(plan.seconds)]
        command = [sys.executable, "-m", "benchmarks.worker", *arguments]
        self.command = " ".join(command)
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        )
        ready = self._read()
        self.count: int = ready["count"]
        self.measured = Measured(system, [], first_seconds=ready["first_seconds"], versions=ready["versions"])

    def turn(self) -> None:
        assert self.process.stdin
        self.process.stdin.write(f"{self.count}\n")
        self.process.stdin.flush()
        result = self._read()
        self.measured.seconds.append(result["seconds"] / self.count)
        self.measured.peak_mb = result["peak_mb"]

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the worker exited with {self.process.wait()}: {self.command}")
        return json.loads(line)

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def machine(cores: int) -> dict[str, Any]:
    """Returns a description of this machine for the results."""
    return {"cpu": cpu_name(), "cores": cores, "python": platform.python_version(), "system": platform.system()}
