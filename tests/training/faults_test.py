"""Disks that fill up, become read-only or lose files, and processes of several that end in any way.

One line reports it, all exit, saved checkpoints stay usable, and the run resumes.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.runs import (
    FLAGS_OF_TWO,
    MAY_MOUNT,
    ROOT,
    assert_same_run,
    launch,
    one_device,
    started,
    train_tiny,
    wait_for,
    works,
)

TINY, LONG = "--config=configs/tiny.py", "--config.train.steps=100000"
STOP = "--config.train.stop_at_step=1"
FULL = """
set -e
mount -t tmpfs -o size=1m none "$DISK"
flags=(--config=configs/tiny.py --config.train.steps=200 --workdir="$DISK/run")
train() { "$PYTHON" -m lovecraft_jax.train "${flags[@]}" "$@"; }
train --config.train.keep=99 2>"$DISK.full" || echo "code $?"
mount -o remount,size=50m "$DISK"
"$PYTHON" -m lovecraft_jax.evaluate --workdir="$DISK/run" --checkpoint=latest
train 2>"$DISK.again"
"""
BOUND_BY_RIGHTS = ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override"] if os.geteuid() == 0 else []
"""A prefix with which root, too, cannot write into read-only folders."""
SECONDS = 30
"""Within which all processes exit."""

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("unoptimized")]


@pytest.mark.skipif(not MAY_MOUNT, reason="may not mount a disk")
def test_a_full_disk_ends_the_run_and_its_checkpoints_stay_usable(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    environment = one_device(DISK=str(disk), PYTHON=sys.executable)
    line = ["unshare", "-rm", "bash", "-c", FULL]
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    code, score, end = done.stdout.splitlines()
    assert code == "code 1"
    assert '"split": "test"' in score
    assert end.startswith("valid ")
    errors = Path(f"{disk}.full").read_text()
    assert re.search(
        r"cannot be written \(.*\); (the last good one is|last good checkpoint:) step \d", errors.splitlines()[-1]
    )
    assert "resuming at step" in Path(f"{disk}.again").read_text()


@pytest.mark.skipif(bool(BOUND_BY_RIGHTS) and not works(*BOUND_BY_RIGHTS, "true"), reason="root may write anywhere")
def test_a_workdir_that_becomes_read_only_ends_the_run_and_its_checkpoints_stay_usable(
    command: Callable, tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    with started("lovecraft_jax.train", TINY, LONG, f"--workdir={workdir}", before=BOUND_BY_RIGHTS) as process:
        wait_for(lambda: (workdir / "checkpoints" / "20").exists(), process)
        folders = [workdir, *(path for path in workdir.rglob("*") if path.is_dir())]
        for folder in folders:
            folder.chmod(0o500)
        errors = process.communicate(timeout=60)[1]
    try:
        assert process.returncode == 1, errors
        assert "a checkpoint cannot be written" in errors.splitlines()[-1]
        assert "Traceback" not in errors
        scored = command("evaluate", f"--workdir={workdir}", "--checkpoint=latest")
        assert scored.returncode == 0, scored.stderr
    finally:
        for folder in folders:
            folder.chmod(0o700)
    assert "resuming at step" in train_tiny(workdir, LONG, STOP)


def test_a_run_whose_checkpoints_were_deleted_saves_again_or_reports_it(tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    with started("lovecraft_jax.train", TINY, LONG, f"--workdir={tmp_path}") as process:
        wait_for(lambda: (checkpoints / "40").exists(), process)
        checkpoints.rename(tmp_path / "gone")
        time.sleep(2)
        process.send_signal(signal.SIGTERM)
        errors = process.communicate(timeout=60)[1]
    assert "Traceback" not in errors
    if process.returncode == 75:
        assert "WARNING" in errors
        assert errors.count("somebody deleted the checkpoints") == 1
    else:  # it was writing one just then
        assert process.returncode == 1
        assert "a checkpoint cannot be written" in errors.splitlines()[-1]
    train_tiny(tmp_path, LONG, STOP)


@pytest.mark.processes
@pytest.mark.timeout(480)  # eight starts of two processes
def test_after_any_signal_or_kill_all_exit_and_the_run_resumes_to_the_same_result(tmp_path: Path) -> None:
    """A signal after every checkpoint, to the launcher (-1) or one of the two processes, and the last line."""
    signals = [
        (1, signal.SIGTERM, "interrupted at step"),
        (1, signal.SIGKILL, "lost: process 1 (SIGKILL); all others have exited; the same command goes on"),
        (0, signal.SIGKILL, "lost: process 0 (SIGKILL); all others have exited; the same command goes on"),
        (1, signal.SIGSTOP, "lost: process 1 (no longer answered); all others have exited; the same command goes on"),
        (-1, signal.SIGHUP, "interrupted at step"),
        (-1, signal.SIGKILL, ""),  # nobody is left to report it; the processes save and exit
    ]
    undisturbed, workdir = tmp_path / "undisturbed", tmp_path / "run"
    flags = [*FLAGS_OF_TWO, f"--workdir={workdir}"]
    done = launch(*FLAGS_OF_TWO, f"--workdir={undisturbed}")
    assert done.returncode == 0, done.stderr
    checkpoints = workdir / "checkpoints"
    for number, sent, message in signals:
        before = set(checkpoints.glob("[0-9]*"))
        with started("launch.local_processes", "--local_processes=2", *flags) as launcher:
            try:
                wait_for(lambda before=before: set(checkpoints.glob("*0")) - before, launcher)
                pids = _children(launcher.pid)
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
    done = launch(*flags)
    assert done.returncode == 0, done.stderr
    assert_same_run(workdir, undisturbed)


@pytest.mark.processes
def test_a_process_whose_peer_never_starts_exits(command: Callable, tmp_path: Path) -> None:
    began = time.monotonic()
    alone = ["--coordinator_address=localhost:29123", "--num_processes=2", "--process_id=0", "--start_timeout=1"]
    done = command("train", *FLAGS_OF_TWO, f"--workdir={tmp_path}", *alone)
    assert done.returncode not in (0, 2)
    assert time.monotonic() - began < SECONDS
    assert not tmp_path.exists() or not list(tmp_path.iterdir())


def _children(pid: int) -> list[int]:
    """Returns the ids of the processes that a launcher started, in order."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    commands = {int(child): Path(f"/proc/{child}/cmdline").read_text() for child in children}
    return [next(child for child in commands if f"--process_id={n}" in commands[child]) for n in (0, 1)]
