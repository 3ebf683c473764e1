"""Stacked runs learn what they learn alone, resume exactly whatever stops them, and leave ordinary runs behind."""

import os
import shutil
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath
from ml_collections import ConfigDict

from configs import tiny
from lovecraft_jax.run import load_run
from lovecraft_jax.runtime.errors import DONE, INTERRUPTED, RunError, UserError
from lovecraft_jax.training import loop
from lovecraft_jax.training.checkpoint import saved_steps
from lovecraft_jax.training.loop import Training
from lovecraft_jax.training.stacked import train_stacked
from tests.helpers.runs import all_rows, assert_same_run, leaves, rows

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("unoptimized")]

NAMES = ("seed_0", "seed_3", "low_rate")


@pytest.fixture(scope="module")
def stacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of three seeds, one of them with another learning rate, trained as one program. Read it."""
    folder = tmp_path_factory.mktemp("stacked")
    assert train_stacked(configs(folder)) == DONE
    return folder


def test_a_stacked_run_learns_what_it_learns_alone(stacked: Path, tmp_path: Path) -> None:
    config = configs(tmp_path)[str(tmp_path / "low_rate")]
    assert loop.train(config, str(tmp_path)) == DONE
    alone = leaves(tmp_path)
    for path, leaf in leaves(stacked / "low_rate").items():
        np.testing.assert_allclose(leaf, alone[path], rtol=1e-5, atol=1e-6, err_msg=path)
    for row, expected in zip(rows(stacked / "low_rate"), rows(tmp_path), strict=True):
        assert (row["step"], row["split"]) == (expected["step"], expected["split"])
        for key in ("loss", "learning_rate"):
            assert row.get(key, 0.0) == pytest.approx(expected.get(key, 0.0), rel=1e-5)
    assert len({rows(stacked / name)[0]["loss"] for name in NAMES}) == 3


def test_a_stacked_run_is_finished_and_an_ordinary_run(stacked: Path, capsys: pytest.CaptureFixture) -> None:
    workdir, config = next(iter(configs(stacked).items()))
    assert loop.train(config, workdir) == DONE
    assert "already finished at step 40" in capsys.readouterr().err
    assert load_run(workdir, "latest").step == 40


def test_the_speed_of_a_run_leaves_out_the_evaluations_of_the_others(stacked: Path) -> None:
    # The first evaluations, at step 20, take many times as long as ten steps; each run reports after those before it.
    found = [row for name in NAMES for row in all_rows(stacked / name) if (row["step"], row["split"]) == (20, "train")]
    speeds = [row["chars_per_second"] for row in found]
    assert max(speeds) < 3 * min(speeds)


def test_interrupted_runs_resume_to_the_same_end_also_from_different_steps(
    stacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    after = Training.after

    def interrupt(run: Training, step: int, state: object, metrics: dict[str, jax.Array]) -> None:
        if step == 15 and run.config.seed == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        after(run, step, state, metrics)

    monkeypatch.setattr(Training, "after", interrupt)
    assert train_stacked(configs(tmp_path)) == INTERRUPTED
    assert "3 stacked runs interrupted, saved" in capsys.readouterr().err
    assert [max(saved_steps(epath.Path(workdir))) for workdir in configs(tmp_path)] == [15, 15, 15]
    monkeypatch.undo()
    # As after a kill, which one run survives with a later checkpoint than another, or with its final scores.
    shutil.rmtree(tmp_path / "seed_3" / "checkpoints" / "15")
    shutil.rmtree(tmp_path / "low_rate")
    shutil.copytree(stacked / "low_rate", tmp_path / "low_rate")
    assert train_stacked(configs(tmp_path)) == DONE
    for name in NAMES:
        assert_same_run(tmp_path / name, stacked / name)


def test_a_run_whose_learning_rate_is_too_high_does_not_stop_the_others(
    stacked: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    diverging = configs(tmp_path)
    diverging[str(tmp_path / "low_rate")].optimizer.lr = 1e38
    with pytest.raises(RunError, match=f"^{tmp_path}/low_rate: step [0-9]+: the loss or its gradient is not finite"):
        train_stacked(diverging)
    assert "the other runs continue" in capsys.readouterr().err
    assert rows(tmp_path / "low_rate")[-1]["loss"] is None
    for name in ("seed_0", "seed_3"):
        assert_same_run(tmp_path / name, stacked / name)


def test_stacked_dropout_rates_and_weight_decays_learn_what_they_learn_alone_with_averaged_weights(
    tmp_path: Path,
) -> None:
    stacked = regularised(tmp_path / "stacked")
    assert train_stacked(stacked) == DONE
    losses = set()
    for workdir, config in stacked.items():
        losses.add(rows(Path(workdir))[-1]["bpc"])
        if Path(workdir).name == "as_it_is":
            continue  # nothing in it that is not in the others
        alone = tmp_path / "alone" / Path(workdir).name
        assert loop.train(config, str(alone)) == DONE
        found, expected = leaves(Path(workdir)), leaves(alone)
        assert any(".average" in path for path in expected)
        for path, leaf in found.items():
            np.testing.assert_allclose(leaf, expected[path], rtol=1e-5, atol=1e-6, err_msg=path)
        assert rows(Path(workdir))[-1]["bpc"] == pytest.approx(rows(alone)[-1]["bpc"], rel=1e-5)
    assert len(losses) == len(stacked)


def test_a_dropout_that_is_off_in_some_runs_is_refused(tmp_path: Path) -> None:
    others = regularised(tmp_path)
    others[str(tmp_path / "drops_more")].model.dropout = 0.0
    why = f"{tmp_path}/drops_more: config.model.dropout=0.0, but 0.1 in {tmp_path}/as_it_is: .* dropout rates above 0"
    with pytest.raises(UserError, match=why):
        train_stacked(others)


def test_configs_that_differ_in_more_than_seed_and_learning_rate_are_refused(tmp_path: Path) -> None:
    others = configs(tmp_path)
    others[str(tmp_path / "seed_3")].optimizer.clip = 2.0
    with pytest.raises(UserError, match=f"{tmp_path}/seed_3: config.optimizer.clip=2.0, but 1.0 in {tmp_path}/seed_0"):
        train_stacked(others)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="no runs: expected one or more"):
        train_stacked({})


def configs(folder: Path) -> dict[str, ConfigDict]:
    """Returns the configs of the three runs, by workdir."""
    made = {str(folder / name): tiny.get_config() for name in NAMES}
    made[str(folder / "seed_3")].seed = 3
    made[str(folder / "low_rate")].seed = 4
    made[str(folder / "low_rate")].optimizer.lr /= 2
    return made


def regularised(folder: Path) -> dict[str, ConfigDict]:
    """Returns the configs of three runs with every kind of dropout, by workdir: as it is, with more of each, and with
    another weight decay."""
    made = {str(folder / name): tiny.get_config() for name in ("as_it_is", "drops_more", "decays_more")}
    for config in made.values():
        config.optimizer.name, config.optimizer.weight_decay = "adamw", 0.1
        config.train.average = 0.9
        config.train.steps = 20
        for kind in ("_embedding", "_input", "_recurrent", "_weights", ""):
            config.model[f"dropout{kind}"] = 0.1
    for kind in ("_embedding", "_input", "_recurrent", "_weights", ""):
        made[str(folder / "drops_more")].model[f"dropout{kind}"] = 0.3
    made[str(folder / "decays_more")].optimizer.weight_decay = 1.0
    return made
