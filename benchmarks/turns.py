"""Systems measured in turns, A B C A B C ..., each in a process of its own that waits while the others run."""

import dataclasses
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAUSE = 0.3
"""Seconds between turns, for thread pools to stop spinning."""


@dataclasses.dataclass
class Measured:
    """One system's turns: seconds a step, in order; its peak memory in MB; seconds to the first steps' end."""

    system: str
    seconds: list[float]
    peak_mb: float = 0.0
    first_seconds: float = 0.0

    versions: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def median(self) -> float:
        """Seconds a step."""
        return statistics.median(self.seconds)

    def over(self, other: "Measured") -> str:
        """How many times as long as `other` it takes, round by round: median and range."""
        times = [mine / theirs for mine, theirs in zip(self.seconds, other.seconds, strict=True)]
        return f"{statistics.median(times):.2f} ({min(times):.2f}-{max(times):.2f})"


class _Worker:
    """A running `benchmarks.worker`."""

    def __init__(self, system: str, sizes: str, cores: int, log: Any) -> None:
        line = [sys.executable, "-m", "benchmarks.worker", system, sizes, str(cores)]
        self.process = subprocess.Popen(
            line, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        )
        ready = self._read()
        self.steps: int = ready["steps_a_turn"]
        self.measured = Measured(system, [], first_seconds=ready["first_seconds"], versions=ready["versions"])

    def turn(self) -> None:
        assert self.process.stdin
        self.process.stdin.write(f"{self.steps}\n")
        self.process.stdin.flush()
        told = self._read()
        self.measured.seconds.append(told["seconds"] / self.steps)
        self.measured.peak_mb = told["peak_mb"]

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the worker ended with {self.process.wait()}: {' '.join(map(str, self.process.args))}")
        return json.loads(line)

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def in_turns(systems: Sequence[str], sizes: str, cores: int, rounds: int, log: Any) -> list[Measured]:
    """`rounds` turns of every system that starts; one that does not is left out, and said so."""
    workers = []
    for system in systems:
        try:
            workers.append(_Worker(system, sizes, cores, log))
        except RuntimeError as error:
            print(f"left out: {system}: {error}", file=sys.stderr)
    for _ in range(rounds):
        for worker in workers:
            time.sleep(PAUSE)
            worker.turn()
    for worker in workers:
        worker.close()
    return [worker.measured for worker in workers]
