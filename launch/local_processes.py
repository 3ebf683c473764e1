"""Processes of one training on this machine: python -m launch.local_processes --local_processes=2 [any flag of train].

They meet at a free port, and share out the cores. Process 0 has this terminal; what the others say is kept, and shown
where one of them fails by itself. SIGINT and SIGTERM are passed on: all save at the same step and leave.

A process that is lost cannot say so, and JAX aborts those that lose process 0. So this one does: it names what was
lost, ends the rest, and exits with 75 where a checkpoint exists, to be started again. Exit codes are otherwise the
training's.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import IO

from absl import flags

from lovecraft_jax import cli
from lovecraft_jax.runtime.console import log
from lovecraft_jax.runtime.errors import FAILED, INTERRUPTED, WRONG_INPUT
from lovecraft_jax.runtime.files import resolve_path
from lovecraft_jax.runtime.signals import terminate_with_parent
from lovecraft_jax.training.checkpoint import saved_steps

LEAVING_SECONDS = 30
"""After one has failed, how long the others may take to leave: JAX notices within 20 (processes.py)."""
LAST_SECONDS = 3
"""How long the last one may, once all others have gone: it is stopped, or stuck."""
TICK = 0.05


def main() -> int:
    """Starts the processes, watches them, and returns the exit code of all."""
    cli.required("config", "configs/tiny.py")
    workdir = resolve_path(cli.given("workdir") or cli.default_workdir())
    with ExitStack() as stack:
        count = flags.FLAGS.local_processes
        outputs = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(count - 1)]
        told: list[int] = []
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda number, _: told.append(number))
        processes = _start(outputs)
        stack.callback(_end, processes, range(count))
        slow = _watch(processes, told)
        codes = [process.wait() for process in processes]
        return _verdict(codes, slow, outputs, bool(told), bool(saved_steps(workdir)))


def _start(outputs: Sequence[IO[str]]) -> list[subprocess.Popen]:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        address = f"localhost:{found.getsockname()[1]}"
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    rest = _without_own_flag(sys.argv[1:])
    count, started = len(outputs) + 1, []
    for number, output in enumerate([None, *outputs]):
        share = cores[number * len(cores) // count : (number + 1) * len(cores) // count]
        meet = [f"--coordinator_address={address}", f"--num_processes={count}", f"--process_id={number}"]
        command = [sys.executable, "-m", "lovecraft_jax.train", *rest, *meet]
        # Sessions of their own: Ctrl-C is for this process to pass on, once.
        process = subprocess.Popen(
            command, stdout=output, stderr=output, start_new_session=True, preexec_fn=terminate_with_parent
        )
        if share:
            os.sched_setaffinity(process.pid, share)
        started.append(process)
    return started


def _without_own_flag(arguments: Sequence[str]) -> list[str]:
    """The training's flags. A value may stand after = or be the next argument."""
    rest, kept = iter(arguments), []
    for argument in rest:
        name, equals, _ = argument.partition("=")
        if name.lstrip("-") != "local_processes":
            kept.append(argument)
        elif not equals:
            next(rest)
    return kept


def _watch(processes: list[subprocess.Popen], told: list[int]) -> list[int]:
    """Until all have gone. Returns those that would not, which are killed: all others had failed, or there was a
    second signal."""
    passed_on, failed_at, last_left_at = 0, 0.0, 0.0
    alive = list(range(len(processes)))
    while alive:
        time.sleep(TICK)
        gone = [number for number in alive if processes[number].poll() is not None]
        alive = [number for number in alive if number not in gone]
        if gone:
            last_left_at = time.monotonic()
            if not failed_at and any(processes[number].returncode for number in gone):
                failed_at = last_left_at
        if len(told) > passed_on and alive:
            if passed_on:
                return _end(processes, alive)
            passed_on = len(told)
            processes[alive[0]].terminate()  # it tells the others
        now = time.monotonic()
        if failed_at and alive:
            late = now - failed_at > LEAVING_SECONDS or (len(alive) == 1 and now - last_left_at > LAST_SECONDS)
            if late:
                return _end(processes, alive)
    return []


def _end(processes: Sequence[subprocess.Popen], numbers: Iterable[int]) -> list[int]:
    for number in numbers:
        processes[number].kill()
    return list(numbers)


def _verdict(codes: list[int], slow: list[int], outputs: Sequence[IO[str]], told: bool, saved: bool) -> int:
    """The exit code of all, after telling what was lost."""
    own = {number: code for number, code in enumerate(codes) if number not in slow}
    for wanted in (WRONG_INPUT, FAILED):  # where all were told of it together, process 0 has said so
        for number, code in own.items():
            if code == wanted:
                _show(number, outputs)
                return wanted
    killed = {number: signal.Signals(-code).name for number, code in own.items() if code < 0}
    # Those that JAX aborted have lost somebody, and so have those that would not leave where one was killed.
    lost = [f"process {number} ({name})" for number, name in killed.items() if name != "SIGABRT"]
    lost += [f"process {number} (exit code {code})" for number, code in own.items() if code > 0 and code != INTERRUPTED]
    lost = lost or [f"process {number} (no longer answered)" for number in slow]
    lost = lost or [f"process {number} ({name})" for number, name in killed.items()]
    if not lost:
        return max(codes)
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[2K\x1b[?25h")  # a live line whose owner could not take it away
    way = "the same command goes on from the last checkpoint" if saved else "nothing was saved yet"
    if told:
        log(f"interrupted before all had saved; {way}")
        return INTERRUPTED
    log(f"lost: {', '.join(lost)}; all others have left; {way}")
    return INTERRUPTED if saved else FAILED


def _show(number: int, outputs: Sequence[IO[str]]) -> None:
    """What a process other than 0, which had the terminal, said last."""
    if number:
        outputs[number - 1].seek(0)
        for line in outputs[number - 1].read().splitlines()[-20:]:
            log(line)


if __name__ == "__main__":
    cli.define_train_flags()
    flags.DEFINE_integer("local_processes", 2, "How many to start.", lower_bound=1)
    cli.run(main, devices=False)
