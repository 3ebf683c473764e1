"""Many processes as one run: the same result, one voice, and however some of them end, all leave and can go on."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.runs import assert_same_run, leaves, rows, samples, started, wait_for

ROOT = Path(__file__).parents[1]
FLAGS = [
    "--config=configs/tiny.py",
    "--config.train.steps=240",
    "--config.train.eval_every=80",
    "--config.train.eval_lanes=5",
    "--config.train.keep=30",
]
SECONDS = 30
"""In which those that are left leave."""


def test_two_processes_agree_with_one(two: tuple[Path, subprocess.CompletedProcess], one: Path) -> None:
    _assert_close(two[0], one)
    of_two, of_one = rows(two[0]), rows(one)
    assert [(row["step"], row["split"], row.get("scoring")) for row in of_two] == [
        (row["step"], row["split"], row.get("scoring")) for row in of_one
    ]
    for row, other in zip(of_two, of_one, strict=True):
        if "loss" in row:
            assert row["loss"] == pytest.approx(other["loss"], rel=1e-5)


def test_the_same_layout_gives_the_same_bits(two: tuple[Path, subprocess.CompletedProcess], tmp_path: Path) -> None:
    done = _launch(2, *FLAGS, f"--workdir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert_same_run(tmp_path, two[0])


def test_one_process_speaks_for_all(two: tuple[Path, subprocess.CompletedProcess]) -> None:
    workdir, done = two
    assert re.fullmatch(r"valid \d\.\d{4} bpc  test \d\.\d{4} bpc\n", done.stdout)
    for said in ("2 x cpu", "starting at step 0", "step 80: valid", "step 240: valid", "all is in"):
        assert done.stderr.count(said) == 1, done.stderr
    assert sorted(samples(workdir)) == ["00000080.txt", "00000160.txt", "00000240.txt", "best.txt"]
    assert len(list((workdir / "tensorboard").iterdir())) == 1


def test_a_run_goes_on_with_other_devices_and_processes_and_back(one: Path, command: Callable, tmp_path: Path) -> None:
    flags = [*FLAGS, f"--workdir={tmp_path}"]
    for step, processes, devices in ((5, 1, 1), (10, 1, 8), (15, 2, 1), (20, 1, 1), (40, 2, 4), (240, 1, 8)):
        more, env = f"--config.train.stop_at_step={step}", {"JAX_NUM_CPU_DEVICES": str(devices)}
        done = command("train", *flags, more, env=env) if processes == 1 else _launch(2, *flags, more, env=env)
        assert done.returncode == 0, done.stderr
        assert f"{processes * devices} x cpu" in done.stderr
    _assert_close(tmp_path, one, 1e-4)  # Adam makes much of roundings where a gradient is next to nothing
    for row, other in zip(rows(tmp_path), rows(one), strict=True):
        assert (row["step"], row["split"]) == (other["step"], other["split"])
        if "loss" in row:
            assert row["loss"] == pytest.approx(other["loss"], rel=1e-5)


def test_what_one_process_finds_damaged_no_process_goes_on_from(
    two: tuple[Path, subprocess.CompletedProcess], tmp_path: Path
) -> None:
    kept = ["--config.train.keep=4", f"--workdir={tmp_path}"]
    assert _launch(2, *FLAGS, *kept, "--config.train.stop_at_step=30").returncode == 0
    file = max((tmp_path / "checkpoints" / "30" / "state").rglob("d/*"), key=lambda file: file.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    done = _launch(2, *FLAGS, *kept)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("damaged checkpoint, step 30") == 1
    assert "resuming at step 20" in done.stderr
    assert_same_run(tmp_path, two[0])


def test_however_one_ends_all_leave_and_go_on_to_the_same_end(
    two: tuple[Path, subprocess.CompletedProcess], tmp_path: Path
) -> None:
    """A signal or a fault after every checkpoint, to the launcher (-1) or one of the two, and what is said of it."""
    faults = [
        (1, signal.SIGTERM, "interrupted at step"),
        (0, signal.SIGTERM, "interrupted at step"),
        (-1, signal.SIGINT, "interrupted at step"),
        (1, signal.SIGKILL, "lost: process 1 (SIGKILL); all others have left; the same command goes on"),
        (0, signal.SIGKILL, "lost: process 0 (SIGKILL); all others have left; the same command goes on"),
        (1, signal.SIGSTOP, "lost: process 1 (no longer answered); all others have left; the same command goes on"),
        (-1, signal.SIGHUP, "interrupted at step"),
        (-1, signal.SIGKILL, ""),  # nobody is left to speak; the processes save and leave all the same
    ]
    checkpoints = tmp_path / "checkpoints"
    for number, fault, told in faults:
        before = set(checkpoints.glob("[0-9]*"))
        with started(*_line(2, *FLAGS, f"--workdir={tmp_path}")[2:]) as launcher:
            try:
                wait_for(lambda before=before: set(checkpoints.glob("*0")) - before, launcher)
                pids = _children(launcher.pid)
                os.kill([*pids, launcher.pid][number], fault)
                said = launcher.communicate(timeout=SECONDS)[1]
            finally:
                launcher.terminate()
                launcher.wait(SECONDS)
        assert launcher.returncode == (75 if told else -signal.SIGKILL), said
        assert told in said.splitlines()[-1]
        assert ("resuming at step" in said) == bool(before)
        deadline = time.monotonic() + SECONDS
        while any(Path(f"/proc/{pid}").exists() for pid in pids):
            assert time.monotonic() < deadline
            time.sleep(0.1)
    done = _launch(2, *FLAGS, f"--workdir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert_same_run(tmp_path, two[0])


def test_a_process_whose_peer_never_startsleaves(command: Callable, tmp_path: Path) -> None:
    began = time.monotonic()
    alone = ["--coordinator_address=localhost:29123", "--num_processes=2", "--process_id=0", "--start_timeout=3"]
    done = command("train", *FLAGS, f"--workdir={tmp_path}", *alone)
    assert done.returncode not in (0, 2)
    assert time.monotonic() - began < SECONDS
    assert not tmp_path.exists() or not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--config.data.batch_size=9"], "data.batch_size=9 does not divide by 2 devices: use a multiple of 2"),
        (["--config.model.units=0"], "config.model.units=0: expected int of at least 1"),
        (["--config.data.corpus=nowhere"], "data.corpus=nowhere: no such file"),
        (["--num_cpu_devices=2"], "--num_cpu_devices=2 with 2 processes"),
        (["--confg=x"], "Unknown command line flag 'confg'"),
    ],
)
def test_wrong_input_is_one_line_for_all(flags: list[str], told: str, tmp_path: Path) -> None:
    done = _launch(2, *FLAGS, f"--workdir={tmp_path}", *flags)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert told in done.stderr.splitlines()[-1]
    assert done.stderr.count(told) == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--process_id=1"], "--coordinator_address is missing"),
        (["--coordinator_address=localhost", "--num_processes=2", "--process_id=0"], "expected HOST:PORT"),
        (["--coordinator_address=localhost:1", "--num_processes=2", "--process_id=2"], "expected 0 to 1"),
        (["--distributed"], "--distributed: no TPU pod, Slurm, Kubernetes or Open MPI job found"),
    ],
)
def test_flags_of_many_processes_go_together(flags: list[str], told: str, command: Callable, tmp_path: Path) -> None:
    done = command("train", *FLAGS, f"--workdir={tmp_path}", *flags)
    assert done.returncode == 2, done.stderr
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr


def test_processes_that_were_not_given_the_same_say_so(tmp_path: Path) -> None:
    meet = ["--coordinator_address=localhost:29124", "--num_processes=2", f"--workdir={tmp_path}"]
    lines = [
        [
            sys.executable,
            "-m",
            "lovecraft_jax.train",
            *FLAGS,
            *meet,
            f"--process_id={number}",
            f"--config.seed={number}",
        ]
        for number in (0, 1)
    ]
    env = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}
    both = [subprocess.Popen(line, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True) for line in lines]
    said = [process.communicate(timeout=100)[1] for process in both]
    assert [process.returncode for process in both] == [2, 2], said
    assert "seed of process 1 is 1, of process 0 0: give all the same" in said[0]


@pytest.fixture(scope="module")
def one(command: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of one process."""
    workdir = tmp_path_factory.mktemp("one")
    done = command("train", *FLAGS, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    return workdir


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess]:
    """A finished run of two processes, and what it said."""
    workdir = tmp_path_factory.mktemp("two")
    done = _launch(2, *FLAGS, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    return workdir, done


def _assert_close(workdir: Path, expected: Path, within: float = 1e-5) -> None:
    """The states after 20 steps agree."""
    of_run, of_expected = leaves(workdir, 20), leaves(expected, 20)
    assert of_run.keys() == of_expected.keys()
    for name, leaf in of_run.items():
        np.testing.assert_allclose(leaf, of_expected[name], rtol=within, atol=within, err_msg=name)


def _line(count: int, *flags: str) -> list[str]:
    return [sys.executable, "-m", "launch.local_processes", f"--local_processes={count}", *flags]


def _launch(count: int, *flags: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1"} | (env or {})
    line = _line(count, *flags)
    return subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200, check=False)


def _children(pid: int) -> list[int]:
    """The processes of a launcher, in order."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    commands = {int(child): Path(f"/proc/{child}/cmdline").read_text() for child in children}
    return [next(child for child in commands if f"--process_id={n}" in commands[child]) for n in (0, 1)]
