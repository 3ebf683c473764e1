"""A sweep's runs are ordinary runs, stacked or not; it resumes after a kill, and finds wrong input before it trains."""

import csv
import json
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.runs import assert_same_run, leaves, rows, started, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("unoptimized")]

COMMON = ("--config=configs/tiny.py", "--config.train.steps=20", "--config.train.eval_every=10")
FLAGS = (*COMMON, "--config.optimizer.lr=0.002,0.02", "--config.optimizer.warmup=0")
WORKDIRS = [
    f"optimizer.lr={lr},optimizer.warmup=0,train.steps=20/seed{seed}" for lr in ("0.002", "0.02") for seed in (0, 1)
]


@pytest.fixture(scope="module")
def swept(command: Callable, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess]:
    """The folder of a sweep over two learning rates and two seeds, and what it printed. Read it."""
    folder = tmp_path_factory.mktemp("swept")
    done = command("sweep", *FLAGS, "--seeds=2", f"--workdir={folder}")
    assert done.returncode == 0, done.stderr
    return folder, done


def test_the_table_has_the_final_scores_of_every_point_and_the_command_of_the_best(swept: tuple) -> None:
    folder, done = swept
    finals = {
        workdir: next(row["bpc"] for row in rows(folder / workdir) if row.get("scoring") == "final")
        for workdir in WORKDIRS
    }
    medians = {lr: np.median([finals[workdir] for workdir in WORKDIRS if f"={lr}," in workdir]) for lr in (0.002, 0.02)}
    header, *points, _, line = done.stdout.splitlines()
    assert header.split()[0] == "optimizer.lr"
    assert [point.split()[:2] for point in points] == [
        ["0.02", f"{medians[0.02]:.4f}"],
        ["0.002", f"{medians[0.002]:.4f}"],
    ]
    python, _, module, *flags = shlex.split(line)
    assert (python, module) == ("python", "lovecraft_jax.train")
    assert {"--config.optimizer.lr=0.02", "--config.seed=0", f"--workdir={folder}/best", *COMMON} <= set(flags)
    with open(folder / "results.csv") as file:
        assert {row["workdir"]: float(row["valid"]) for row in csv.DictReader(file)} == {
            str(folder / workdir): bpc for workdir, bpc in finals.items()
        }
    best = json.loads((folder / "results.json").read_text())[0]
    assert best["settings"]["optimizer.lr"] == "0.02"
    assert best["valid"]["median"] == pytest.approx(medians[0.02])


def test_the_command_of_the_best_point_trains_its_first_seed_again(swept: tuple, command: Callable) -> None:
    folder, printed = swept
    done = command("train", *shlex.split(printed.stdout.splitlines()[-1])[3:])
    assert done.returncode == 0, done.stderr
    assert_same_run(folder / "best", folder / WORKDIRS[2])


def test_a_sweep_resumes_after_sigterm_and_trains_nothing_twice(
    swept: tuple, command: Callable, tmp_path: Path
) -> None:
    line = (*FLAGS, "--seeds=2", f"--workdir={tmp_path}")
    with started("lovecraft_jax.sweep", *line) as process:
        wait_for(lambda: len(rows(tmp_path / WORKDIRS[1])) > 1, process)
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    assert output == ""
    finished = sum(
        "final" in (tmp_path / name / "metrics.jsonl").read_text() for name in WORKDIRS if (tmp_path / name).exists()
    )
    assert f"interrupted with {finished} of 4 runs done" in errors
    assert 1 <= finished < 4
    before = (tmp_path / WORKDIRS[0] / "metrics.jsonl").stat().st_mtime_ns
    done = command("sweep", *line)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / WORKDIRS[0] / "metrics.jsonl").stat().st_mtime_ns == before
    for workdir in WORKDIRS:
        assert_same_run(tmp_path / workdir, swept[0] / workdir)


def test_stacked_runs_equal_those_alone_and_one_that_fails_is_a_row_that_says_so(
    swept: tuple, command: Callable, tmp_path: Path
) -> None:
    flags = ("--config.optimizer.lr=0.02,1e38", "--config.optimizer.warmup=0", "--seeds=2", "--stack=4")
    for attempt in range(2):
        done = command("sweep", *COMMON, *flags, f"--workdir={tmp_path}")
        assert done.returncode == 0, done.stderr
        assert ("starting at step" in done.stderr) == (attempt == 0)  # a run that failed is not begun again
    for workdir in WORKDIRS[2:]:
        alone = leaves(swept[0] / workdir)
        for path, leaf in leaves(tmp_path / workdir).items():
            # Twenty steps of Adam at .02 move a weight by up to .4.
            np.testing.assert_allclose(leaf, alone[path], rtol=1e-4, atol=1e-4, err_msg=path)
    _, good, bad, *_ = done.stdout.splitlines()
    assert good.split()[0] == "0.02"
    assert bad.split()[0] == "1e+38"
    assert "seed 0: not finite at step 1; seed 1: not finite at step 1" in bad


def test_wrong_input_at_any_point_exits_with_2_before_anything_is_trained(command: Callable, tmp_path: Path) -> None:
    missing = f"--config.data.corpus={tmp_path}/nowhere.txt"
    for flag, name in (("--config.optimizer.name=adam,adagrad", "adagrad"), (missing, "nowhere.txt")):
        done = command("sweep", *COMMON, "--config.data.corpus=bundled", flag, f"--workdir={tmp_path}/sweep")
        assert done.returncode == 2, done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert name in done.stderr
        assert done.stdout == ""
        assert not list((tmp_path / "sweep").glob("**/metrics.jsonl"))


def test_a_finished_or_failed_run_of_another_config_is_refused(swept: tuple, command: Callable, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    shutil.copytree(swept[0] / WORKDIRS[0], folder / WORKDIRS[0])
    config = folder / WORKDIRS[0] / "config.json"
    config.write_text(config.read_text().replace('"units": 16', '"units": 24'))
    shutil.rmtree(folder / WORKDIRS[0] / "checkpoints")
    done = command("sweep", *FLAGS, "--seeds=2", f"--workdir={folder}")
    assert done.returncode == 2
    assert "holds a run of another config (model.units: 24 -> 16)" in done.stderr
    assert not (folder / WORKDIRS[1]).exists()
