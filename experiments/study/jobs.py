"""Worker processes in parallel, each bound to its own core, until all are done or a signal stops them."""

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
"""Seconds between checks of the workers."""


@dataclasses.dataclass(frozen=True)
class Job:
    """A worker's study (its package), task, setting, corpus and further arguments. Its standard error goes to the file
    `log`, its standard output, once it has succeeded, to `on_success`."""

    study: str
    task: str
    setting: str
    corpus: str
    arguments: tuple[str, ...]
    log: Path
    on_success: Callable[[str], None]


def find_slots(jobs: int) -> list[str]:
    """Returns the slots in which workers can run in parallel.

    On a CPU these are its cores by number, at most `jobs` of them if it is above 0. An accelerator is one slot, "",
    which binds the worker to no core. Raises UserError if JAX finds no device.
    """
    backend = [sys.executable, "-c", "import jax; print(jax.default_backend())"]  # in a process that then frees it
    done = subprocess.run(backend, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"JAX finds no device: {(done.stderr.splitlines() or [''])[-1]}; is JAX_PLATFORMS right?")
    if done.stdout.split()[-1] != "cpu":
        return [""]
    if not hasattr(os, "sched_getaffinity"):
        return [""] * (jobs or 1)
    cores = [str(core) for core in sorted(os.sched_getaffinity(0))]
    return cores[:jobs] if jobs else cores


def run(jobs: Sequence[Job], slots: Sequence[str]) -> int:
    """Runs the jobs in order, one at a time in each slot.

    Returns the first exit code that is not DONE (FAILED for a worker that was killed); a failure is logged and the
    other workers continue. After a signal all workers save and stop, and INTERRUPTED is returned.
    """
    waiting, running, code = list(jobs), list[tuple[str, Job, subprocess.Popen[str]]](), DONE
    free, stopping = list(slots), False
    with collect_signals() as signals:
        while running or (waiting and not stopping):
            if signals and not stopping:
                stopping = True
                log(f"stopping: waiting for {len(running)} workers to save")
                for _, _, process in running:
                    process.terminate()
            while waiting and free and not stopping:
                slot = free.pop(0)
                job = waiting.pop(0)
                running.append((slot, job, _start(job, slot)))
            for one in [one for one in running if one[2].poll() is not None]:
                running.remove(one)
                slot, job, process = one
                free.append(slot)
                output = process.communicate()[0]
                if process.returncode == DONE:
                    job.on_success(output)
                elif not stopping:
                    code = code or max(process.returncode, 0) or FAILED
                    last = (job.log.read_text().splitlines() or [""])[-1]
                    log(f"{job.task} {job.setting}: exit code {process.returncode} ({last}); see {job.log}")
            time.sleep(POLL)
    return INTERRUPTED if stopping else code


def _start(job: Job, slot: str) -> "subprocess.Popen[str]":
    job.log.parent.mkdir(parents=True, exist_ok=True)
    worker = [sys.executable, "-m", "experiments.study.worker"]
    command = [*worker, job.study, job.task, job.setting, slot, job.corpus, *job.arguments]
    with job.log.open("a") as log_file:
        # In its own session: Ctrl-C reaches only this process, which then terminates the workers.
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log_file, text=True, start_new_session=True)
