"""Seeds that train together are those that train alone, whatever stops them on the way."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath
from ml_collections import ConfigDict

from configs import tiny
from experiments.article_2019 import together
from lovecraft_jax.runtime.errors import DONE, INTERRUPTED, UserError
from lovecraft_jax.training import loop
from lovecraft_jax.training.checkpoint import saved_steps
from lovecraft_jax.training.loop import Training
from tests.helpers.runs import assert_same_run, leaves, rows

SEEDS = 0, 3


def test_a_seed_learns_together_what_it_learns_alone(undisturbed: Path, tmp_path: Path) -> None:
    assert loop.train(configs(tmp_path)[tmp_path / "3"], str(tmp_path), cores=1) == DONE
    alone = leaves(tmp_path)
    for name, leaf in leaves(undisturbed / "3").items():
        np.testing.assert_allclose(leaf, alone[name], rtol=1e-5, atol=1e-6, err_msg=name)
    for row, expected in zip(rows(undisturbed / "3"), rows(tmp_path), strict=True):
        assert (row["step"], row["split"]) == (expected["step"], expected["split"])
        assert row.get("loss", 0.0) == pytest.approx(expected.get("loss", 0.0), rel=1e-5)
    assert rows(undisturbed / "0")[0]["loss"] != pytest.approx(rows(tmp_path)[0]["loss"], rel=1e-3)


def test_told_to_stop_all_save_and_go_on_to_the_same_end(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    after = Training.after

    def stopped(run: Training, step: int, state: object, metrics: dict[str, jax.Array]) -> None:
        if step == 15 and run.config.seed == SEEDS[0]:
            os.kill(os.getpid(), signal.SIGTERM)
        after(run, step, state, metrics)

    monkeypatch.setattr(Training, "after", stopped)
    assert together.train(configs(tmp_path)) == INTERRUPTED
    assert "2 seeds together: interrupted at step 15, saved" in capsys.readouterr().err
    assert [max(saved_steps(epath.Path(workdir))) for workdir in configs(tmp_path)] == [15, 15]
    monkeypatch.undo()
    train(tmp_path)
    for seed in SEEDS:
        assert_same_run(tmp_path / str(seed), undisturbed / str(seed))


def test_runs_at_different_steps_are_left_to_the_loop(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    ahead = configs(tmp_path)[tmp_path / "3"]
    ahead.train.stop_at_step = 5
    assert loop.train(ahead, str(tmp_path / "3"), cores=1) == DONE
    assert together.train(configs(tmp_path)) == DONE
    assert f"{tmp_path}/0, {tmp_path}/3: at different steps" in capsys.readouterr().err
    assert not rows(tmp_path / "0")


def test_a_run_of_another_config_is_refused(undisturbed: Path) -> None:
    others = configs(undisturbed)
    for config in others.values():
        config.model.units = 24
    with pytest.raises(UserError, match="holds a run of another config"):
        together.train(others)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny runs of two seeds, trained together. Read them."""
    folder = tmp_path_factory.mktemp("together")
    train(folder)
    return folder


def train(folder: Path) -> None:
    """Together up to the last step, then the loop for what is left."""
    assert together.train(configs(folder)) == DONE
    for workdir, config in configs(folder).items():
        assert len(rows(workdir)) < 10
        assert loop.train(config, str(workdir), cores=1) == DONE


def configs(folder: Path) -> dict[Path, ConfigDict]:
    """By workdir."""
    made: dict[Path, Callable] = {folder / str(seed): tiny.get_config() for seed in SEEDS}
    for seed, config in zip(SEEDS, made.values(), strict=True):
        config.seed = seed
    return made
