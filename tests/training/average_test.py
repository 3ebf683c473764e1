"""Averaged weights: the exponential moving average of a run's weights, which its scores and samples use."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import tiny
from lovecraft_jax.data.batches import Batch
from lovecraft_jax.run import load_run
from lovecraft_jax.training import loop
from lovecraft_jax.training.checkpoint import Checkpoints
from lovecraft_jax.training.compiled import make_program
from tests.helpers.runs import rows
from tests.helpers.trees import assert_close, on_host

pytestmark = pytest.mark.usefixtures("unoptimized")

V, DECAY = 11, 0.2


@pytest.mark.parametrize("norm", ["none", pytest.param("batch", marks=pytest.mark.slow)])
def test_the_average_moves_a_share_of_the_way_to_the_weights_after_each_step(norm: str) -> None:
    config = tiny.get_config()
    config.model.update({"layers": 1, "norm": norm})
    config.optimizer.warmup = 0  # else the first learning rate is 0
    config.train.average = DECAY
    program = make_program(config, V, total_steps=100)
    state = program.init(0)
    average = on_host(state.variables)
    jax.tree.map(np.testing.assert_array_equal, on_host(state.average), average)
    for decay in (1 / 10, 2 / 11, DECAY, DECAY):  # 3 / 12 and 4 / 13 would be more
        state, _ = program.train_steps(state, program.put(batch(int(state.step))))
        now = on_host(state.variables)
        average = jax.tree.map(lambda old, new, decay=decay: decay * old + (1 - decay) * new, average, now)
        assert_close(on_host(state.average), average)
        assert all(np.any(old != new) for old, new in zip(*map(jax.tree.leaves, (average, now)), strict=True))
    assert state.scored is state.average


@pytest.mark.slow
def test_scores_and_a_loaded_run_use_the_averaged_weights(config: ConfigDict, tmp_path: Path) -> None:
    config.model.layers = 1
    config.train.update({"steps": 10, "eval_every": 10, "average": 0.9})
    loop.train(config, str(tmp_path))
    run = load_run(tmp_path)
    program = make_program(run.config, run.tokenizer.size, total_steps=10)
    checkpoints = Checkpoints(run.workdir, read_only=True)
    state = checkpoints.restore(10, program.target).state
    checkpoints.close()
    jax.tree.map(np.testing.assert_array_equal, on_host(run.variables), on_host(state.average))
    averaged = run.score(run.split("valid")).bpc
    final = [row["bpc"] for row in rows(tmp_path) if row["split"] == "valid"]
    assert final == pytest.approx([averaged] * 2, rel=1e-4)  # scheduled and final
    raw = dataclasses.replace(run, variables=on_host(state.variables))
    assert abs(raw.score(raw.split("valid")).bpc - averaged) > 0.005


def batch(seed: int) -> Batch:
    """The batches [1, 8, 6] of a dispatch of one step."""
    ids = np.random.default_rng(seed).integers(V, size=(1, 8, 7), dtype=np.uint8)
    return Batch(ids[..., :-1], ids[..., 1:], np.ones((1, 8, 6), np.uint8), np.zeros((1, 8), bool))
