"""The loss and the training step: weights, resets, gradients, norms, steps that are not finite, and learning."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from configs import tiny
from lovecraft_jax.config import Config
from lovecraft_jax.data.batches import Batch
from lovecraft_jax.model.dropout import NO_DROPOUT, DropoutRates
from lovecraft_jax.model.lm import make_model
from lovecraft_jax.runtime.errors import UserError
from lovecraft_jax.training.compiled import Program, make_program
from lovecraft_jax.training.state import TrainState
from lovecraft_jax.training.step import make_gradient
from tests.helpers.trees import assert_close, on_host
from tests.helpers.untrained import random_variables

pytestmark = pytest.mark.usefixtures("unoptimized")

V, B, T, TOTAL = 11, 8, 6, 100
RATES = DropoutRates.of(Config.of(tiny.get_config()).model)


def small() -> ConfigDict:
    """One layer, dropout on, no warmup, and no clipping, so that Adam's first moment is the gradient itself."""
    config = tiny.get_config()
    config.model.update({"layers": 1, "embed": 0})
    config.optimizer.update({"warmup": 0, "clip": 1e9})
    return config


@pytest.fixture(scope="module")
def program() -> Program:
    """Dispatches of two steps over eight devices."""
    return make_program(small(), V, TOTAL)


@pytest.fixture
def start(program: Program) -> TrainState:
    """A state at step 3 whose carry is not zero."""
    state = program.init(0)
    rng = np.random.default_rng(0)
    drawn = lambda leaf: jax.device_put(rng.normal(size=leaf.shape).astype(np.float32), leaf.sharding)  # noqa: E731
    return state.replace(carry=jax.tree.map(drawn, state.carry), step=state.step + 3)


@pytest.mark.slow
def test_a_row_that_restarts_does_not_depend_on_its_carry(program: Program, start: TrainState) -> None:
    reset_B = np.arange(B) % 3 == 0
    given = two(batch(0)._replace(reset_B=reset_B), batch(1))

    def after(carry_of_reset: float, carry_of_rest: float) -> Any:
        added = jnp.where(reset_B, carry_of_reset, carry_of_rest)[:, None]
        return on_host(train(program, copy(start, carry=jax.tree.map(lambda c: c + added, start.carry)), given))

    expected = after(0.0, 0.0)
    jax.tree.map(np.testing.assert_array_equal, after(np.nan, 0.0), expected)
    assert after(0.0, 1.0)[1]["loss"][0] != expected[1]["loss"][0]


@pytest.mark.slow
def test_loss_and_gradient_are_the_weighted_mean_over_all_rows(program: Program, start: TrainState) -> None:
    model = program.model
    weight_BT = np.random.default_rng(3).integers(3, size=(B, T), dtype=np.uint8)
    weight_BT[4:] = 0  # four devices of eight without any weight
    given = batch(0)._replace(weight_BT=weight_BT)
    masks = model.dropout_masks(jax.random.fold_in(start.rng, 3), RATES, B)

    def mean(params: Any) -> jax.Array:
        _, logits_BTV = model.apply({"params": params}, start.carry, given.x_BT.astype(np.int32), masks)
        picked = jax.nn.one_hot(given.y_BT, V) * jax.nn.log_softmax(logits_BTV)
        return -jnp.sum(picked.sum(axis=-1) * weight_BT.astype(np.float32)) / float(weight_BT.sum())

    loss, grads = jax.jit(jax.value_and_grad(mean))(jax.device_get(start.variables["params"]))
    state, metrics = train(program, start, two(given, DEAD))
    assert_close(metrics["loss"][0], loss)
    assert_close(metrics["grad_norm"][0], optax.tree.norm(grads))
    moments = optax.tree.get(state.opt_state, "mu")
    assert_close(moments, jax.tree.map(lambda grad: (1 - small().optimizer.beta1) * grad, grads))


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"embed": 0}, {"embed": 16, "skip": True, "dropout_input": 0.2}])
def test_on_a_gpu_the_same_gradient_comes_without_a_scatter_whose_order_varies(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small()
    config.model.update(settings | {"layers": 2, "backend": "fused"})
    model = make_model(Config.of(config), V)
    arguments = random_variables(model, 0.3), model.initial_carry(B), batch(0), NO_DROPOUT
    gradient = make_gradient(model)
    on_gpu = jax.jit(gradient).trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()
    assert "dot_general" in on_gpu
    assert "scatter" not in on_gpu
    expected = jax.jit(gradient)(*arguments)
    on_cuda = lambda *operands, default, cuda=None, **_: (cuda or default)(*operands)  # noqa: E731
    monkeypatch.setattr(jax.lax, "platform_dependent", on_cuda)
    assert_close(jax.jit(make_gradient(model))(*arguments), expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "norm", "loss"),
    [
        ("scan", "layer", "cross_entropy"),
        ("fused", "none", "cross_entropy"),
        ("native", "none", "binary_cross_entropy"),
    ],
)
def test_remat_gives_the_same_sums_gradient_and_carry(backend: str, norm: str, loss: str) -> None:
    config = small()
    config.update_from_flattened_dict({"model.layers": 2, "model.norm": norm, "train.loss": loss})
    rng, draw_masks = np.random.default_rng(0), jax.jit(lambda: model.dropout_masks(jax.random.key(2), RATES, B))
    given = batch(0)._replace(weight_BT=rng.integers(3, size=(B, T), dtype=np.uint8), reset_B=np.arange(B) % 3 == 0)
    results = []
    for remat in (0, 2):
        config.model.remat = remat
        model = make_model(config, V, backend)
        carry = jax.tree.map(
            lambda leaf: np.cos(np.arange(leaf.size, dtype=np.float32)).reshape(leaf.shape), model.initial_carry(B)
        )
        results.append(jax.jit(make_gradient(model))(random_variables(model, 0.3), carry, given, draw_masks()))
    assert_close(on_host(results[1]), on_host(results[0]))


def test_no_step_is_made_from_the_first_that_is_not_finite_on(program: Program, start: TrainState) -> None:
    before = on_host(start)
    state, metrics = train(program, copy(start), two(DEAD, batch(0)))
    jax.tree.map(np.testing.assert_array_equal, on_host(state), before)
    assert metrics["finite"].tolist() == [False, True]

    # Batches 0, 1, 2, with and without a step that is not finite after the first.
    state, metrics = train(program, copy(start), two(batch(0), DEAD))
    assert (int(state.step), metrics["finite"].tolist()) == (3 + 1, [True, False])
    state, _ = train(program, state, two(batch(1), batch(2)))
    expected, _ = train(program, copy(start), two(batch(0), batch(1)))
    expected, _ = train(program, expected, two(batch(2), DEAD))
    jax.tree.map(np.testing.assert_array_equal, on_host(state), on_host(expected))


@pytest.mark.parametrize(("size", "finite_loss"), [(np.nan, False), (1e20, True)])
def test_no_step_is_made_where_the_gradient_is_not_finite(
    program: Program, start: TrainState, size: float, finite_loss: bool
) -> None:
    params = start.variables["params"]
    overflowing = copy(start, variables={"params": params | {"head_kernel": params["head_kernel"] * size}})
    before = on_host(overflowing)
    state, metrics = train(program, overflowing, two(batch(0), batch(1)))
    assert np.isfinite(metrics["loss"]).tolist() == [finite_loss] * 2
    assert np.isfinite(metrics["grad_norm"]).tolist() == [False] * 2
    assert metrics["finite"].tolist() == [False] * 2
    jax.tree.map(np.testing.assert_array_equal, on_host(state), before)


def test_an_update_that_is_not_finite_is_reported_and_no_step_follows(program: Program, start: TrainState) -> None:
    rate = start.opt_state[0].hyperparams["learning_rate"]
    overflowing = copy(start, opt_state=optax.tree.set(start.opt_state, learning_rate=rate * np.inf))
    state, metrics = train(program, overflowing, two(batch(0), batch(1)))
    assert np.isfinite(metrics["loss"][0])
    assert np.isfinite(metrics["grad_norm"][0])
    assert metrics["finite"].tolist() == [False] * 2
    assert int(state.step) == 3 + 1


@pytest.mark.slow
def test_a_step_that_is_not_finite_does_not_change_the_statistics_of_a_norm() -> None:
    config = small()
    config.model.norm = "batch"
    normed = make_program(config, V, TOTAL)
    before = on_host(normed.init(0))
    state, metrics = train(normed, normed.init(0), two(DEAD, batch(0)))
    assert metrics["finite"].tolist() == [False, True]
    jax.tree.map(np.testing.assert_array_equal, on_host(state), before)
    state, _ = train(normed, normed.init(0), two(batch(0), DEAD))
    for leaf, first in zip(*(jax.tree.leaves(of.variables["batch_stats"]) for of in (state, before)), strict=True):
        assert np.all(leaf != first)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.norm": "layer", "model.backend": "native"}, "model.backend='native' with norm='layer'"),
        ({"model.norm": "batch", "model.backend": "fused"}, "model.backend='fused' with norm='batch'"),
        ({"model.norm": "batch_input", "model.remat": 4}, "model.remat=4 with norm='batch_input'"),
        ({"optimizer.weight_decay": 0.1}, "weight_decay=0.1 with name='adam': only adamw decays weights"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes: dict[str, Any], message: str) -> None:
    config = tiny.get_config()
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=message):
        Config.of(config)


@pytest.mark.slow
def test_one_line_can_be_memorised() -> None:
    line = np.frombuffer(b"\nIn his house at R'lyeh dead Cthulhu waits dreaming.\n", np.uint8)
    config = small()
    config.model.update({"units": 32, "dropout": 0.0, "dropout_input": 0.0})
    config.optimizer.update({"lr": 0.02, "clip": 1.0})
    config.data.batch_size = 1
    program = make_program(config, 128, total_steps=200)
    once = Batch(line[None, :-1], line[None, 1:], np.ones((1, len(line) - 1), np.uint8), np.ones(1, bool))
    _, metrics = train(program, program.init(0), Batch(*(np.repeat(part[None], 200, 0) for part in once)))
    assert metrics["loss"][0] > 4  # nats: near log 128
    assert metrics["loss"][-1] < 0.1


def batch(seed: int) -> Batch:
    tokens = np.random.default_rng(seed).integers(V, size=(B, T + 1), dtype=np.uint8)
    return Batch(tokens[:, :-1], tokens[:, 1:], np.ones((B, T), np.uint8), np.zeros(B, bool))


DEAD = batch(9)._replace(weight_BT=np.zeros((B, T), np.uint8))
"""A batch without any weight, whose mean loss is 0 / 0."""


def two(first: Batch, second: Batch) -> Batch:
    """Returns the batches of one dispatch."""
    return Batch(*map(np.stack, zip(first, second, strict=True)))


def train(program: Program, state: TrainState, batches: Batch) -> tuple[TrainState, Any]:
    """Runs one dispatch."""
    return program.train_steps(state, program.put(batches))


def copy(state: TrainState, **changes: Any) -> TrainState:
    """Returns a copy, for a call that donates it."""
    return jax.tree.map(jnp.copy, state.replace(**changes))
