"""A process of `launch.local_processes` with a core of its own: lovecraft_jax.train, with Gloo at the lowest priority.

On CPUs the processes sum through Gloo, one of whose threads polls without a pause. On one core a sum waits until the
scheduler takes the core from that thread, after 4 ms, and Gloo sums the arrays of a step's one all-reduce one by one:
thirteen with c150, eleven with c150:plain (the gradient of each parameter, the loss, the weights of the targets). With
SCHED_IDLE the thread yields as soon as another one of its process can run. Where other work competes for the core the
sums wait longer than without, so this is only for processes that have a core each.
"""

import os
import time
from contextlib import suppress
from pathlib import Path

import jax

from lovecraft_jax import cli, train
from lovecraft_jax.runtime import distributed

_THREADS = Path("/proc/self/task")
_ATTEMPTS, _PAUSE = 100, 0.001


def find_devices() -> None:
    """Finds the devices, and lowers the priority of the thread that Gloo has started for it."""
    before = _threads()
    distributed.find_devices()
    if before and distributed.process_count() > 1 and jax.default_backend() == "cpu":
        _lower_gloo_priority(before)


def _lower_gloo_priority(before: set[str]) -> None:
    """Sets SCHED_IDLE for Gloo's thread: not there `before`, waiting for sockets, without a name of its own."""
    no_name = (_THREADS / str(os.getpid()) / "comm").read_text()
    for _ in range(_ATTEMPTS):  # it may not have begun to wait
        for thread in _threads() - before:
            with suppress(OSError):  # it has ended
                waits_for_sockets = "epoll" in (_THREADS / thread / "wchan").read_text()
                if waits_for_sockets and (_THREADS / thread / "comm").read_text() == no_name:
                    os.sched_setscheduler(int(thread), os.SCHED_IDLE, os.sched_param(0))
                    return
        time.sleep(_PAUSE)


def _threads() -> set[str]:
    """The ids of this process's threads, on Linux."""
    return set(os.listdir(_THREADS)) if _THREADS.exists() else set()


if __name__ == "__main__":
    cli.define_train_flags()
    cli.run(train.main, find_devices)
