"""tpu.sh and tpu_worker.sh: their exact commands, in every state that a request for TPUs can be in."""

import shlex
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.helpers.stand_ins import BASH, FLAGS, LAUNCH, ROOT, Bin, words


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
WHERE = ["--zone=us-west4-a"]
STOP = "sudo systemctl stop lovecraft 2>/dev/null; mkdir -p lovecraft_jax"
START = ["tar", "-xzf", "code.tgz", "-C", "lovecraft_jax", "&&", "bash", "lovecraft_jax/launch/tpu_worker.sh", *FLAGS]
CREATE = ["queued-resources", "create", "lovecraft", "--node-id=lovecraft", *WHERE, "--accelerator-type=v5litepod-4"]
CREATE = [*CREATE, "--runtime-version=v2-alpha-tpuv5-lite"]
DELETE = ["queued-resources", "delete", "lovecraft", *WHERE, "--force", "--quiet"]


def on_tpu(
    bin: Bin, states: str, *args: str, shown: str = "", **more: str
) -> tuple[subprocess.CompletedProcess, list[list[str]]]:
    """What tpu.sh did where its request is in these states, one a poll, and its calls that are no question."""
    folder = bin.folder.parent
    (folder / "states").write_text("".join(f"{state}\n" for state in states.split(",")))
    (folder / "shown").write_text(shown)
    bin.add("gcloud", f"cd {folder}\n{GCLOUD}")
    done = bin.run("tpu.sh", *args, **more)
    calls = [call[3:] for call in bin.calls("gcloud")]
    return done, [call for call in calls if call[1] != "list" and "systemctl show" not in call[-1]]


def is_up(calls: list[list[str]]) -> bool:
    """Whether these copy the code to all hosts, stop what runs there, and start the training with its flags."""
    scp, stop, start = calls
    everywhere = [*WHERE, "--worker=all"]
    assert [scp[:2], scp[3:]] == [["tpu-vm", "scp"], ["lovecraft:", *everywhere]]
    assert stop == ["tpu-vm", "ssh", "lovecraft", *everywhere, f"--command={STOP}"]
    assert start[:-1] == ["tpu-vm", "ssh", "lovecraft", *everywhere]
    return shlex.split(start[-1].removeprefix("--command=")) == START


@pytest.mark.parametrize(
    ("states", "before"),
    [
        ("ACTIVE", []),
        (",WAITING_FOR_RESOURCES,PROVISIONING,ACTIVE", [CREATE]),
        ("CREATING,ACTIVE", []),
        ("SUSPENDING,SUSPENDED,,ACCEPTED,ACTIVE", [DELETE, CREATE]),
        ("FAILED,DELETING,,ACTIVE", [DELETE, CREATE]),
    ],
)
def test_tpu_creates_what_is_missing_and_starts(bin: Bin, states: str, before: list[list[str]]) -> None:
    done, calls = on_tpu(bin, states, *FLAGS)
    assert (done.returncode, calls[: len(before)]) == (0, before), done.stderr
    assert is_up(calls[len(before) :])
    with tarfile.open(bin.folder.parent / "copied.tgz") as code:
        names = set(code.getnames())
    assert {"launch/tpu_worker.sh", "lovecraft_jax/train.py", "configs/c150.py", "pyproject.toml"} <= names
    assert not [name for name in names if name.startswith((".venv", ".git/", "runs/"))]


def test_tpu_asks_for_what_the_settings_say(bin: Bin) -> None:
    settings = {"NAME": "n", "ZONE": "z", "PROJECT": "p", "TYPE": "v6e-16", "SPOT": "1"}
    _, [create, *_] = on_tpu(bin, ",ACTIVE", "up", *FLAGS, **settings)
    where = ["--node-id=n", "--zone=z", "--project=p"]
    what = ["--accelerator-type=v6e-16", "--runtime-version=v2-alpha-tpuv6e", "--spot"]
    assert create == ["queued-resources", "create", "n", *where, *what]
    asked = next(call for call in bin.calls("gcloud") if call[4] == "list")
    assert asked[5:] == ["--zone=z", "--project=p", "--filter=name~/n$", "--format=value(state.state)"]


def test_tpu_creates_nothing_where_it_cannot_ask(bin: Bin) -> None:
    (bin.folder.parent / "failing").touch()
    done, calls = on_tpu(bin, "ACTIVE", *FLAGS)
    assert (done.returncode, calls) == (1, [])


@pytest.mark.parametrize("flags", [[], ["--config=configs/c150.py"], ["--workdir=runs/c150"]])
def test_tpu_refuses_a_workdir_that_would_go_with_the_machine(bin: Bin, flags: list[str]) -> None:
    done, calls = on_tpu(bin, "ACTIVE", *flags)
    assert (done.returncode, calls) == (2, [])
    assert "--workdir=gs://" in done.stderr


@pytest.mark.parametrize("code", [0, 2, 75])
def test_watch_asks_again_after_a_preemption_and_deletes_at_the_end(bin: Bin, code: int) -> None:
    shown = f"ExecMainStatus={code}\nActiveState=inactive\n"
    done, calls = on_tpu(bin, "ACTIVE,SUSPENDED,SUSPENDED,,ACTIVE", "watch", *FLAGS, shown=shown)
    assert done.returncode == code, done.stderr
    assert is_up(calls[:3])
    assert calls[3:5] == [DELETE, CREATE]
    assert is_up(calls[5:8])
    assert "journalctl" in calls[8][-1]
    assert calls[9:] == [DELETE]


@pytest.mark.parametrize(
    ("verb", "worker", "command"),
    [
        ("log", "0", "sudo journalctl --unit=lovecraft --follow --lines=100"),
        ("stop", "all", "sudo systemctl disable --now lovecraft"),
    ],
)
def test_tpu_log_and_stop(bin: Bin, verb: str, worker: str, command: str) -> None:
    _, calls = on_tpu(bin, "ACTIVE", verb)
    assert calls == [["tpu-vm", "ssh", "lovecraft", *WHERE, f"--worker={worker}", f"--command={command}"]]


def test_tpu_prints_what_it_would_do(bin: Bin) -> None:
    lines = words(bin.run("tpu.sh", "watch", *FLAGS, DRY_RUN="1").stdout)
    assert lines[0] == ["gcloud", "compute", "tpus", *CREATE]
    assert lines[1] == ["tar", "-czf", "FOLDER/code.tgz", "--null", "-T", "FOLDER/files"]
    assert is_up([line[3:] for line in lines[2:5]])
    assert lines[-1] == ["gcloud", "compute", "tpus", *DELETE]


PYTHON = """
case "$*" in
*version_info*) exit "${OLD:-0}" ;;
"-m uv python find 3.12") echo "$NEWER" ;;
"-m venv .venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
esac
"""


@pytest.fixture
def worker(bin: Bin, tmp_path: Path) -> Path:
    """A TPU's host, as far as tpu_worker.sh sees: this code, stand-ins for Python and sudo, and what sudo was given."""
    copy = tmp_path / "code"
    shutil.copytree(LAUNCH, copy / "launch")
    for name in ("requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, copy)
    bin.add("python3", PYTHON)
    bin.add("newer", PYTHON)
    bin.add("sudo", f'[ "$1" != tee ] || cat >{tmp_path}/unit')
    return copy


def test_a_worker_installs_and_hands_the_training_to_systemd(bin: Bin, worker: Path) -> None:
    done = bin.run("tpu_worker.sh", *FLAGS, cwd=worker)
    assert done.returncode == 0, done.stderr
    assert [call[1:] for call in bin.calls("sudo")] == [
        ["tee", "/etc/systemd/system/lovecraft.service"],
        ["systemctl", "daemon-reload"],
        ["systemctl", "enable", "--quiet", "lovecraft"],
        ["systemctl", "restart", "lovecraft"],
    ]
    [install] = [call for call in bin.calls() if "install" in call]
    assert "gcs" in install[-1]
    unit = (worker.parent / "unit").read_text().splitlines()
    assert {"KillMode=mixed", f"WorkingDirectory={worker}", f"ExecStart=/bin/bash {worker}/command.sh"} <= set(unit)

    subprocess.run([BASH, "command.sh"], cwd=worker, env=bin.environment(), check=True)  # as systemd would
    assert bin.calls()[-1][1:] == [
        "-m",
        "lovecraft_jax.train",
        "--distributed",
        "--start_timeout=600",
        "--take_over",
        *FLAGS,
    ]


def test_a_worker_whose_python_is_too_old_fetches_a_newer_one(bin: Bin, worker: Path) -> None:
    bin.add("python3", f"OLD=1\n{PYTHON}")
    done = bin.run("tpu_worker.sh", *FLAGS, cwd=worker, NEWER=str(bin.folder / "newer"))
    assert done.returncode == 0, done.stderr
    assert ["python3", "-m", "uv", "python", "install", "--quiet", "3.12"] in bin.calls()
    assert ["newer", "-m", "venv", ".venv"] in bin.calls()
