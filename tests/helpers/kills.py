"""Kills runs at random moments and checks their results: python -m tests.helpers.kills --count=50 --seed=0.

Every start of the tiny run is killed with SIGKILL: while it starts, while a checkpoint is written, while it evaluates,
while metrics.jsonl is written, or at any time. Every run that ends has the parameters, rows and samples of an
undisturbed one, and no half-written file; then another begins. With --processes=2 one of two is killed.
"""

import argparse
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.helpers.runs import assert_same_run, rows, started

FLAGS = ("--config=configs/tiny.py", "--config.train.steps=120")
MOMENTS = ("start", "save", "evaluation", "rows", "anywhere")


def kill_and_resume(folder: Path, count: int, seed: int, processes: int = 1) -> list[str]:
    """Kills `count` starts of runs in `folder`; returns the moments at which they died. Raises AssertionError."""
    draw, died = random.Random(seed), []
    undisturbed = folder / "undisturbed"
    began = time.monotonic()
    _finish(undisturbed, processes)
    seconds = time.monotonic() - began
    for run in range(count):
        workdir = folder / f"run{run}"
        while len(died) < count:
            moment = draw.choice(MOMENTS)
            if not _killed(workdir, moment, draw, seconds, processes):
                break  # it has ended
            died.append(f"{moment} after {rows(workdir)[-1]['step'] if rows(workdir) else 0}")
            print(f"{len(died)}/{count} killed: {died[-1]}", file=sys.stderr, flush=True)
        _finish(workdir, processes)
        assert_same_run(workdir, undisturbed)
        if len(died) == count:
            break
    return died


def _killed(workdir: Path, moment: str, draw: random.Random, seconds: float, processes: int) -> bool:
    """Whether a start of the run was killed at `moment`, before its own end."""
    checkpoints, metrics = workdir / "checkpoints", workdir / "metrics.jsonl"
    size = metrics.stat().st_size if metrics.exists() else 0
    seen = len(rows(workdir))
    wait = draw.uniform(0, 1)
    conditions: dict[str, Callable[[], bool]] = {
        "start": lambda: time.monotonic() - began > wait * seconds / 2,
        "anywhere": lambda: time.monotonic() - began > wait * seconds,
        "save": lambda: any(checkpoints.glob("*tmp*")),
        "evaluation": lambda: len(found := rows(workdir)) > seen and found[-1]["step"] % 20 == 0,
        "rows": lambda: metrics.exists() and metrics.stat().st_size != size,
    }
    began = time.monotonic()
    with started(*_line(workdir, processes)) as process:
        while process.poll() is None and not conditions[moment]():
            time.sleep(0.0005)
        if moment in ("save", "evaluation", "rows"):
            time.sleep(wait * 0.05)  # in the middle of it
        victim = draw.choice(_children(process.pid)) if processes > 1 and process.poll() is None else process.pid
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
        code = process.wait(60)
    assert code in (0, -signal.SIGKILL, 1, 75), process.communicate()[1]
    return code != 0


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()] or [pid]


def _finish(workdir: Path, processes: int) -> None:
    with started(*_line(workdir, processes)) as process:
        out, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    assert out.startswith("valid "), out


def _line(workdir: Path, processes: int) -> list[str]:
    flags = [*FLAGS, f"--workdir={workdir}"]
    if processes == 1:
        return ["lovecraft_jax.train", *flags]
    return ["launch.local_processes", f"--local_processes={processes}", *flags]


def main() -> None:
    """Passes flags to `kill_and_resume`, in a temporary folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=50, help="starts to kill")
    parser.add_argument("--seed", type=int, default=0, help="for the moments")
    parser.add_argument("--processes", type=int, default=1, help="of each run; one of them is killed")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kills") as folder:
        died = kill_and_resume(Path(folder), flags.count, flags.seed, flags.processes)
    print(f"{len(died)} starts killed (seed {flags.seed}), and every run had the result of an undisturbed one")


if __name__ == "__main__":
    main()
