"""Systems measured in turns, A B C A B C ..., each in a process of its own that waits while the others run."""

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
"""Seconds between turns, for thread pools to stop spinning."""


@dataclasses.dataclass
class Measured:
    """One system's turns: seconds a step (or a character of each stream), in order; its peak memory in MB; seconds that
    the first call took."""

    system: str
    seconds: list[float]
    peak_mb: float = 0.0
    first_seconds: float = 0.0
    versions: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def median(self) -> float:
        """Of the seconds."""
        return statistics.median(self.seconds)

    def over(self, other: "Measured") -> str:
        """How many times as long as `other` it takes, round by round: median and range."""
        times = [mine / theirs for mine, theirs in zip(self.seconds, other.seconds, strict=True)]
        return f"{statistics.median(times):.2f} ({min(times):.2f}-{max(times):.2f})"


@dataclasses.dataclass(frozen=True)
class Plan:
    """What every system is given: the task ("train", or "write" of so many `streams`), the sizes (workloads.py), cores,
    and how many turns of how many seconds."""

    task: str
    sizes: str
    cores: int
    rounds: int
    seconds: float
    streams: int = 1


class _Worker:
    """A running `benchmarks.worker`."""

    def __init__(self, system: str, plan: Plan, log: Any) -> None:
        told = [plan.task, system, plan.sizes, str(plan.streams), str(plan.cores), str(plan.seconds)]
        line = [sys.executable, "-m", "benchmarks.worker", *told]
        self.line = " ".join(line)
        self.process = subprocess.Popen(
            line, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        )
        ready = self._read()
        self.count: int = ready["a_turn"]
        self.measured = Measured(system, [], first_seconds=ready["first_seconds"], versions=ready["versions"])

    def turn(self) -> None:
        assert self.process.stdin
        self.process.stdin.write(f"{self.count}\n")
        self.process.stdin.flush()
        told = self._read()
        self.measured.seconds.append(told["seconds"] / self.count)
        self.measured.peak_mb = told["peak_mb"]

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the worker ended with {self.process.wait()}: {self.line}")
        return json.loads(line)

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def machine(cores: int) -> dict[str, Any]:
    """What a result was measured on."""
    return {"cpu": cpu_name(), "cores": cores, "python": platform.python_version(), "system": platform.system()}


def in_turns(systems: Sequence[str], plan: Plan, log: Any) -> list[Measured]:
    """The turns of every system that starts; one that does not is left out, and said so."""
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
