"""The schedule, clipping and the update rules, against numbers worked out by hand, against numpy and against optax."""

import math
import operator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from lovecraft_jax.config import Config
from lovecraft_jax.data.batches import Batch
from lovecraft_jax.runtime.errors import DONE, UserError
from lovecraft_jax.training import loop
from lovecraft_jax.training.compiled import make_program
from lovecraft_jax.training.optimizer import learning_rate, make_optimizer, make_schedule
from lovecraft_jax.training.state import TrainState
from lovecraft_jax.training.step import Sums, make_update
from tests.helpers.runs import assert_same_run


def test_cosine_rises_from_zero_to_the_peak_and_falls_to_its_end(config: ConfigDict) -> None:
    schedule = make_schedule(settings(config, schedule="cosine", warmup=4, end=0.1), total_steps=12)
    # Warmup is steps 0 to 4, the cosine steps 4 to 12; step 11 is the last one taken.
    by_hand = {0: 0.0, 1: 0.25, 2: 0.5, 4: 1.0, 6: 0.1 + 0.9 * (2 + math.sqrt(2)) / 4, 8: 0.55, 11: 0.134254, 12: 0.1}
    assert {step: float(schedule(step)) for step in by_hand} == pytest.approx(by_hand, rel=1e-5)


def test_constant_stays_at_the_peak_after_the_warmup(config: ConfigDict) -> None:
    schedule = make_schedule(settings(config, schedule="constant", warmup=4), total_steps=12)
    assert [float(schedule(step)) for step in (0, 1, 2, 4, 5, 11)] == [0, 0.25, 0.5, 1, 1, 1]


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_without_warmup_the_first_step_has_the_peak(config: ConfigDict, schedule: str) -> None:
    assert float(make_schedule(settings(config, schedule=schedule, warmup=0), total_steps=12)(0)) == 1


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_a_warmup_longer_than_the_run_ends_with_it(config: ConfigDict, schedule: str) -> None:
    long = make_schedule(settings(config, schedule=schedule, warmup=1000), total_steps=4)
    assert [float(long(step)) for step in range(4)] == [0, 0.25, 0.5, 0.75]


def test_adam_first_step_by_hand(config: ConfigDict) -> None:
    # The norm of (3, 4) is 5, clipped to 1: (0.6, 0.8). Adam's first moments, their bias corrected, are the gradient
    # itself and its square, so a step is -lr g / (|g| + eps): -0.2 (0.6/1, 0.8/1.2).
    (first,) = updates(settings(config, eps=0.4, lr=0.2, warmup=0, clip=1.0), [{"a": 3.0, "b": 4.0}])
    assert first == pytest.approx({"a": -0.12, "b": -0.2 * 0.8 / 1.2}, rel=1e-5)


def test_adam_with_clipping_equals_numpy(config: ConfigDict) -> None:
    section = settings(config, lr=0.2, eps=0.1, beta1=0.8, beta2=0.95, clip=1.0, warmup=2, schedule="constant")
    grads = [{"a": 3.0, "b": -4.0}, {"a": 0.3, "b": 0.4}, {"a": -6.0, "b": 8.0}, {"a": 0.1, "b": 0.0}]
    m, v, expected = np.zeros(2), np.zeros(2), []
    for n, grad in enumerate(grads, start=1):
        g = np.array([grad["a"], grad["b"]])
        g = g / max(1.0, np.linalg.norm(g))  # (0.3, 0.4) and (0.1, 0) are shorter than 1, and stay
        m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g**2
        rate = 0.2 * [0, 0.5, 1, 1][n - 1]
        a, b = -rate * (m / (1 - 0.8**n)) / (np.sqrt(v / (1 - 0.95**n)) + 0.1)
        expected.append({"a": a, "b": b})
    for actual, by_hand in zip(updates(section, grads), expected, strict=True):
        assert actual == pytest.approx(by_hand, rel=1e-4)


def test_without_clipping_the_gradient_is_used_as_it_is(config: ConfigDict) -> None:
    (first,) = updates(settings(config, eps=1.0, lr=0.2, warmup=0, clip=0.0), [{"a": 3.0, "b": 4.0}])
    assert first == pytest.approx({"a": -0.2 * 3 / (3 + 1), "b": -0.2 * 4 / (4 + 1)}, rel=1e-5)


def test_eps_hat_is_added_before_the_bias_correction(config: ConfigDict) -> None:
    section = settings(config, lr=0.2, eps=0.1, beta1=0.8, beta2=0.95, clip=0.0, warmup=0, schedule="constant")
    section.eps_hat = True
    m = v = 0.0
    expected = []
    for n, g in enumerate((3.0, -0.5, 0.1), start=1):
        m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g**2
        rate = 0.2 * math.sqrt(1 - 0.95**n) / (1 - 0.8**n)  # as Kingma and Ba 2015 put it last in section 2
        expected.append(-rate * m / (math.sqrt(v) + 0.1))
    actual = updates(section, [{"a": g, "b": 0.0} for g in (3.0, -0.5, 0.1)])
    assert [step["a"] for step in actual] == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("eps_hat", [False, True])
def test_adamw_decays_matrices_and_nothing_else(config: ConfigDict, eps_hat: bool) -> None:
    section = settings(config, lr=0.2, warmup=2, schedule="cosine", clip=0.0, eps_hat=eps_hat)
    params = {"kernel": np.full((2, 3), 4.0, np.float32), "bias": np.full(3, 4.0, np.float32)}
    grads = {"kernel": np.full((2, 3), 0.5, np.float32), "bias": np.full(3, -0.5, np.float32)}
    adam = parameters_after(section, params, grads, steps=1, opt_step=2)
    adamw = parameters_after(settings(config, name="adamw", weight_decay=0.1), params, grads, steps=1, opt_step=2)
    np.testing.assert_array_equal(adamw["bias"], adam["bias"])
    # At the peak: lr * weight_decay * parameter.
    np.testing.assert_allclose(adam["kernel"] - adamw["kernel"], np.full((2, 3), 0.2 * 0.1 * 4.0), rtol=1e-5)


def test_adamw_equals_optax_with_a_mask_and_a_schedule(config: ConfigDict) -> None:
    section = settings(config, name="adamw", lr=0.2, weight_decay=0.1, warmup=2, schedule="cosine", clip=0.0)
    rng = np.random.default_rng(0)
    params = {"kernel": rng.normal(size=(2, 3)).astype(np.float32), "bias": rng.normal(size=3).astype(np.float32)}
    grads = jax.tree.map(lambda leaf: np.cos(leaf), params)
    schedule, mask = make_schedule(section, 100), {"kernel": True, "bias": False}
    reference = optax.adamw(
        lambda count: 0.2 * schedule(count), section.beta1, section.beta2, section.eps, weight_decay=0.1, mask=mask
    )
    expected, opt_state = params, reference.init(params)
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(5):
            changes, opt_state = reference.update(grads, opt_state, expected)
            expected = optax.apply_updates(expected, changes)
    for name, leaf in parameters_after(section, params, grads, steps=5).items():
        np.testing.assert_allclose(leaf, expected[name], rtol=1e-5, err_msg=name)


def test_sgd_has_the_momentum_beta1_by_hand(config: ConfigDict) -> None:
    section = settings(config, name="sgd", lr=0.5, beta1=0.8, warmup=0, schedule="constant", clip=0.0)
    # The velocity is g, then 0.8 velocity + g: 2, 0.8 * 2 + 1 = 2.6, 0.8 * 2.6 - 3 = -0.92. A step is -0.5 of it.
    steps = updates(section, [{"a": 2.0, "b": 0.0}, {"a": 1.0, "b": 0.0}, {"a": -3.0, "b": 1.0}])
    assert [step["a"] for step in steps] == pytest.approx([-1.0, -1.3, 0.46], rel=1e-5)
    assert [step["b"] for step in steps] == pytest.approx([0.0, 0.0, -0.5])
    section.beta1 = 0.0
    steps = updates(section, [{"a": 2.0, "b": 0.0}, {"a": 1.0, "b": 0.0}])
    assert [step["a"] for step in steps] == pytest.approx([-1.0, -0.5], rel=1e-5)


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_weight_decay_without_adamw_is_refused(config: ConfigDict, name: str) -> None:
    settings(config, name=name, weight_decay=0.01)
    with pytest.raises(UserError, match=rf"weight_decay=0.01 with name='{name}': only adamw decays weights"):
        Config.of(config)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_learning_rates_share_one_compiled_update(config: ConfigDict, name: str) -> None:
    section = settings(config, name=name, lr=0.25, warmup=0, eps=0.4)
    optimizer = make_optimizer(section, total_steps=10)
    params = {"a": jnp.float32(0.0), "b": jnp.float32(0.0)}
    grads = {"a": jnp.float32(0.6), "b": jnp.float32(0.8)}
    update = jax.jit(optimizer.transform.update)
    state = jax.jit(optimizer.transform.init)(params)
    once, _ = update(grads, state, params)
    thrice, after = update(grads, with_rate(state, 0.75), params)
    assert as_floats(thrice) == pytest.approx({name: 3 * float(value) for name, value in once.items()}, rel=1e-5)
    assert update._cache_size() == 1
    assert float(learning_rate(after, make_schedule(section, 10), jnp.int32(0))) == 0.75

    rates = jnp.array([0.25, 0.75])
    both = jax.vmap(lambda rate: optimizer.transform.update(grads, with_rate(state, rate), params)[0])(rates)
    assert as_floats(both, 0) == pytest.approx(as_floats(once), rel=1e-5)
    assert as_floats(both, 1) == pytest.approx(as_floats(thrice), rel=1e-5)


def test_the_reported_learning_rate_is_the_one_that_the_step_uses(config: ConfigDict) -> None:
    section = settings(config, lr=0.2, warmup=4, end=0.1, schedule="cosine")
    state = make_optimizer(section, total_steps=12).transform.init({"a": jnp.float32(0.0)})
    reported = [float(learning_rate(state, make_schedule(section, 12), jnp.int32(step))) for step in (0, 2, 4, 8)]
    assert reported == pytest.approx([0, 0.1, 0.2, 0.11], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "weight_decay"), [("adamw", 0.1), ("sgd", 0.0)])
def test_every_update_rule_resumes_bit_for_bit(
    config: ConfigDict, name: str, weight_decay: float, tmp_path: Path
) -> None:
    config.optimizer.update({"name": name, "weight_decay": weight_decay})
    assert loop.train(config, str(tmp_path / "whole"), cores=1) == DONE
    for stop_at_step in (20, 0):
        config.train.stop_at_step = stop_at_step
        assert loop.train(config, str(tmp_path / "halves"), cores=1) == DONE
    assert_same_run(tmp_path / "halves", tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "weight_decay"), [("adamw", 0.1), ("sgd", 0.0)])
def test_every_update_rule_trains_on_two_cores_as_on_one(config: ConfigDict, name: str, weight_decay: float) -> None:
    config.optimizer.update({"name": name, "weight_decay": weight_decay})
    tokens = np.random.default_rng(0).integers(11, size=(4, 8, 9), dtype=np.uint8)
    batches = Batch(tokens[..., :-1], tokens[..., 1:], np.ones((4, 8, 8), np.uint8), np.zeros((4, 8), bool))
    results = []
    for cores in (1, 2):
        program = make_program(Config.of(config), 11, 40, cores)
        state, _ = program.train_steps(program.init(0), program.put(batches))
        results.append(jax.device_get(state.variables["params"]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *results)


def settings(config: ConfigDict, **changes: Any) -> ConfigDict:
    config.optimizer.update(changes)
    return config.optimizer


def updates(section: ConfigDict, grads: list[dict[str, float]]) -> list[dict[str, float]]:
    """Returns what each of a sequence of mean gradients adds to two scalar parameters."""
    optimizer = make_optimizer(section, total_steps=100)
    update = jax.jit(make_update(optimizer))
    params = {"a": jnp.float32(0.0), "b": jnp.float32(0.0)}
    state = TrainState(jnp.int32(0), {"params": params}, optimizer.transform.init(params), (), jax.random.key(0))
    changes = []
    for grad in grads:
        sums = Sums(jnp.float32(1), jnp.float32(2), {name: jnp.float32(2 * value) for name, value in grad.items()})
        before, (state, _) = state, update(state, sums, (), {}, jnp.bool_(True))
        change = jax.tree.map(operator.sub, state.variables["params"], before.variables["params"])
        changes.append(as_floats(change))
    return changes


def parameters_after(section: ConfigDict, params: Any, grads: Any, steps: int, opt_step: int = 0) -> Any:
    """Returns the parameters after `steps` updates by the same gradient, the schedule starting at `opt_step`."""
    transform = make_optimizer(section, total_steps=100).transform
    opt_state = transform.init(params)
    opt_state = (opt_state[0], opt_state[1]._replace(count=jnp.int32(opt_step)))
    for _ in range(steps):
        changes, opt_state = transform.update(grads, opt_state, params)
        params = optax.apply_updates(params, changes)
    return params


def with_rate(state: optax.OptState, rate: float | jax.Array) -> optax.OptState:
    return optax.tree.set(state, learning_rate=jnp.asarray(rate, jnp.float32))


def as_floats(tree: Any, row: int | None = None) -> dict[str, float]:
    return {name: float(leaf if row is None else leaf[row]) for name, leaf in tree.items()}
