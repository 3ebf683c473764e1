"""A run that was stopped in any way resumes with the same command, bit for bit, with dropout."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from etils import epath

from lovecraft_jax.run import load_run
from tests.helpers import store
from tests.helpers.kills import kill_and_resume
from tests.helpers.runs import ROOT, assert_same_run, one_device, rows, samples, started, train_tiny, wait_for

pytestmark = pytest.mark.usefixtures("unoptimized")

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


def test_two_halves_equal_the_whole(half: Path, trained: Path, tmp_path: Path) -> None:
    workdir = shutil.copytree(half, tmp_path / "run")
    assert rows(half) == rows(trained)[:4]
    assert "resuming at step 20" in train_tiny(workdir)
    assert_same_run(workdir, trained)


@pytest.mark.slow
def test_a_killed_run_on_an_object_store_resumes_exactly(trained: Path, tmp_path: Path) -> None:
    store.use(tmp_path / "objects")
    workdir = epath.Path("gs://bucket/runs/a")
    line = [sys.executable, "-c", ON_STORE, str(tmp_path / "objects"), str(tmp_path), TINY, f"--workdir={workdir}"]
    with subprocess.Popen(line, cwd=ROOT, env=one_device(), stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_for(lambda: any(row["split"] == "valid" for row in rows(workdir)), process)
        finally:
            process.kill()
    assert (workdir / "lock").exists()
    run = {"cwd": ROOT, "env": one_device(), "capture_output": True, "text": True, "timeout": 200, "check": False}
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
def test_settings_that_do_not_change_results_may_change_on_resume(half: Path, trained: Path, tmp_path: Path) -> None:
    workdir = shutil.copytree(half, tmp_path / "run")
    intervals = [f"--config.train.{name}=20" for name in ("log_every", "checkpoint_every", "eval_every")]
    free = [
        "--config.model.backend=fused",
        "--config.model.remat=4",
        "--config.train.keep=3",
        "--config.sample.length=30",
        "--config.train.log_tensors",
    ]
    same_text = "--config.data.corpus=lovecraft_jax/data/tales/*.txt"
    train_tiny(workdir, same_text, *free, *intervals)
    for row, expected in zip(rows(workdir)[-2:], rows(trained)[-2:], strict=True):
        assert (row["split"], row["checkpoint"]) == (expected["split"], 40)
        assert row["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    (tensors,) = [row["tensors"] for row in rows(workdir) if "tensors" in row]
    assert len(tensors) == 8
    assert all(value > 0 for values in tensors.values() for value in values.values())


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
def test_a_run_killed_before_the_final_scores_resumes_with_them(trained: Path, tmp_path: Path) -> None:
    workdir = shutil.copytree(trained, tmp_path / "run")
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    (workdir / "metrics.jsonl").write_text("\n".join(lines[:-2]) + '\n{"step": 40, "spl')
    assert "resuming at step 40" in train_tiny(workdir)
    assert_same_run(workdir, trained)
    # The final scores are those of the best checkpoint, also where it is not the last.
    (workdir / "metrics.jsonl").write_text("\n".join(lines[:-2]) + "\n")
    shutil.copytree(workdir / "checkpoints" / "40" / "metrics", workdir / "checkpoints" / "30" / "metrics")
    (workdir / "checkpoints" / "30" / "metrics" / "metrics").write_text('{"bpc": 0.5}')
    train_tiny(workdir)
    run = load_run(workdir, 30)
    for row in rows(workdir)[-2:]:
        assert (row["scoring"], row["checkpoint"]) == ("final", 30)
        assert row["loss"] == pytest.approx(run.score(run.split(row["split"])).loss, rel=1e-6)


@pytest.mark.slow
def test_a_run_resumes_from_the_newest_checkpoint_that_is_not_damaged(
    half: Path, trained: Path, tmp_path: Path
) -> None:
    workdir = shutil.copytree(half, tmp_path / "run")
    flipped, truncated, deleted = (_arrays(workdir, step) for step in (20, 15, 10))
    whole = bytearray(flipped.read_bytes())
    whole[len(whole) // 2] ^= 1
    flipped.write_bytes(whole)
    truncated.write_bytes(truncated.read_bytes()[:1000])
    deleted.unlink()
    errors = train_tiny(workdir, "--config.train.keep=4")
    for step in (20, 15, 10):
        assert errors.count(f"damaged checkpoint, step {step}:") == 1
    assert "resuming at step 5" in errors
    assert "Traceback" not in errors
    assert_same_run(workdir, trained)
    for step in (10, 20):  # saved again in place of the damaged ones
        assert load_run(workdir, step).step == step


@pytest.mark.slow
def test_a_run_interrupted_at_its_start_and_while_it_trains_saves_and_resumes_exactly(tmp_path: Path) -> None:
    workdir, other = tmp_path / "run", tmp_path / "other"
    for number, is_due in (
        (signal.SIGTERM, lambda: (workdir / "lock").exists()),
        (signal.SIGINT, lambda: len(rows(workdir)) > 1),
    ):
        with started("lovecraft_jax.train", TINY, LONG, f"--workdir={workdir}") as process:
            wait_for(is_due, process)
            process.send_signal(number)
            errors = process.communicate(timeout=60)[1]
        assert process.returncode == 75, errors
        assert "interrupted at step" in errors.splitlines()[-1]
        assert "Traceback" not in errors
    stop = f"--config.train.stop_at_step={load_run(workdir, 'latest').step + 10}"
    for path in (workdir, other):
        train_tiny(path, LONG, stop)
    assert_same_run(workdir, other)


@pytest.mark.slow
@pytest.mark.processes
def test_runs_killed_at_random_moments_resume_to_the_same_result(tmp_path: Path) -> None:
    """A few of the kills that `python -m tests.helpers.kills` does by the fifty."""
    assert len(kill_and_resume(tmp_path, count=4, seed=12)) == 4


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny run, stopped at half its steps, with checkpoints 5, 10, 15 and 20. Copy it before you change it."""
    workdir = tmp_path_factory.mktemp("half") / "run"
    kept = ("--config.train.checkpoint_every=5", "--config.train.keep=4")
    assert "stopped at step 20" in train_tiny(workdir, "--config.train.stop_at_step=20", *kept)
    return workdir


def _arrays(workdir: Path, step: int) -> Path:
    """Returns the largest file of a checkpoint, which has its arrays."""
    files = (workdir / "checkpoints" / str(step) / "state").rglob("d/*")
    return max(files, key=lambda file: file.stat().st_size)
