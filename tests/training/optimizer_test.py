"""The schedule, clipping and Adam, against numbers worked out by hand and against numpy."""

import math
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from lovecraft_jax.training.optimizer import learning_rate, make_optimizer, make_schedule
from lovecraft_jax.training.state import TrainState
from lovecraft_jax.training.step import Sums, make_update


def test_cosine_rises_from_zero_to_the_peak_and_falls_to_its_end(config: ConfigDict) -> None:
    share = make_schedule(settings(config, schedule="cosine", warmup=4, end=0.1), total_steps=12)
    # Warmup is steps 0 to 4, the cosine steps 4 to 12; step 11 is the last one taken.
    by_hand = {0: 0.0, 1: 0.25, 2: 0.5, 4: 1.0, 6: 0.1 + 0.9 * (2 + math.sqrt(2)) / 4, 8: 0.55, 11: 0.134254, 12: 0.1}
    assert {step: float(share(step)) for step in by_hand} == pytest.approx(by_hand, rel=1e-5)


def test_constant_stays_at_the_peak_after_the_warmup(config: ConfigDict) -> None:
    share = make_schedule(settings(config, schedule="constant", warmup=4), total_steps=12)
    assert [float(share(step)) for step in (0, 1, 2, 4, 5, 11)] == [0, 0.25, 0.5, 1, 1, 1]


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_without_warmup_the_first_step_has_the_peak(config: ConfigDict, schedule: str) -> None:
    share = make_schedule(settings(config, schedule=schedule, warmup=0), total_steps=12)
    assert float(share(0)) == 1


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_a_warmup_longer_than_the_run_ends_with_it(config: ConfigDict, schedule: str) -> None:
    share = make_schedule(settings(config, schedule=schedule, warmup=1000), total_steps=4)
    assert [float(share(step)) for step in range(4)] == [0, 0.25, 0.5, 0.75]


def test_first_step_by_hand(config: ConfigDict) -> None:
    # The norm of (3, 4) is 5, clipped to 1: (0.6, 0.8). Adam's first moments, their bias corrected, are the gradient
    # itself and its square, so a step is -lr g / (|g| + eps): -0.2 (0.6/1, 0.8/1.2).
    (first,) = updates(settings(config, eps=0.4, lr=0.2, warmup=0, clip=1.0), [{"a": 3.0, "b": 4.0}])
    assert first == pytest.approx({"a": -0.12, "b": -0.2 * 0.8 / 1.2}, rel=1e-5)


def test_steps_equal_clipping_and_adam_in_numpy(config: ConfigDict) -> None:
    section = settings(config, lr=0.2, eps=0.1, beta1=0.8, beta2=0.95, clip=1.0, warmup=2, schedule="constant")
    grads = [{"a": 3.0, "b": -4.0}, {"a": 0.3, "b": 0.4}, {"a": -6.0, "b": 8.0}, {"a": 0.1, "b": 0.0}]
    m, v, expected = np.zeros(2), np.zeros(2), []
    for n, grad in enumerate(grads, start=1):
        g = np.array([grad["a"], grad["b"]])
        g = g / max(1.0, np.linalg.norm(g))  # (0.3, 0.4) and (0.1, 0) are shorter than 1, and stay
        m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g**2
        share = [0, 0.5, 1, 1][n - 1]
        a, b = -0.2 * share * (m / (1 - 0.8**n)) / (np.sqrt(v / (1 - 0.95**n)) + 0.1)
        expected.append({"a": a, "b": b})
    for actual, by_hand in zip(updates(section, grads), expected, strict=True):
        assert actual == pytest.approx(by_hand, rel=1e-4)


def test_without_a_clip_the_gradient_is_whole(config: ConfigDict) -> None:
    (first,) = updates(settings(config, eps=1.0, lr=0.2, warmup=0, clip=0.0), [{"a": 3.0, "b": 4.0}])
    assert first == pytest.approx({"a": -0.2 * 3 / (3 + 1), "b": -0.2 * 4 / (4 + 1)}, rel=1e-5)


def test_eps_hat_is_added_before_the_bias_is_corrected(config: ConfigDict) -> None:
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


def test_the_learning_rate_is_a_leaf_and_another_needs_no_new_compile(config: ConfigDict) -> None:
    section = settings(config, lr=0.25, warmup=0, eps=0.4)
    optimizer = make_optimizer(section, total_steps=10)
    params = {"a": jnp.float32(0.0), "b": jnp.float32(0.0)}
    grads = {"a": jnp.float32(0.6), "b": jnp.float32(0.8)}
    update = jax.jit(optimizer.adam.update)
    state = jax.jit(optimizer.adam.init)(params)
    once, _ = update(grads, state, params)
    thrice, after = update(grads, with_rate(state, 0.75), params)
    assert as_floats(thrice) == pytest.approx({name: 3 * float(value) for name, value in once.items()}, rel=1e-5)
    assert update._cache_size() == 1
    assert float(learning_rate(after, make_schedule(section, 10), jnp.int32(0))) == 0.75

    rates = jnp.array([0.25, 0.75])
    both = jax.vmap(lambda rate: optimizer.adam.update(grads, with_rate(state, rate), params)[0])(rates)
    assert as_floats(both, 0) == pytest.approx(as_floats(once), rel=1e-5)
    assert as_floats(both, 1) == pytest.approx(as_floats(thrice), rel=1e-5)


def test_the_reported_rate_is_the_one_that_the_step_uses(config: ConfigDict) -> None:
    section = settings(config, lr=0.2, warmup=4, end=0.1, schedule="cosine")
    state = make_optimizer(section, total_steps=12).adam.init({"a": jnp.float32(0.0)})
    reported = [float(learning_rate(state, make_schedule(section, 12), jnp.int32(step))) for step in (0, 2, 4, 8)]
    assert reported == pytest.approx([0, 0.1, 0.2, 0.11], rel=1e-5)


def settings(config: ConfigDict, **changes: Any) -> ConfigDict:
    config.optimizer.update(changes)
    return config.optimizer


def updates(section: ConfigDict, grads: list[dict[str, float]]) -> list[dict[str, float]]:
    """What each of a row of mean gradients adds to the parameters."""
    optimizer = make_optimizer(section, total_steps=100)
    update = jax.jit(make_update(optimizer))
    params = {"a": jnp.float32(0.0), "b": jnp.float32(0.0)}
    state = TrainState(jnp.int32(0), {"params": params}, optimizer.adam.init(params), (), jax.random.key(0))
    changes = []
    for grad in grads:
        sums = Sums(jnp.float32(1), jnp.float32(2), {name: jnp.float32(2 * value) for name, value in grad.items()})
        before, (state, _) = state, update(state, sums, jnp.bool_(True))
        change = jax.tree.map(operator.sub, state.variables["params"], before.variables["params"])
        changes.append(as_floats(change))
    return changes


def with_rate(state: optax.OptState, rate: float | jax.Array) -> optax.OptState:
    return optax.tree.set(state, learning_rate=jnp.asarray(rate, jnp.float32))


def as_floats(tree: Any, row: int | None = None) -> dict[str, float]:
    return {name: float(leaf if row is None else leaf[row]) for name, leaf in tree.items()}
