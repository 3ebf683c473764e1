"""Workers side by side, each bound to a core of its own, until all have done their part or somebody says stop."""

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from lovecraft_jax.runtime.console import log
from lovecraft_jax.runtime.errors import DONE, FAILED, INTERRUPTED, UserError
from lovecraft_jax.runtime.signals import collect_signals

POLL = 0.2
"""Seconds."""


@dataclasses.dataclass(frozen=True)
class Job:
    """A worker's task, setting, corpus and what else it is told; what it says goes to `log`, what it prints to
    `done`."""

    task: str
    setting: str
    corpus: str
    more: tuple[str, ...]
    log: Path
    done: Callable[[str], None]


def places(jobs: int) -> list[str]:
    """Where workers can run at once: the cores of a CPU, by number, at most `jobs` of them if it is above 0; an
    accelerator is one place, "", and no core's. Raises UserError where JAX finds neither."""
    backend = [sys.executable, "-c", "import jax; print(jax.default_backend())"]  # a process that lets go of it again
    told = subprocess.run(backend, capture_output=True, text=True)
    if told.returncode:
        raise UserError(f"JAX finds no device: {(told.stderr.splitlines() or [''])[-1]}; is JAX_PLATFORMS right?")
    if told.stdout.split()[-1] != "cpu":
        return [""]
    if not hasattr(os, "sched_getaffinity"):
        return [""] * (jobs or 1)
    cores = [str(core) for core in sorted(os.sched_getaffinity(0))]
    return cores[:jobs] if jobs else cores


def run(jobs: Sequence[Job], free: Sequence[str]) -> int:
    """Runs them in order, one at each `free` place; returns the first exit code that is not DONE (FAILED for one that
    was killed). Those that fail are told of, and the others go on; told to stop, all save and stop, and INTERRUPTED is
    returned."""
    waiting, running, code = list(jobs), list[tuple[str, Job, subprocess.Popen[str]]](), DONE
    free, stopping = list(free), False
    with collect_signals() as signals:
        while running or (waiting and not stopping):
            if signals and not stopping:
                stopping = True
                log(f"told to stop: waiting for {len(running)} workers to save")
                for _, _, process in running:
                    process.terminate()
            while waiting and free and not stopping:
                place = free.pop(0)
                job = waiting.pop(0)
                running.append((place, job, _start(job, place)))
            for one in [one for one in running if one[2].poll() is not None]:
                running.remove(one)
                place, job, process = one
                free.append(place)
                told = process.communicate()[0]
                if process.returncode == DONE:
                    job.done(told)
                elif not stopping:
                    code = code or max(process.returncode, 0) or FAILED
                    last = (job.log.read_text().splitlines() or [""])[-1]
                    log(f"{job.task} {job.setting}: exit code {process.returncode} ({last}); see {job.log}")
            time.sleep(POLL)
    return INTERRUPTED if stopping else code


def _start(job: Job, place: str) -> "subprocess.Popen[str]":
    job.log.parent.mkdir(parents=True, exist_ok=True)
    line = [
        sys.executable,
        "-m",
        "experiments.article_2019.worker",
        job.task,
        job.setting,
        place,
        job.corpus,
        *job.more,
    ]
    with job.log.open("a") as log:
        # A session of its own: Ctrl-C reaches the one who started it, who then asks it to stop.
        return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True)
