"""Disks that fill up, become read-only or lose files: one line reports it, and saved checkpoints stay usable."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.runs import MAY_MOUNT, ROOT, started, wait_for, works

FLAGS = ["--config=configs/tiny.py", "--config.train.steps=100000"]
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


@pytest.mark.slow
@pytest.mark.skipif(not MAY_MOUNT, reason="may not mount a disk")
def test_a_full_disk_ends_the_run_and_its_checkpoints_stay_usable(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    environment = os.environ | {"DISK": str(disk), "PYTHON": sys.executable, "JAX_NUM_CPU_DEVICES": "1"}
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


@pytest.mark.slow
@pytest.mark.skipif(bool(BOUND_BY_RIGHTS) and not works(*BOUND_BY_RIGHTS, "true"), reason="root may write anywhere")
def test_a_workdir_that_becomes_read_only_ends_the_run_and_its_checkpoints_stay_usable(
    command: Callable, tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    line = [*BOUND_BY_RIGHTS, sys.executable, "-m", "lovecraft_jax.train", *FLAGS, f"--workdir={workdir}"]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}
    with subprocess.Popen(line, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
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
    done = command(
        "train", FLAGS[0], "--config.train.steps=100000", "--config.train.stop_at_step=1", f"--workdir={workdir}"
    )
    assert done.returncode == 0, done.stderr
    assert "resuming at step" in done.stderr


@pytest.mark.slow
def test_a_run_whose_checkpoints_were_deleted_saves_again_or_reports_it(command: Callable, tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    with started("lovecraft_jax.train", *FLAGS, f"--workdir={tmp_path}") as process:
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
    stop = "--config.train.stop_at_step=1"
    done = command("train", *FLAGS, stop, f"--workdir={tmp_path}")
    assert done.returncode == 0, done.stderr
