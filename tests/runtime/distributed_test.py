"""Two processes as one run: the same result as one, one of them prints, and wrong input is reported once."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import runs
from tests.helpers.runs import FLAGS_OF_TWO, MAY_MOUNT, assert_same_run, launch, leaves, rows, samples

pytestmark = [pytest.mark.slow, pytest.mark.processes, pytest.mark.usefixtures("unoptimized")]

CORES = [int(core) for core in os.environ["CORES"].split()] if "CORES" in os.environ else []
"""All cores, of which this process has one (tests/conftest.py)."""
may_mount = pytest.mark.skipif(not MAY_MOUNT, reason="may not mount")
TEXT = "The ancient house. " * 300
Run = tuple[Path, subprocess.CompletedProcess, list[list[int]]]


def test_two_processes_compute_the_same_as_one(two: Run, one: Path) -> None:
    _assert_close(two[0], one)
    _assert_close_rows(rows(two[0]), rows(one))


def test_only_the_main_process_prints_and_writes(two: Run) -> None:
    workdir, done, _ = two
    assert re.fullmatch(r"valid \d\.\d{4} bpc  test \d\.\d{4} bpc\n", done.stdout)
    for line in ("2 x cpu", "starting at step 0", "step 80: valid", "step 160: valid", "all is in"):
        assert done.stderr.count(line) == 1, done.stderr
    assert sorted(samples(workdir)) == ["00000080.txt", "00000160.txt", "best.txt"]
    assert len(list((workdir / "tensorboard").iterdir())) == 1


def test_a_run_resumes_with_other_numbers_of_devices_and_processes(
    one: Path, command: Callable, tmp_path: Path
) -> None:
    flags = [*FLAGS_OF_TWO, f"--workdir={tmp_path}"]
    for step, processes, devices in ((5, 1, 8), (10, 2, 4), (20, 1, 1)):
        more, env = f"--config.train.stop_at_step={step}", {"JAX_NUM_CPU_DEVICES": str(devices)}
        done = command("train", *flags, more, env=env) if processes == 1 else launch(*flags, more, env=env)
        assert done.returncode == 0, done.stderr
        assert f"{processes * devices} x cpu" in done.stderr
        assert "WARNING" not in done.stderr
    _assert_close(tmp_path, one, 1e-4)  # Adam divides by the RMS: rounding counts where gradients are tiny
    found = rows(tmp_path)
    assert found[-1]["step"] == 20
    _assert_close_rows(found, rows(one)[: len(found)])


@pytest.mark.skipif(len(CORES) < 2, reason="needs two cores")
def test_gloos_thread_has_the_lowest_priority_where_each_process_has_one_core(two: Run) -> None:
    """Without it every sum of c150 waits 4 ms (launch/local_process.py)."""
    assert [policies.count(os.SCHED_IDLE) for policies in two[2]] == [1, 1]


@may_mount
def test_no_process_resumes_from_a_checkpoint_that_is_damaged_for_one(two: Run, tmp_path: Path) -> None:
    workdir, damaged = tmp_path / "run", tmp_path / "damaged"
    flags = [*FLAGS_OF_TWO, "--config.train.keep=4", f"--workdir={workdir}"]
    assert launch(*flags, "--config.train.stop_at_step=30").returncode == 0
    state = workdir / "checkpoints" / "30" / "state"
    file = max(state.rglob("d/*"), key=lambda file: file.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    ends = _start_each(([], flags), (_with_other_bytes(damaged, file), flags))
    assert [code for code, _ in ends] == [0, 0], ends
    assert ends[0][1].count("damaged checkpoint, step 30") == 1
    assert "resuming at step 20" in ends[0][1]
    assert "damaged" not in ends[1][1]  # the main process reports it
    assert_same_run(workdir, two[0])


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.data.batch_size=9", "data.batch_size=9 is not divisible by 2 devices: use a multiple of 2"),
        ("--confg=x", "Unknown command line flag 'confg'"),
    ],
)
def test_wrong_input_is_reported_in_one_line_for_all(flag: str, message: str, tmp_path: Path) -> None:
    done = launch(*FLAGS_OF_TWO, f"--workdir={tmp_path}", flag)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert message in done.stderr.splitlines()[-1]
    assert done.stderr.count(message) == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("other", "seed", "message"),
    [
        (TEXT, 1, "seed of process 1 is 1, of process 0 0: give all the same"),
        pytest.param(TEXT[1:], 0, "the SHA-256 of data.corpus of process 1 is ", marks=may_mount),
        pytest.param("", 0, "text.txt: no text in it", marks=may_mount),
    ],
)
def test_a_config_or_text_that_differs_between_processes_is_refused_by_all(
    other: str, seed: int, message: str, tmp_path: Path
) -> None:
    text, instead = tmp_path / "text.txt", tmp_path / "instead.txt"
    text.write_text(TEXT)
    instead.write_text(other)
    flags = [*FLAGS_OF_TWO, f"--workdir={tmp_path / 'run'}", f"--config.data.corpus={text}"]
    before = [] if other == TEXT else _with_other_bytes(instead, text)
    ends = _start_each(([], flags), (before, [*flags, f"--config.seed={seed}"]))
    assert [code for code, _ in ends] == [2, 2], ends
    assert message in ends[0][1].splitlines()[-1]


@pytest.fixture(scope="module")
def one(command: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of one process."""
    workdir = tmp_path_factory.mktemp("one")
    done = command("train", *FLAGS_OF_TWO, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    return workdir


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of two processes on a core each, its output, and how the threads of each were scheduled."""
    workdir = tmp_path_factory.mktemp("two")
    own = os.sched_getaffinity(0) if CORES else set()
    policies: list[list[int]] = []
    try:
        if CORES:
            os.sched_setaffinity(0, CORES[:2])
        with runs.started("launch.local_processes", *FLAGS_OF_TWO, f"--workdir={workdir}") as launcher:
            if CORES:
                runs.wait_for(lambda: (workdir / "metrics.jsonl").exists(), launcher)
                children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
                threads = [map(int, os.listdir(f"/proc/{child}/task")) for child in children]
                policies = [[os.sched_getscheduler(thread) for thread in each] for each in threads]
            out, errors = launcher.communicate(timeout=200)
    finally:
        if CORES:
            os.sched_setaffinity(0, own)
    assert launcher.returncode == 0, errors
    return workdir, subprocess.CompletedProcess([], 0, out, errors), policies


def _assert_close(workdir: Path, expected: Path, within: float = 1e-5) -> None:
    """The states after 20 steps are equal `within` a tolerance."""
    found, wanted = leaves(workdir, 20), leaves(expected, 20)
    assert found.keys() == wanted.keys()
    for name, leaf in found.items():
        np.testing.assert_allclose(leaf, wanted[name], rtol=within, atol=within, err_msg=name)


def _assert_close_rows(found: list[dict], expected: list[dict]) -> None:
    for row, other in zip(found, expected, strict=True):
        assert all(row.get(key) == other.get(key) for key in ("step", "split", "scoring"))
        for key in {"loss", "bce"} & row.keys():
            assert row[key] == pytest.approx(other[key], rel=1e-5)


def _start_each(*each: tuple[Sequence[str], Sequence[str]]) -> list[tuple[int, str]]:
    """Starts the processes of one run, each with a command before it and flags; their exit codes and standard error."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        common = [f"--coordinator_address=localhost:{found.getsockname()[1]}", f"--num_processes={len(each)}"]
    environment, started = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}, []
    for number, (before, flags) in enumerate(each):
        line = [*before, sys.executable, "-m", "lovecraft_jax.train", *flags, *common, f"--process_id={number}"]
        started.append(subprocess.Popen(line, cwd=runs.ROOT, env=environment, stderr=subprocess.PIPE, text=True))
    errors = [process.communicate(timeout=100)[1] for process in started]
    return [(process.returncode, error) for process, error in zip(started, errors, strict=True)]


def _with_other_bytes(instead: Path, file: Path) -> list[str]:
    """A prefix for a command that shall read other bytes in `file` than all others do: a mount of its own."""
    return ["unshare", "-rm", "bash", "-c", 'mount --bind "$1" "$2"; shift 2; exec "$@"', "-", str(instead), str(file)]
