"""What starts the training again, and Slurm: every script's exact commands, and what it does at which exit code."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.stand_ins import BASH, FLAGS, LAUNCH, Bin, words

SCRIPTS = sorted(LAUNCH.glob("*.sh"))


@pytest.fixture
def bin(tmp_path: Path) -> Bin:
    return Bin(tmp_path)


# Every script


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_shellcheck_has_nothing_to_say(script: Path) -> None:
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert shellcheck, "pip install -e '.[test]'"
    command = [shellcheck, "--external-sources", "--source-path=SCRIPTDIR", str(script)]
    assert subprocess.run(command, capture_output=True, text=True, check=False).stdout == ""


@pytest.mark.parametrize("script", ["slurm.sh", "tpu.sh", "tpu_worker.sh", "again.sh"])
def test_a_dry_run_calls_nothing(bin: Bin, script: str) -> None:
    for name in ("gcloud", "srun", "scontrol", "sudo", "systemctl", "tar", "git", "python", "python3"):
        bin.add(name)
    done = bin.run(script, *FLAGS, DRY_RUN="1")
    assert (done.returncode, done.stderr, bin.calls()) == (0, "", [])
    assert done.stdout


# again.sh

STEP = 'n=$(cat n 2>/dev/null || echo 0); echo $((n + 1)) >n; codes=($CODES); echo "$*" >>said; exit "${codes[$n]}"'


@pytest.mark.parametrize(
    ("codes", "starts"),
    [("0", 1), ("75 0", 2), ("75 134 75 0", 4), ("2", 1), ("75 2", 2), ("1", 1), ("137", 1), ("75 75 75 75", 3)],
)
def test_again_starts_what_was_interrupted_and_nothing_else(bin: Bin, tmp_path: Path, codes: str, starts: int) -> None:
    command = [BASH, str(LAUNCH / "again.sh"), BASH, "-c", STEP, "step", *FLAGS]
    env = bin.environment(CODES=codes, PAUSE="0", STARTS="3" if codes == "75 75 75 75" else "10")
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, timeout=60, check=False)
    assert done.returncode == int(codes.split()[starts - 1])
    flags = " ".join(FLAGS)
    assert (tmp_path / "said").read_text() == f"{flags}\n" + f"{flags} --take_over\n" * (starts - 1)


def test_again_forgets_short_starts_after_a_long_one(bin: Bin, tmp_path: Path) -> None:
    command = [BASH, str(LAUNCH / "again.sh"), BASH, "-c", STEP]
    env = bin.environment(CODES="75 75 75 75 0", PAUSE="0", STARTS="2", LONG="0")  # all of them are long
    assert subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, timeout=60, check=False).returncode == 0


def test_again_passes_sigterm_on_once_and_ends(tmp_path: Path) -> None:
    train = (
        "trap 'echo told >>said' TERM; echo up >said; until grep -q told said; do sleep 0.05; done; sleep 0.3; exit 75"
    )
    command = [BASH, str(LAUNCH / "again.sh"), BASH, "-c", train]
    process = subprocess.Popen(command, cwd=tmp_path, start_new_session=True)
    try:
        wait_for(lambda: (tmp_path / "said").exists() and (tmp_path / "said").read_text())
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 75
        assert (tmp_path / "said").read_text() == "up\ntold\n"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def wait_for(ready: Callable[[], object]) -> None:
    until = time.monotonic() + 30
    while not ready():
        assert time.monotonic() < until
        time.sleep(0.02)


# slurm.sh

SRUN = """
while [ "$1" != bash ]; do shift; done
[ -z "${SRUN_FAILS:-}" ] || exit "$SRUN_FAILS"
highest=0
for code in $TASKS; do  # as Slurm: a task's shell is a process group, and a signal goes to all of it
  export SLURM_PROCID=$((${SLURM_PROCID:--1} + 1)) CODE=$code
  [ "$code" != lost ] || { highest=137 && continue; }
  set -m; "$@" & set +m
  if [ "$code" = told ]; then
    until [ -e "up.$SLURM_PROCID" ]; do sleep 0.02; done
    kill -TERM -- "-$!"
  fi
  status=0; wait $! || status=$?
  [ "$status" -le "$highest" ] || highest=$status
done
exit "$highest"
"""
TRAIN = """
if [ "$CODE" = told ]; then
  trap 'sleep 0.2; exit 75' TERM
  touch "up.$SLURM_PROCID"
  while :; do sleep 0.02; done
fi
exit "$CODE"
"""


def in_slurm(bin: Bin, cwd: Path, *args: str, tasks: str = "0 0", **more: str) -> subprocess.CompletedProcess:
    bin.add("srun", SRUN)
    bin.add("scontrol")
    bin.add("train", TRAIN)
    told = {"SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": str(cwd), "SLURM_NTASKS_PER_NODE": "1", "PYTHON": "train"}
    return bin.run("slurm.sh", *args, TASKS=tasks, **told | {"SLURM_JOB_NUM_NODES": str(len(tasks.split()))} | more)


@pytest.mark.parametrize(
    ("tasks", "code", "again"),
    [
        ("0 0", 0, False),
        ("75 75", 0, True),
        ("told told", 0, True),
        ("2 2", 2, False),
        ("75 2 75", 2, False),  # srun says 75
        ("1 75", 1, False),
        ("75 134", 0, True),
        ("75 137 75", 0, True),
        ("75 lost 75", 0, True),
        ("0 lost", 0, True),
    ],
)
def test_slurm_queues_again_what_was_interrupted(bin: Bin, tmp_path: Path, tasks: str, code: int, again: bool) -> None:
    done = in_slurm(bin, tmp_path, *FLAGS, tasks=tasks)
    assert done.returncode == code, done.stderr
    assert bin.calls("scontrol") == ([["scontrol", "requeue", "7"]] if again else [])
    assert not list(tmp_path.glob("*.codes"))


def test_slurm_starts_so_many_tasks_with_the_flags(bin: Bin, tmp_path: Path) -> None:
    gpus = {"SLURM_NTASKS_PER_NODE": "4", "SLURM_GPUS_ON_NODE": "4", "SLURM_JOB_NUM_NODES": "2"}
    in_slurm(bin, tmp_path, *FLAGS, **gpus, SLURM_CPUS_PER_TASK="6")
    [srun], options = bin.calls("srun"), {"--kill-on-bad-exit=0", "--wait=60", "--gpu-bind=none", "--cpus-per-task=6"}
    assert "--ntasks=8" in srun
    assert options <= set(srun)
    train = ["train", "-m", "lovecraft_jax.train", "--distributed", "--start_timeout=300", *FLAGS]
    assert srun[-len(train) :] == train
    assert bin.calls("train") == [train, train]
    printed = in_slurm(bin, tmp_path, *FLAGS, **gpus, SLURM_CPUS_PER_TASK="6", DRY_RUN="1").stdout
    assert words(printed) == [srun]


def test_slurm_takes_over_the_lock_where_the_job_was_queued_again(bin: Bin, tmp_path: Path) -> None:
    in_slurm(bin, tmp_path, *FLAGS, SLURM_RESTART_COUNT="1")
    assert [call[-len(FLAGS) - 1 :] for call in bin.calls("train")] == [["--take_over", *FLAGS]] * 2


def test_slurm_refuses_tasks_that_would_share_or_leave_gpus(bin: Bin, tmp_path: Path) -> None:
    done = in_slurm(bin, tmp_path, *FLAGS, SLURM_GPUS_ON_NODE="4")
    assert (done.returncode, bin.calls()) == (2, [])
    assert "--ntasks-per-node=4" in done.stderr


def test_slurm_gives_up_at_last(bin: Bin, tmp_path: Path) -> None:
    assert in_slurm(bin, tmp_path, tasks="75", SLURM_RESTART_COUNT="3", RESTARTS="3").returncode == 75
    assert in_slurm(bin, tmp_path, tasks="75", SLURM_RESTART_COUNT="2", RESTARTS="3").returncode == 0
    assert in_slurm(bin, tmp_path, tasks="75", SRUN_FAILS="9").returncode == 9  # no task was ever started
    assert len(bin.calls("scontrol")) == 1


def test_slurm_reads_the_options_of_the_script() -> None:
    lines = (LAUNCH / "slurm.sh").read_text().splitlines()
    command = next(n for n, line in enumerate(lines) if line and not line.startswith("#"))
    options = [n for n, line in enumerate(lines) if line.startswith("#SBATCH ")]
    assert max(options) < command  # Slurm reads no further
    assert {"#SBATCH --signal=TERM@120", "#SBATCH --requeue", "#SBATCH --open-mode=append"} <= {
        lines[n] for n in options
    }
