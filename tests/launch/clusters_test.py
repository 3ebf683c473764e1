"""Every script passes shellcheck and has a dry run; what again.sh and slurm.sh do at which exit code."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.runs import wait_for
from tests.helpers.stand_ins import BASH, FLAGS, LAUNCH, Bin

SCRIPTS = sorted(LAUNCH.glob("*.sh"))


@pytest.fixture
def bin(tmp_path: Path) -> Bin:
    return Bin(tmp_path)


# Every script


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_shellcheck_has_no_warnings(script: Path) -> None:
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert shellcheck, "pip install -e '.[test]'"
    command = [shellcheck, "--external-sources", "--source-path=SCRIPTDIR", str(script)]
    assert subprocess.run(command, capture_output=True, text=True, check=False).stdout == ""


@pytest.mark.parametrize("script", ["slurm.sh", "tpu.sh", "tpu_worker.sh", "again.sh"])
def test_a_dry_run_prints_and_calls_nothing(bin: Bin, script: str) -> None:
    for name in ("gcloud", "srun", "scontrol", "sudo", "systemctl", "tar", "git", "python", "python3"):
        bin.add(name)
    done = bin.run(script, *FLAGS, DRY_RUN="1")
    assert (done.returncode, done.stderr, bin.calls()) == (0, "", [])
    assert done.stdout


# again.sh

STEP = 'n=$(cat n 2>/dev/null || echo 0); echo $((n + 1)) >n; codes=($CODES); echo "$*" >>starts; exit "${codes[$n]}"'


@pytest.mark.parametrize(
    ("codes", "starts", "settings"),
    [
        ("75 134 75 0", 4, {}),
        ("75 2", 2, {}),
        ("1", 1, {}),
        ("137", 1, {}),
        ("75 75 75 75", 3, {"STARTS": "3"}),
        ("75 75 75 75 0", 5, {"STARTS": "2", "LONG": "0"}),  # every start is long, and only short ones count
    ],
)
def test_again_restarts_an_interrupted_command_and_no_other(
    bin: Bin, tmp_path: Path, codes: str, starts: int, settings: dict[str, str]
) -> None:
    command = [BASH, str(LAUNCH / "again.sh"), BASH, "-c", STEP, "step", *FLAGS]
    env = bin.environment(CODES=codes, PAUSE="0", **settings)
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, timeout=60, check=False)
    assert done.returncode == int(codes.split()[starts - 1])
    flags = " ".join(FLAGS)
    assert (tmp_path / "starts").read_text() == f"{flags}\n" + f"{flags} --take_over\n" * (starts - 1)


def test_again_forwards_sigterm_once_and_exits(tmp_path: Path) -> None:
    train = "trap 'echo term >>log' TERM; echo up >log; until grep -q term log; do sleep 0.05; done; sleep 0.3; exit 75"
    process = subprocess.Popen(
        [BASH, str(LAUNCH / "again.sh"), BASH, "-c", train], cwd=tmp_path, start_new_session=True
    )
    log = tmp_path / "log"
    try:
        wait_for(lambda: log.exists() and log.read_text(), process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 75
        assert log.read_text() == "up\nterm\n"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


# slurm.sh

SRUN = """
while [ "$1" != bash ]; do shift; done
[ -z "${SRUN_FAILS:-}" ] || exit "$SRUN_FAILS"
highest=0
for code in $TASKS; do  # like Slurm: a task's shell is a process group, and a signal goes to all of it
  export SLURM_PROCID=$((${SLURM_PROCID:--1} + 1)) CODE=$code
  [ "$code" != lost ] || { highest=137 && continue; }
  set -m; "$@" & set +m
  if [ "$code" = term ]; then
    until [ -e "up.$SLURM_PROCID" ]; do sleep 0.02; done
    kill -TERM -- "-$!"
  fi
  status=0; wait $! || status=$?
  [ "$status" -le "$highest" ] || highest=$status
done
exit "$highest"
"""
TRAIN = """
if [ "$CODE" = term ]; then
  trap 'sleep 0.2; exit 75' TERM
  touch "up.$SLURM_PROCID"
  while :; do sleep 0.02; done
fi
exit "$CODE"
"""


def in_slurm(bin: Bin, cwd: Path, *args: str, tasks: str = "0 0", **more: str) -> subprocess.CompletedProcess:
    """Runs slurm.sh with tasks that exit with these codes, are lost with their node, or get SIGTERM ("term")."""
    bin.add("srun", SRUN)
    bin.add("scontrol")
    bin.add("train", TRAIN)
    job = {"SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": str(cwd), "SLURM_NTASKS_PER_NODE": "1", "PYTHON": "train"}
    return bin.run("slurm.sh", *args, TASKS=tasks, **job | {"SLURM_JOB_NUM_NODES": str(len(tasks.split()))} | more)


@pytest.mark.parametrize(
    ("tasks", "code", "requeued"),
    [
        ("0 0", 0, False),
        ("term term", 0, True),
        ("75 2 75", 2, False),  # srun returns 75
        ("1 75", 1, False),
        ("75 134", 0, True),
        ("75 137 75", 0, True),
        ("75 lost 75", 0, True),
        ("0 lost", 0, True),
    ],
)
def test_slurm_requeues_an_interrupted_job(bin: Bin, tmp_path: Path, tasks: str, code: int, requeued: bool) -> None:
    done = in_slurm(bin, tmp_path, *FLAGS, tasks=tasks)
    assert done.returncode == code, done.stderr
    assert bin.calls("scontrol") == ([["scontrol", "requeue", "7"]] if requeued else [])
    assert not list(tmp_path.glob("*.codes"))


def test_slurm_starts_a_task_per_gpu_with_the_flags_intact(bin: Bin, tmp_path: Path) -> None:
    gpus = {"SLURM_NTASKS_PER_NODE": "4", "SLURM_GPUS_ON_NODE": "4", "SLURM_JOB_NUM_NODES": "2"}
    in_slurm(bin, tmp_path, *FLAGS, **gpus)
    [srun] = bin.calls("srun")
    assert "--ntasks=8" in srun
    in_slurm(bin, tmp_path, *FLAGS, SLURM_RESTART_COUNT="1")  # it takes over the lock of the job that was requeued
    before = [call[-len(FLAGS) - 1] for call in bin.calls("train")]
    assert before == ["--start_timeout=300"] * 2 + ["--take_over"] * 2
    assert [call[-len(FLAGS) :] for call in bin.calls("train")] == [FLAGS] * 4


def test_slurm_refuses_another_number_of_tasks_than_gpus(bin: Bin, tmp_path: Path) -> None:
    done = in_slurm(bin, tmp_path, *FLAGS, SLURM_GPUS_ON_NODE="4")
    assert (done.returncode, bin.calls()) == (2, [])
    assert "--ntasks-per-node=4" in done.stderr


def test_slurm_stops_requeueing_after_so_many_restarts(bin: Bin, tmp_path: Path) -> None:
    assert in_slurm(bin, tmp_path, tasks="75", SLURM_RESTART_COUNT="3", RESTARTS="3").returncode == 75
    assert in_slurm(bin, tmp_path, tasks="75", SLURM_RESTART_COUNT="2", RESTARTS="3").returncode == 0
    assert in_slurm(bin, tmp_path, tasks="75", SRUN_FAILS="9").returncode == 9  # no task was started
    assert len(bin.calls("scontrol")) == 1
