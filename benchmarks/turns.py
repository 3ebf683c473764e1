"""Measures systems in turns, A B C A B C ..., each in its own process, which waits while the others run."""

import contextlib
import dataclasses
import json
import os
import platform
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lovecraft_jax.runtime.hardware import cpu_name

ROOT = Path(__file__).parents[1]
PAUSE = {"cpu": 0.3, "gpu": 0.02}
"""Seconds between turns, in which thread pools stop spinning."""


FOR_BUILDING, LEAST = 0.7, 5.0
"""The share of Plan.within in which a system is still built, and the seconds that one gets even after it."""


@dataclasses.dataclass
class Measured:
    """The measurements of one system.

    `seconds`: per step, or per character of each stream, for each turn in order. `peak_mb`: peak memory, on a GPU of
    the GPU. `first_seconds`: duration of the first call, which compiles.
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
    the device ("cpu" or "gpu"), the number of cores, and how many rounds of how many seconds. A system that is not
    built, or does not end a turn, within `limit` seconds is left out. Where all would take longer than `within`
    seconds, there are fewer rounds, and the last systems may be left out."""

    task: str
    sizes: str
    device: str
    cores: int
    rounds: int
    seconds: float
    streams: int = 1
    limit: float = 600.0
    within: float = float("inf")


def measure_in_turns(systems: Sequence[str], plan: Plan, log: Any) -> tuple[list[Measured], dict[str, str]]:
    """Returns the measurements of every system that runs, and why the others do not, by name, which it also prints as
    warnings. All import at the same time, but one at a time is built: XLA chooses between kernels by their time."""
    stop, left_out = time.monotonic() + plan.within, dict[str, str]()
    last_build = stop - (1 - FOR_BUILDING) * plan.within if plan.within < float("inf") else stop
    running = [_Worker(system, plan, log) for system in systems]

    def try_all(call: Callable[[_Worker], None]) -> None:
        for worker in list(running):
            try:
                call(worker)
            except RuntimeError as error:
                left_out[worker.measured.system] = str(error)
                print(f"left out: {worker.measured.system}: {error}", file=sys.stderr, flush=True)
                worker.kill()
                running.remove(worker)

    def left() -> float:
        return min(plan.limit, max(LEAST, stop - time.monotonic()))

    def build(worker: _Worker) -> None:
        if time.monotonic() > last_build:
            raise RuntimeError("no time was left to build it")
        worker.build(left())

    def turn(worker: _Worker) -> None:
        time.sleep(PAUSE[plan.device])
        worker.turn(left())

    try:
        try_all(build)
        for _ in range(plan.rounds):
            began = time.monotonic()
            try_all(turn)
            if (now := time.monotonic()) + (now - began) > stop:
                break
    finally:
        for worker in running:
            worker.kill()
    return [worker.measured for worker in running], left_out


class _Worker:
    """A running `benchmarks.worker` process."""

    def __init__(self, system: str, plan: Plan, log: Any) -> None:
        command = [sys.executable, "-m", "benchmarks.worker", json.dumps(dataclasses.asdict(plan)), system]
        self.measured = Measured(system, [])
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        )

    def build(self, limit: float) -> None:
        ready = self._ask("build", limit)
        self.count: int = ready["count"]
        self.measured.first_seconds, self.measured.versions = ready["first_seconds"], ready["versions"]

    def turn(self, limit: float) -> None:
        result = self._ask(str(self.count), limit)
        self.measured.seconds.append(result["seconds"] / self.count)
        self.measured.peak_mb = result["peak_mb"]

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def _ask(self, line: str, limit: float) -> dict[str, Any]:
        """Returns the answer to a line. Raises RuntimeError where it is an error, or none comes in time."""
        process = self.process
        assert process.stdin
        assert process.stdout
        with contextlib.suppress(BrokenPipeError):  # it has printed why it ended
            os.write(process.stdin.fileno(), f"{line}\n".encode())
        if not select.select([process.stdout], [], [], limit)[0]:
            raise RuntimeError(f"no answer within {limit:.0f} s")
        if not (answer := process.stdout.readline()):
            raise RuntimeError(f"the process ended with exit code {process.wait()}; the log says more")
        result = dict(json.loads(answer))
        if "error" in result:
            raise RuntimeError(result["error"])
        return result


def machine(cores: int, device: str = "cpu") -> dict[str, Any]:
    """Returns a description of this machine for the results."""
    found = {"cpu": cpu_name(), "cores": cores, "python": platform.python_version(), "system": platform.system()}
    return found | ({"gpu": gpu()} if device == "gpu" else {})


def check_gpu() -> None:
    """Raises RuntimeError where JAX finds no GPU, although it was asked for."""
    import jax

    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        why = " ".join(str(error).split())
        raise RuntimeError(
            f"JAX finds no GPU here ({why or type(error).__name__}): pip install 'jax[cuda13]'"
        ) from None


def gpu() -> str:
    """Returns the name, driver and power limit of the first GPU; "unknown" without nvidia-smi."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version,power.limit", "--format=csv,noheader"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return lines[0] if lines else "unknown"
