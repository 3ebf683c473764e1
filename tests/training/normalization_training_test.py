"""Training with normalisation: stacked seeds, resuming, devices, and the combinations that are refused."""

import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from lovecraft_jax.config import NORMS_OF_BATCH, Config
from lovecraft_jax.data.batches import Batch
from lovecraft_jax.model.dropout import NO_DROPOUT, DropoutRates
from lovecraft_jax.runtime.errors import UserError
from lovecraft_jax.runtime.mesh import make_mesh
from lovecraft_jax.training.checkpoint import Checkpoints
from lovecraft_jax.training.compiled import Program, make_program
from lovecraft_jax.training.cpu_devices import best_core_count
from lovecraft_jax.training.optimizer import make_optimizer
from lovecraft_jax.training.state import TrainState
from lovecraft_jax.training.step import make_gradient, make_train_step
from tests.helpers.normed import B, T, V, batch, drawn, settings_of
from tests.helpers.trees import assert_close, on_host

pytestmark = pytest.mark.slow

TOTAL = 100


@pytest.fixture(scope="module", params=NORMS_OF_BATCH)
def program(request: pytest.FixtureRequest) -> Program:
    """Dispatches of two steps over eight devices."""
    return make_program(settings_of(request.param), V, TOTAL)


def test_two_seeds_stacked_on_one_device_equal_each_alone_on_eight(program: Program) -> None:
    rates = DropoutRates.of(Config.of(settings_of("batch")).model)
    optimizer, device = make_optimizer(settings_of("batch").optimizer, TOTAL), jax.devices()[0]
    train_step = make_train_step(program.model, optimizer, make_mesh(B, [device]))
    states = jax.device_put([program.init(seed) for seed in (0, 1)], device)
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    step = jax.jit(jax.vmap(train_step, in_axes=(0, None, None, None)))
    for n in (0, 1):
        both, _ = step(both, batch(n), np.True_, rates)
    alone = [train(program, program.init(seed), batch(0), batch(1))[0] for seed in (0, 1)]
    # Adam amplifies rounding where a gradient is nearly zero, as for a shift that the normalisation subtracts again.
    expected = jax.tree.map(lambda *leaves: np.stack(leaves), *map(on_host, alone))
    assert_close(on_host(both), expected, relative=1e-4)


def test_a_step_that_is_not_finite_does_not_change_the_statistics(program: Program) -> None:
    before = on_host(program.init(0))
    dead = batch(9)._replace(weight_BT=np.zeros((B, T), np.uint8))  # 0 / 0
    state, metrics = train(program, program.init(0), dead, batch(0))
    assert metrics["finite"].tolist() == [False, True]
    jax.tree.map(np.testing.assert_array_equal, on_host(state), before)
    state, _ = train(program, program.init(0), batch(0), dead)
    for leaf, first in zip(*(jax.tree.leaves(of.variables["batch_stats"]) for of in (state, before)), strict=True):
        assert np.all(leaf != first)


def test_training_resumes_from_a_checkpoint_bit_for_bit(program: Program, tmp_path: Path) -> None:
    state, _ = train(program, program.init(0), batch(0), batch(1))
    checkpoints = Checkpoints(epath.Path(tmp_path))
    checkpoints.save(2, state, {})
    restored = checkpoints.restore_newest(program.target)
    checkpoints.close()
    assert restored is not None
    states = [on_host(train(program, start, batch(2), batch(3))[0]) for start in (restored.state, state)]
    jax.tree.map(np.testing.assert_array_equal, *states)


def test_remat_gives_the_same_gradient_with_layer_norm() -> None:
    results = []
    for remat in (0, 1):
        model, variables = drawn("layer", remat=remat)
        results.append(jax.jit(make_gradient(model))(variables, model.initial_carry(B), batch(0), NO_DROPOUT))
    assert_close(*map(on_host, results))


@pytest.mark.parametrize(
    ("norm", "key", "value"),
    [
        ("layer", "backend", "native"),
        ("batch", "backend", "fused"),
        ("batch_input", "backend", "cudnn"),
        ("batch_input", "remat", 4),
        ("batch", "remat", 4),
    ],
)
def test_settings_that_do_not_go_with_a_norm_are_refused(norm: str, key: str, value: Any) -> None:
    Config.of(settings_of(norm))
    with pytest.raises(UserError, match=f"config.model.{key}={value!r} with norm={norm!r}"):
        Config.of(settings_of(norm, **{f"model.{key}": value}))


def test_batch_norms_take_one_device_of_a_cpu_or_a_collective(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    config = settings_of("batch", **{"model.units": 150, "data.batch_size": 64, "data.seq_len": 50})
    assert best_core_count(config) == 1
    config.model.norm = "layer"
    assert best_core_count(config) == 6
    config.model.norm = "batch"
    with pytest.raises(UserError, match="norm='batch' on 2 cores"):
        make_program(config, V, TOTAL, cores=2)
    assert make_program(settings_of("layer"), V, TOTAL, cores=2).model.backend == "scan"


def train(program: Program, state: TrainState, *batches: Batch) -> tuple[TrainState, Any]:
    """Runs one dispatch."""
    return program.train_steps(state, program.put(Batch(*map(np.stack, zip(*batches, strict=True)))))
