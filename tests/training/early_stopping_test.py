"""A run that stops improving: it is ended by train.patience, or says so; a score that is no better than guessing."""

import math
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs import tiny
from lovecraft_jax.data.encoded import Encoded
from lovecraft_jax.run import load_run
from lovecraft_jax.runtime.errors import DONE
from lovecraft_jax.training.early_stopping import ValidScores, final_warnings, uniform_bpc
from lovecraft_jax.training.stacked import train_stacked
from tests.helpers.runs import all_rows, assert_same_run, launch, rows

pytestmark = pytest.mark.usefixtures("unoptimized")

UNIFORM = {"valid": 6.0, "test": 6.25}
LETTERS = "abcdefghijklmnopqrstuvwxyz\n"


def test_the_best_score_is_the_first_of_the_lowest_and_the_count_begins_anew_there() -> None:
    scores = ValidScores()
    assert scores.without_improvement == 0
    counts = []
    for step, bpc in enumerate((3.0, 2.0, 2.0, math.nan, 2.5, 1.75, None), 1):
        scores.add(step, bpc)
        counts.append((scores.best, scores.without_improvement))
    assert counts == [
        ((1, 3.0), 0),
        ((2, 2.0), 0),
        ((2, 2.0), 1),
        ((2, 2.0), 2),
        ((2, 2.0), 3),
        ((6, 1.75), 0),
        ((6, 1.75), 1),
    ]


def test_scores_are_the_scheduled_ones_of_valid() -> None:
    kept = {"step": 20, "split": "valid", "scoring": "scheduled", "bpc": 2.5}
    others = [kept | {"scoring": "final"}, kept | {"split": "test"}, {"step": 20, "split": "train", "bpc": 1.0}]
    scores = ValidScores([*others, kept, *others])
    assert (len(scores), scores.best) == (1, (20, 2.5))


@pytest.mark.parametrize(
    ("bpc", "said_at"),
    [
        ((3.0, 2.0, 2.1, 2.1, 2.1, 2.2, 2.3), [5]),  # three evaluations after the best one, and only once
        ((2.0, 2.009, 2.009, 2.009, 2.009, 2.02), [6]),  # less than a hundredth of a bit may be noise
        ((2.0, 2.1, 2.1, 1.9, 1.8, 1.9, 1.9), []),
        ((2.0, 2.1, 2.1, 2.1, 1.9, 2.0, 2.0, 2.0), [4, 8]),  # again after a better score
        ((2.0, 2.1, 2.1, 2.1, 2.001, 2.1), [4]),
    ],
)
def test_that_a_run_gets_worse_is_said_once_when_it_matters(bpc: tuple[float, ...], said_at: list[int]) -> None:
    scores, said = ValidScores(), []
    for step, score in enumerate(bpc, 1):
        scores.add(step, score)
        said += [step] * scores.began_to_get_worse
    assert said == said_at


def test_final_scores_that_say_nothing_was_learnt_come_with_a_warning() -> None:
    better, worse = _scores(3.0, 2.5, 2.0), _scores(3.0, 2.0, 2.5, 2.5, 2.75)
    assert final_warnings(better, _final(2.0, 2.25), UNIFORM) == []
    assert final_warnings(_scores(3.0), _final(2.0, 2.25), UNIFORM) == []
    for final in (_final(6.0, 5.0), _final(5.0, 6.25), _final(None, None)):
        (line,) = final_warnings(better, final, UNIFORM)
        assert line.startswith("WARNING: ")
        assert "is no better than guessing" in line
    (line,) = final_warnings(_scores(1e9, 479_862_405.0), _final(479_862_405.0, 1e9), UNIFORM)
    assert "valid 479,862,405.0000 bpc is no better than guessing" in line
    assert "(6.0000 bpc)" in line
    (line,) = final_warnings(_scores(2.0, 2.5), _final(2.0, 2.25), UNIFORM)
    assert "no evaluation was better than the first: valid 2.0000 bpc at step 10, 2.5000 at step 20;" in line
    (line,) = final_warnings(worse, _final(2.0, 2.25), UNIFORM)
    assert "getting worse since step 20: valid 2.0000 bpc there, 2.7500 at step 50, no improvement in 3 eval" in line
    assert final_warnings(worse, [row | {"patience": 3} for row in _final(2.0, 2.25)], UNIFORM) == []
    assert final_warnings(worse, [], UNIFORM) == [line]  # of a run that is not finished


def test_a_uniform_score_is_per_character_and_pays_for_spelling() -> None:
    assert uniform_bpc(Encoded(np.zeros(10, np.uint8), 10, 0.0), 64) == pytest.approx(6.0, rel=1e-12)
    assert uniform_bpc(Encoded(np.zeros(10, np.uint8), 40, 8 * math.log(2)), 64) == pytest.approx(1.7, rel=1e-12)


@pytest.mark.slow
def test_patience_ends_a_run_with_the_best_checkpoints_scores(patient: tuple) -> None:
    workdir, done = patient
    scheduled = [(row["step"], row["bpc"]) for row in all_rows(workdir) if row.get("scoring") == "scheduled"]
    best, last = min(scheduled, key=lambda score: score[1])[0], scheduled[-1][0]
    assert 10 < best == last - 30 < 90
    bpc = dict(scheduled)[best]
    why = f"no improvement in 3 evaluations on valid {bpc:.4f} bpc at step {best} (train.patience=3)"
    assert f"ended at step {last} of 120: {why}\n" in done.stderr
    assert "WARNING: getting worse" not in done.stderr
    run = load_run(workdir)
    assert run.step == best
    for row, split in zip(all_rows(workdir)[-2:], ("valid", "test"), strict=True):
        assert row["loss"] == pytest.approx(run.score(run.split(split)).loss, rel=1e-6)
        assert (row["step"], row["split"], row["scoring"]) == (last, split, "final")
        assert (row["checkpoint"], row["patience"]) == (best, 3)


@pytest.mark.slow
def test_the_same_command_says_that_the_run_is_finished(patient: tuple, train: Callable, tmp_path: Path) -> None:
    workdir, done = patient
    again = train(shutil.copytree(workdir, tmp_path / "run"), "--config.train.patience=3")
    assert again.stdout == done.stdout
    assert "already finished at step 80: no improvement in 3 evaluations on valid" in again.stderr
    assert_same_run(tmp_path / "run", workdir)


@pytest.mark.slow
def test_a_resumed_run_counts_the_evaluations_before_its_checkpoint(
    patient: tuple, train: Callable, tmp_path: Path
) -> None:
    workdir, patience = patient[0], "--config.train.patience=3"
    assert "stopped at step 70" in train(tmp_path / "run", patience, "--config.train.stop_at_step=70").stderr
    # As a kill leaves it after an evaluation, before its checkpoint is saved.
    lines = (workdir / "metrics.jsonl").read_text().splitlines(keepends=True)
    at_80 = [line for line, row in zip(lines, all_rows(workdir), strict=True) if row["step"] == 80]
    assert '"scheduled"' in at_80[1]
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.writelines(at_80[:2])
    assert "resuming at step 70" in train(tmp_path / "run", patience).stderr
    assert_same_run(tmp_path / "run", workdir)


@pytest.mark.slow
def test_without_patience_a_run_says_since_when_it_gets_worse_and_goes_on_where_patience_ended_it(
    patient: tuple, train: Callable, tmp_path: Path
) -> None:
    ended = shutil.copytree(patient[0], tmp_path / "ended")
    resumed, whole = train(ended), train(tmp_path / "whole")
    assert "resuming at step 80" in resumed.stderr
    assert_same_run(ended, tmp_path / "whole")
    assert not [row for row in rows(ended) if "patience" in row]
    worse = [line for line in whole.stderr.splitlines() if line.startswith("WARNING: getting worse since step 50: ")]
    at_evaluation, last = worse
    assert at_evaluation.endswith(" at step 80, no improvement in 3 evaluations; train.patience ends such a run")
    assert last.endswith(" at step 120, no improvement in 7 evaluations")
    assert whole.stderr.splitlines()[-1] == last
    assert train(tmp_path / "whole").stderr.splitlines()[-1] == last  # already finished


@pytest.mark.slow
@pytest.mark.processes
def test_patience_ends_all_processes_at_the_same_step(text: Path, tmp_path: Path) -> None:
    done = launch(*_flags(text), f"--workdir={tmp_path}", "--config.train.patience=3")
    assert done.returncode == 0, done.stderr
    assert "ended at step 80 of 120" in done.stderr
    assert [(row["step"], row["checkpoint"]) for row in rows(tmp_path)[-2:]] == [(80, 50)] * 2


@pytest.mark.slow
def test_patience_ends_one_of_stacked_runs_and_the_others_go_on(text: Path, patient: tuple, tmp_path: Path) -> None:
    configs = {}
    for name, rate in (("worse", 0.01), ("slow", 0.0005)):
        config = configs[str(tmp_path / name)] = tiny.get_config()
        config.data.corpus, config.sample.prompt, config.optimizer.lr = str(text), "a", rate
        config.train.update({"steps": 120, "eval_every": 10, "patience": 3})
    assert train_stacked(configs) == DONE
    for row, expected in zip(rows(tmp_path / "worse"), rows(patient[0]), strict=True):
        assert (row["step"], row["split"]) == (expected["step"], expected["split"])
        assert row.get("loss", 0.0) == pytest.approx(expected.get("loss", 0.0), rel=1e-4)
    assert [(row["step"], "patience" in row) for row in rows(tmp_path / "slow")[-2:]] == [(120, False)] * 2


@pytest.mark.slow
def test_a_run_that_learns_nothing_says_so_last(command: Callable, tmp_path: Path) -> None:
    """With clipped gradients and a learning rate far too high everything stays finite."""
    for expected in ("step 40: valid", "already finished"):
        done = command("train", "--config=configs/tiny.py", f"--workdir={tmp_path}", "--config.optimizer.lr=1e6")
        assert done.returncode == 0, done.stderr
        assert expected in done.stderr
        valid = all_rows(tmp_path)[-2]["bpc"]
        assert valid > 1e5
        assert done.stderr.splitlines()[-1].startswith(f"WARNING: valid {valid:,.4f} bpc is no better than guessing, ")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file whose end, valid and test, has its letters in other shares: soon a model learns what is wrong there."""
    draw = random.Random(0).choices
    train = LETTERS * 3 + "".join(draw("ab", (95, 5), k=9000 - 3 * len(LETTERS)))
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text(train + "".join(draw("ab", (60, 40), k=1000)))
    return file


@pytest.fixture(scope="module")
def train(text: Path, command: Callable) -> Callable[..., subprocess.CompletedProcess]:
    """Trains on the text in a workdir, with more flags, and returns what the command printed."""

    def run(workdir: Path, *more: str) -> subprocess.CompletedProcess:
        done = command("train", *_flags(text), f"--workdir={workdir}", *more)
        assert done.returncode == 0, done.stderr
        return done

    return run


@pytest.fixture(scope="module")
def patient(train: Callable, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess]:
    """A run that train.patience ended, and its output. Copy it before you change it."""
    workdir = tmp_path_factory.mktemp("patient") / "run"
    return workdir, train(workdir, "--config.train.patience=3")


def _flags(text: Path) -> list[str]:
    settings = {"data.corpus": text, "sample.prompt": "a", "optimizer.lr": 0.01}
    settings |= {"train.steps": 120, "train.eval_every": 10}
    return ["--config=configs/tiny.py", *(f"--config.{name}={value}" for name, value in settings.items())]


def _scores(*bpc: float) -> ValidScores:
    scores = ValidScores()
    for number, score in enumerate(bpc, 1):
        scores.add(10 * number, score)
    return scores


def _final(*bpc: float | None) -> list[dict[str, Any]]:
    return [{"split": split, "scoring": "final", "bpc": score} for split, score in zip(UNIFORM, bpc, strict=True)]
