"""However one of several processes ends, all exit within SECONDS, and the run resumes to the same result."""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.runs import FLAGS_OF_TWO, assert_same_run, launch, started, wait_for

pytestmark = pytest.mark.processes

SECONDS = 30


@pytest.mark.slow
@pytest.mark.timeout(480)  # nine starts of two processes
def test_after_any_signal_or_kill_all_exit_and_the_run_resumes_to_the_same_result(tmp_path: Path) -> None:
    """A signal after every checkpoint, to the launcher (-1) or one of the two processes, and the last line."""
    signals = [
        (1, signal.SIGTERM, "interrupted at step"),
        (0, signal.SIGTERM, "interrupted at step"),
        (-1, signal.SIGINT, "interrupted at step"),
        (1, signal.SIGKILL, "lost: process 1 (SIGKILL); all others have exited; the same command goes on"),
        (0, signal.SIGKILL, "lost: process 0 (SIGKILL); all others have exited; the same command goes on"),
        (1, signal.SIGSTOP, "lost: process 1 (no longer answered); all others have exited; the same command goes on"),
        (-1, signal.SIGHUP, "interrupted at step"),
        (-1, signal.SIGKILL, ""),  # nobody is left to report it; the processes save and exit
    ]
    undisturbed, workdir = tmp_path / "undisturbed", tmp_path / "run"
    done = launch(*FLAGS_OF_TWO, f"--workdir={undisturbed}")
    assert done.returncode == 0, done.stderr
    checkpoints = workdir / "checkpoints"
    for number, sent, message in signals:
        before = set(checkpoints.glob("[0-9]*"))
        with started(
            "launch.local_processes", "--local_processes=2", *FLAGS_OF_TWO, f"--workdir={workdir}"
        ) as launcher:
            try:
                wait_for(lambda before=before: set(checkpoints.glob("*0")) - before, launcher)
                pids = _children(launcher.pid)
                assert {"metrics.jsonl", "lock"} <= _open_files(pids[0])
                assert not {"metrics.jsonl", "lock"} & _open_files(pids[1])
                os.kill([*pids, launcher.pid][number], sent)
                errors = launcher.communicate(timeout=SECONDS)[1]
            finally:
                launcher.terminate()
                launcher.wait(SECONDS)
        assert launcher.returncode == (75 if message else -signal.SIGKILL), errors
        assert message in errors.splitlines()[-1]
        assert ("resuming at step" in errors) == bool(before)
        deadline = time.monotonic() + SECONDS
        while any(Path(f"/proc/{pid}").exists() for pid in pids):
            assert time.monotonic() < deadline
            time.sleep(0.1)
    done = launch(*FLAGS_OF_TWO, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    assert_same_run(workdir, undisturbed)


@pytest.mark.slow
def test_a_process_whose_peer_never_starts_exits(command: Callable, tmp_path: Path) -> None:
    began = time.monotonic()
    alone = ["--coordinator_address=localhost:29123", "--num_processes=2", "--process_id=0", "--start_timeout=3"]
    done = command("train", *FLAGS_OF_TWO, f"--workdir={tmp_path}", *alone)
    assert done.returncode not in (0, 2)
    assert time.monotonic() - began < SECONDS
    assert not tmp_path.exists() or not list(tmp_path.iterdir())


def _open_files(pid: int) -> set[str]:
    """The names of the files that a process has open."""
    names = set()
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            names.add(Path(os.readlink(file)).name)
    return names


def _children(pid: int) -> list[int]:
    """Returns the ids of the processes that a launcher started, in order."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    commands = {int(child): Path(f"/proc/{child}/cmdline").read_text() for child in children}
    return [next(child for child in commands if f"--process_id={n}" in commands[child]) for n in (0, 1)]
