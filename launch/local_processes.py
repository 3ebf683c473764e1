"""Trains one run in processes on this machine: python -m launch.local_processes --local_processes=2 [flags of train].

They find each other at a free port, and share the cores. Process 0 has this terminal; the output of the others is kept,
and shown where one of them fails. SIGINT, SIGTERM and SIGHUP are passed on: all save at the same step and exit.

A process that was killed cannot report it, and JAX aborts those that lose process 0. So this process does: it names
what was lost, ends the rest, and exits with 75, to be started again, where there is a checkpoint. All other exit codes
are those of the training.
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

from launch.parent import terminate_with_parent
from lovecraft_jax import cli
from lovecraft_jax.runtime.console import log
from lovecraft_jax.runtime.errors import FAILED, INTERRUPTED, WRONG_INPUT
from lovecraft_jax.runtime.files import resolve_path
from lovecraft_jax.runtime.lock import command_after_kill
from lovecraft_jax.training.checkpoint import saved_steps

EXIT_SECONDS = 30
"""How long the others have to exit after one has failed; JAX notices within HEARTBEAT_SECONDS, which is less."""
LAST_EXIT_SECONDS = 3
"""How long the last one has when all others have exited: it is stopped, or hangs."""
TICK = 0.05


def main() -> int:
    """Starts the processes, waits for them, and returns one exit code for all."""
    cli.required_flag("config", "configs/tiny.py")
    workdir = resolve_path(cli.optional_flag("workdir") or cli.default_workdir())
    with ExitStack() as stack:
        count = flags.FLAGS.local_processes
        outputs = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(count - 1)]
        received: list[int] = []
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) == signal.SIG_DFL:  # which nohup has ignored
                signal.signal(number, lambda number, _: received.append(number))
        processes = _start(outputs)
        stack.callback(_kill, processes, range(count))
        hanging = _wait(processes, received)
        codes = [process.wait() for process in processes]
        command = command_after_kill(workdir) if saved_steps(workdir) else None
        return _exit_code(codes, hanging, outputs, bool(received), command)


def _start(outputs: Sequence[IO[str]]) -> list[subprocess.Popen]:
    """Starts one process more than there are `outputs`, each with its share of the cores."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        address = f"localhost:{found.getsockname()[1]}"
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    train_flags = _without_own_flag(sys.argv[1:])
    count, processes = len(outputs) + 1, []
    for number, output in enumerate([None, *outputs]):
        share = cores[number * len(cores) // count : (number + 1) * len(cores) // count]
        has_own_core = len(share) == 1 and len(cores) >= count
        module = "launch.local_process" if has_own_core else "lovecraft_jax.train"
        own = [f"--coordinator_address={address}", f"--num_processes={count}", f"--process_id={number}"]
        command = [sys.executable, "-m", module, *train_flags, *own]
        # In sessions of their own, so that Ctrl-C reaches only this process, which passes it on once.
        process = subprocess.Popen(
            command, stdout=output, stderr=output, start_new_session=True, preexec_fn=terminate_with_parent
        )
        if share:
            os.sched_setaffinity(process.pid, share)
        processes.append(process)
    return processes


def _without_own_flag(arguments: Sequence[str]) -> list[str]:
    """Returns the flags of the training. A value may follow after = or as the next argument."""
    rest, kept = iter(arguments), []
    for argument in rest:
        name, equals, _ = argument.partition("=")
        if name.lstrip("-") != "local_processes":
            kept.append(argument)
        elif not equals:
            next(rest)
    return kept


def _wait(processes: list[subprocess.Popen], received: list[int]) -> list[int]:
    """Waits until all have exited, and returns the numbers of those that it killed: too late after another one failed
    (EXIT_SECONDS, LAST_EXIT_SECONDS), or still alive at the second signal `received`."""
    passed_on, failed_at, last_exit_at = 0, 0.0, 0.0
    alive = list(range(len(processes)))
    while alive:
        time.sleep(TICK)
        exited = [number for number in alive if processes[number].poll() is not None]
        alive = [number for number in alive if number not in exited]
        if exited:
            last_exit_at = time.monotonic()
            if not failed_at and any(processes[number].returncode for number in exited):
                failed_at = last_exit_at
        if len(received) > passed_on and alive:
            if passed_on:
                return _kill(processes, alive)
            passed_on = len(received)
            processes[alive[0]].terminate()  # the others learn of it from this one
        now = time.monotonic()
        if failed_at and alive:
            last_hangs = len(alive) == 1 and now - last_exit_at > LAST_EXIT_SECONDS
            if last_hangs or now - failed_at > EXIT_SECONDS:
                return _kill(processes, alive)
    return []


def _kill(processes: Sequence[subprocess.Popen], numbers: Iterable[int]) -> list[int]:
    for number in numbers:
        processes[number].kill()
    return list(numbers)


def _exit_code(
    codes: list[int], hanging: list[int], outputs: Sequence[IO[str]], interrupted: bool, command: str | None
) -> int:
    """Returns one exit code for all, after logging which processes were lost, and what resumes the run: `command`; None
    where nothing was saved."""
    by_itself = {number: code for number, code in enumerate(codes) if number not in hanging}
    for error in (WRONG_INPUT, FAILED):  # where all have raised the same, process 0 has logged it
        for number, code in by_itself.items():
            if code == error:
                _show(number, outputs)
                return error
    killed = {number: signal.Signals(-code).name for number, code in by_itself.items() if code < 0}
    # Those that JAX aborted have lost another one, and so have those that hang where one was killed.
    lost = [f"process {number} ({name})" for number, name in killed.items() if name != "SIGABRT"]
    lost += [
        f"process {number} (exit code {code})" for number, code in by_itself.items() if code > 0 and code != INTERRUPTED
    ]
    lost = lost or [f"process {number} (no longer answered)" for number in hanging]
    lost = lost or [f"process {number} ({name})" for number, name in killed.items()]
    if not lost:
        return max(codes)
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[2K\x1b[?25h")  # removes the live line of a process that could not do so itself
    way = f"{command} goes on from the last checkpoint" if command else "nothing was saved yet"
    if interrupted:
        log(f"interrupted before all had saved; {way}")
        return INTERRUPTED
    log(f"lost: {', '.join(lost)}; all others have exited; {way}")
    return INTERRUPTED if command else FAILED


def _show(number: int, outputs: Sequence[IO[str]]) -> None:
    """Logs the last lines of a process other than 0, which had the terminal."""
    if number:
        outputs[number - 1].seek(0)
        for line in outputs[number - 1].read().splitlines()[-20:]:
            log(line)


if __name__ == "__main__":
    cli.define_train_flags()
    flags.DEFINE_integer("local_processes", 2, "The number of processes.", lower_bound=1)
    cli.run(main, find_devices=None)
