"""What tpu.sh does in every state of a request for TPUs, and tpu_worker.sh on their hosts."""

import shlex
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.helpers.stand_ins import BASH, FLAGS, LAUNCH, ROOT, Bin


@pytest.fixture
def bin(tmp_path: Path) -> Bin:
    return Bin(tmp_path)


GCLOUD = """
case "$3 $4" in
"queued-resources list")  # a state from every line of the file; the last one stays
  [ ! -e failing ] || exit 1
  head -n 1 states
  [ "$(wc -l <states)" -lt 2 ] || sed -i 1d states
  ;;
"tpu-vm scp") cp "$5" copied.tgz ;;
"tpu-vm ssh") case "$*" in *"systemctl show"*) cat shown ;; esac ;;
esac
"""
CREATE, DELETE = ["queued-resources", "create", "lovecraft"], ["queued-resources", "delete", "lovecraft"]


def run_tpu(bin: Bin, states: str, *args: str, shown: str = "") -> tuple[subprocess.CompletedProcess, list[list[str]]]:
    """Runs tpu.sh while its request goes through these states, one a poll. Returns its calls other than queries."""
    folder = bin.folder.parent
    (folder / "states").write_text("".join(f"{state}\n" for state in states.split(",")))
    (folder / "shown").write_text(shown)
    bin.add("gcloud", f"cd {folder}\n{GCLOUD}")
    done = bin.run("tpu.sh", *args)
    calls = [call[3:] for call in bin.calls("gcloud")]
    return done, [call for call in calls if call[1] != "list" and "systemctl show" not in call[-1]]


def is_start(calls: list[list[str]]) -> bool:
    """Whether these calls copy the code to all hosts, stop the training there, and start it with the flags intact."""
    scp, stop, start = calls
    assert all(call[0] == "tpu-vm" and "--worker=all" in call for call in calls)
    assert (scp[1], stop[1], start[1]) == ("scp", "ssh", "ssh")
    assert "systemctl stop lovecraft" in stop[-1]
    return shlex.split(start[-1].removeprefix("--command="))[-len(FLAGS) :] == FLAGS


@pytest.mark.parametrize(
    ("states", "before"),
    [
        (",WAITING_FOR_RESOURCES,PROVISIONING,ACTIVE", [CREATE]),
        ("SUSPENDING,SUSPENDED,,ACCEPTED,ACTIVE", [DELETE, CREATE]),
        ("FAILED,DELETING,,ACTIVE", [DELETE, CREATE]),
    ],
)
def test_tpu_creates_what_is_missing_and_starts(bin: Bin, states: str, before: list[list[str]]) -> None:
    done, calls = run_tpu(bin, states, *FLAGS)
    assert (done.returncode, [call[:3] for call in calls[: len(before)]]) == (0, before), done.stderr
    assert is_start(calls[len(before) :])
    with tarfile.open(bin.folder.parent / "copied.tgz") as code:
        names = set(code.getnames())
    assert {"launch/tpu_worker.sh", "lovecraft_jax/train.py", "configs/c150.py", "pyproject.toml"} <= names
    assert not [name for name in names if name.startswith((".venv", ".git/", "runs/"))]


def test_tpu_creates_nothing_for_a_workdir_on_the_vms_own_disk_or_if_the_state_is_unknown(bin: Bin) -> None:
    for flags in (["--config=configs/c150.py"], ["--workdir=runs/c150"]):
        done, calls = run_tpu(bin, "ACTIVE", *flags)
        assert (done.returncode, calls) == (2, [])
        assert "--workdir=gs://" in done.stderr
    (bin.folder.parent / "failing").touch()
    done, calls = run_tpu(bin, "ACTIVE", *FLAGS)
    assert (done.returncode, calls) == (1, [])


@pytest.mark.parametrize("code", [0, 75])
def test_watch_restarts_after_a_preemption_and_deletes_the_tpus_at_the_end(bin: Bin, code: int) -> None:
    shown = f"ExecMainStatus={code}\nActiveState=inactive\n"
    done, calls = run_tpu(bin, "ACTIVE,SUSPENDED,SUSPENDED,,ACTIVE", "watch", *FLAGS, shown=shown)
    assert done.returncode == code, done.stderr
    assert is_start(calls[:3])
    assert [call[:3] for call in calls[3:5]] == [DELETE, CREATE]
    assert is_start(calls[5:8])
    assert "journalctl" in calls[8][-1]
    assert [call[:3] for call in calls[9:]] == [DELETE]


PYTHON = """
case "$*" in
*version_info*) exit "${OLD:-0}" ;;
"-m uv python find 3.12") echo "$NEWER" ;;
"-m venv .venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
esac
"""


@pytest.fixture
def worker(bin: Bin, tmp_path: Path) -> Path:
    """A copy of the code as on a TPU's host, with stand-ins for Python and sudo."""
    copy = tmp_path / "code"
    shutil.copytree(LAUNCH, copy / "launch")
    for name in ("requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, copy)
    bin.add("python3", PYTHON)
    bin.add("newer", PYTHON)
    bin.add("sudo", f'[ "$1" != tee ] || cat >{tmp_path}/unit')
    return copy


def test_the_workers_service_starts_the_training_with_the_flags_intact(bin: Bin, worker: Path) -> None:
    done = bin.run("tpu_worker.sh", *FLAGS, cwd=worker)
    assert done.returncode == 0, done.stderr
    assert bin.calls("sudo")[-1] == ["sudo", "systemctl", "restart", "lovecraft"]
    assert f"ExecStart=/bin/bash {worker}/command.sh" in (worker.parent / "unit").read_text().splitlines()
    subprocess.run([BASH, "command.sh"], cwd=worker, env=bin.environment(), check=True)  # as systemd would
    assert bin.calls()[-1][-len(FLAGS) :] == FLAGS


def test_a_worker_with_an_old_python_installs_a_newer_one(bin: Bin, worker: Path) -> None:
    bin.add("python3", f"OLD=1\n{PYTHON}")
    done = bin.run("tpu_worker.sh", *FLAGS, cwd=worker, NEWER=str(bin.folder / "newer"))
    assert done.returncode == 0, done.stderr
    assert ["python3", "-m", "uv", "python", "install", "--quiet", "3.12"] in bin.calls()
    assert ["newer", "-m", "venv", ".venv"] in bin.calls()
