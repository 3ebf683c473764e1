"""A run that was stopped in any way resumes with the same command, bit for bit, with dropout."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from etils import epath

from lovecraft_jax.run import load_run
from lovecraft_jax.runtime.errors import UserError
from lovecraft_jax.runtime.files import locked_workdir
from tests.helpers import store
from tests.helpers.runs import assert_same_run, rows, samples, started, wait_for

ROOT = Path(__file__).parents[2]
ON_STORE = """
import runpy, sys
from etils import epath
from lovecraft_jax.training import loop
from tests.helpers import store
store.use(sys.argv.pop(1))
kept = epath.Path(sys.argv.pop(1))
checkpoints = loop.Checkpoints
loop.Checkpoints = lambda workdir, keep: checkpoints(kept, keep)
runpy.run_module("lovecraft_jax.train", run_name="__main__")
"""
"""Training in the tests' own object store; its checkpoints on the disk, since TensorStore has drivers of its own."""
TINY = "--config=configs/tiny.py"
LONG = "--config.train.steps=100000"


def test_two_halves_equal_the_whole(half: Path, trained: Path, command: Callable, tmp_path: Path) -> None:
    workdir = shutil.copytree(half, tmp_path / "run")
    assert rows(half) == rows(trained)[:4]
    done = command("train", TINY, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    assert "resuming at step 20" in done.stderr
    assert_same_run(workdir, trained)


@pytest.mark.slow
def test_a_killed_run_on_an_object_store_resumes_exactly(trained: Path, tmp_path: Path) -> None:
    store.use(tmp_path / "objects")
    workdir = epath.Path("gs://bucket/runs/a")
    line = [sys.executable, "-c", ON_STORE, str(tmp_path / "objects"), str(tmp_path), TINY, f"--workdir={workdir}"]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}
    with subprocess.Popen(line, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_for(lambda: any(row["split"] == "valid" for row in rows(workdir)), process)
        finally:
            process.kill()
    assert (workdir / "lock").exists()
    run = {"cwd": ROOT, "env": environment, "capture_output": True, "text": True, "timeout": 200, "check": False}
    done = subprocess.run(line, **run)
    assert done.returncode == 2
    assert f"in use by process {process.pid} on " in done.stderr
    done = subprocess.run([*line, "--take_over"], **run)
    assert done.returncode == 0, done.stderr
    assert f"taking over from process {process.pid} on " in done.stderr
    assert "resuming at step " in done.stderr
    assert rows(workdir) == rows(trained)
    assert samples(workdir) == samples(trained)
    there = {path.name for path in workdir.iterdir()}
    assert there == {path.name for path in trained.iterdir()} - {"lock", "checkpoints"}


@pytest.mark.slow
def test_settings_that_do_not_change_results_may_change_on_resume(
    half: Path, trained: Path, command: Callable, tmp_path: Path
) -> None:
    workdir = shutil.copytree(half, tmp_path / "run")
    intervals = [f"--config.train.{name}=20" for name in ("log_every", "checkpoint_every", "eval_every")]
    free = [
        "--config.model.backend=fused",
        "--config.model.remat=4",
        "--config.train.keep=3",
        "--config.sample.length=30",
    ]
    same_text = "--config.data.corpus=lovecraft_jax/data/tales/*.txt"
    done = command("train", TINY, f"--workdir={workdir}", same_text, *free, *intervals)
    assert done.returncode == 0, done.stderr
    for row, expected in zip(rows(workdir)[-2:], rows(trained)[-2:], strict=True):
        assert (row["split"], row["checkpoint"]) == (expected["split"], 40)
        assert row["loss"] == pytest.approx(expected["loss"], rel=1e-5)


@pytest.mark.slow
def test_a_run_interrupted_at_its_start_exits_with_75_and_resumes(
    trained: Path, command: Callable, tmp_path: Path
) -> None:
    with started("lovecraft_jax.train", TINY, f"--workdir={tmp_path}") as process:
        wait_for(lambda: (tmp_path / "lock").exists(), process)
        process.terminate()
        process.wait()
    assert process.returncode == 75
    done = command("train", TINY, f"--workdir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert_same_run(tmp_path, trained)


@pytest.mark.slow
def test_the_watchdog_ends_a_run_that_makes_no_progress(command: Callable, tmp_path: Path) -> None:
    steps = "--config.train.steps_per_dispatch=100000", "--config.train.log_every=100000"  # one dispatch for all
    others = "--config.train.eval_every=100000", "--config.train.checkpoint_every=100000"
    done = command("train", TINY, LONG, *steps, *others, f"--workdir={tmp_path}", "--config.train.watchdog=2")
    assert done.returncode == 75, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("stuck: no step has finished for 2.0 s (config.train.watchdog), at step ")
    assert last.endswith("goes on from the last checkpoint: none yet")


@pytest.mark.slow
def test_a_checkpoint_that_cannot_be_written_ends_the_run_with_one_line(tmp_path: Path) -> None:
    limit = "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)); "
    program = limit + "sys.argv[0] = 'train'; runpy.run_module('lovecraft_jax.train', run_name='__main__')"
    line = [sys.executable, "-c", program, TINY, f"--workdir={tmp_path}", "--config.model.units=64"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 1
    assert "a checkpoint cannot be written" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_a_run_killed_before_the_final_scores_resumes_with_them(
    trained: Path, command: Callable, tmp_path: Path
) -> None:
    workdir = shutil.copytree(trained, tmp_path / "run")
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    (workdir / "metrics.jsonl").write_text("\n".join(lines[:-2]) + '\n{"step": 40, "spl')
    done = command("train", TINY, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    assert "resuming at step 40" in done.stderr
    assert_same_run(workdir, trained)


@pytest.mark.slow
def test_a_run_resumes_from_the_newest_checkpoint_that_is_not_damaged(
    half: Path, trained: Path, command: Callable, tmp_path: Path
) -> None:
    workdir = shutil.copytree(half, tmp_path / "run")
    flipped, truncated, deleted = (_arrays(workdir, step) for step in (20, 15, 10))
    whole = bytearray(flipped.read_bytes())
    whole[len(whole) // 2] ^= 1
    flipped.write_bytes(whole)
    truncated.write_bytes(truncated.read_bytes()[:1000])
    deleted.unlink()
    done = command("train", TINY, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    for step in (20, 15, 10):
        assert done.stderr.count(f"damaged checkpoint, step {step}:") == 1
    assert "resuming at step 5" in done.stderr
    assert "Traceback" not in done.stderr
    assert_same_run(workdir, trained)


@pytest.mark.slow
def test_interrupted_runs_save_and_exit_with_75(interrupted: tuple[Path, list[tuple[int, str]]]) -> None:
    _, ends = interrupted
    for code, errors in ends:
        assert code == 75, errors
        assert "interrupted at step" in errors.splitlines()[-1]
        assert "Traceback" not in errors


@pytest.mark.slow
def test_a_run_interrupted_twice_resumes_exactly(
    interrupted: tuple[Path, list[tuple[int, str]]], command: Callable, tmp_path: Path
) -> None:
    workdir, _ = interrupted
    stop = f"--config.train.stop_at_step={load_run(workdir, 'latest').step + 10}"
    for path in (workdir, tmp_path):
        done = command("train", TINY, LONG, stop, f"--workdir={path}")
        assert done.returncode == 0, done.stderr
    assert_same_run(workdir, tmp_path)


@pytest.fixture(scope="module")
def half(command: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny run, stopped at half its steps, with checkpoints 5, 10, 15 and 20. Copy it before you change it."""
    workdir = tmp_path_factory.mktemp("half") / "run"
    kept = ("--config.train.checkpoint_every=5", "--config.train.keep=4")
    done = command("train", TINY, f"--workdir={workdir}", "--config.train.stop_at_step=20", *kept)
    assert done.returncode == 0, done.stderr
    assert "stopped at step 20" in done.stderr
    return workdir


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[int, str]]]:
    """A run that was interrupted by SIGTERM, started again, and interrupted by SIGINT; how it ended each time."""
    workdir = tmp_path_factory.mktemp("interrupted")
    ends = []
    for number in (signal.SIGTERM, signal.SIGINT):
        seen = len(rows(workdir))
        with started("lovecraft_jax.train", TINY, LONG, f"--workdir={workdir}") as process:
            wait_for(lambda seen=seen: len(rows(workdir)) > seen + 1, process)
            with pytest.raises(UserError, match="in use"), locked_workdir(str(workdir)):
                pass
            process.send_signal(number)
            ends.append((process.wait(60), process.communicate()[1]))
    return workdir, ends


def _arrays(workdir: Path, step: int) -> Path:
    """Returns the largest file of a checkpoint, which has its arrays."""
    files = (workdir / "checkpoints" / str(step) / "state").rglob("d/*")
    return max(files, key=lambda file: file.stat().st_size)
