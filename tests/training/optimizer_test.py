"""The schedule, clipping and the update rules, against numbers worked out by hand and against the papers' formulas."""

import math
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

Tree = dict[str, np.ndarray]


@pytest.mark.parametrize(
    ("schedule", "warmup", "total_steps", "by_hand"),
    [
        # Warmup is steps 0 to 4, the cosine steps 4 to 12; step 11 is the last one taken.
        ("cosine", 4, 12, {0: 0, 1: 0.25, 4: 1, 6: 0.1 + 0.9 * (2 + math.sqrt(2)) / 4, 8: 0.55, 11: 0.134254, 12: 0.1}),
        ("constant", 4, 12, {0: 0, 1: 0.25, 2: 0.5, 4: 1, 5: 1, 11: 1}),
        ("cosine", 0, 12, {0: 1}),
        ("constant", 0, 12, {0: 1}),
        ("cosine", 1000, 4, {0: 0, 1: 0.25, 2: 0.5, 3: 0.75}),  # a warmup longer than the run ends with it
    ],
)
def test_the_schedule_rises_to_the_peak_and_falls_to_its_end(
    config: ConfigDict, schedule: str, warmup: int, total_steps: int, by_hand: dict[int, float]
) -> None:
    share_of_peak = make_schedule(settings(config, schedule=schedule, warmup=warmup, end=0.1), total_steps)
    assert {step: float(share_of_peak(step)) for step in by_hand} == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "clip", "eps_hat", "weight_decay"),
    [("adam", 1.0, False, 0.0), ("adam", 0.0, True, 0.0), ("adamw", 0.0, False, 0.1), ("adamw", 1.0, True, 0.1)],
)
def test_adam_equals_its_formula_with_clipping_and_decay_of_matrices_alone(
    config: ConfigDict, name: str, clip: float, eps_hat: bool, weight_decay: float
) -> None:
    beta1, beta2, eps = 0.8, 0.95, 0.1
    section = settings(config, name=name, clip=clip, eps_hat=eps_hat, weight_decay=weight_decay)
    settings(config, lr=0.2, warmup=2, schedule="constant", beta1=beta1, beta2=beta2, eps=eps)
    expected = {"kernel": np.array([[4.0, -3.0]]), "bias": np.array([2.0])}
    # Their norms are 13, 0.13, 26 and 0.1: the second and the last are shorter than 1, and stay.
    grads = [grad(3, -4, 12), grad(0.03, 0.04, 0.12), grad(-6, 8, -24), grad(0.1, 0, 0)]
    m, v = ({key: np.zeros_like(leaf) for key, leaf in expected.items()} for _ in range(2))
    for n, (actual, given) in enumerate(zip(parameters(section, expected, grads), grads, strict=True), start=1):
        norm = math.sqrt(sum(float(np.sum(leaf**2)) for leaf in given.values()))
        rate = 0.2 * [0, 0.5, 1, 1][n - 1]
        # Kingma and Ba 2015, end of section 2, where epsilon-hat is added before the bias correction.
        corrected_rate = rate * math.sqrt(1 - beta2**n) / (1 - beta1**n)
        epsilon = eps if eps_hat else eps * math.sqrt(1 - beta2**n)
        for key, leaf in given.items():
            g = leaf / max(1.0, norm / clip) if clip else leaf
            m[key], v[key] = beta1 * m[key] + (1 - beta1) * g, beta2 * v[key] + (1 - beta2) * g**2
            decay = rate * weight_decay * expected[key] if key == "kernel" else 0.0
            expected[key] = expected[key] - corrected_rate * m[key] / (np.sqrt(v[key]) + epsilon) - decay
            np.testing.assert_allclose(actual[key], expected[key], rtol=1e-5, err_msg=f"{key} after step {n}")


@pytest.mark.parametrize(
    ("beta1", "by_hand"),
    # The velocity is g, then 0.8 velocity + g: 2, 0.8 * 2 + 1 = 2.6, 0.8 * 2.6 - 3 = -0.92. A step is -0.5 of it.
    [(0.8, [-1.0, -1.0 - 1.3, -1.0 - 1.3 + 0.46]), (0.0, [-1.0, -1.5, 0.0])],
)
def test_sgd_has_the_momentum_beta1_by_hand(config: ConfigDict, beta1: float, by_hand: list[float]) -> None:
    section = settings(config, name="sgd", lr=0.5, beta1=beta1, warmup=0, schedule="constant", clip=0.0)
    start = {"kernel": np.zeros((1, 2)), "bias": np.zeros(1)}
    steps = parameters(section, start, [grad(2, 0, 0), grad(1, 0, 0), grad(-3, 0, 0)])
    assert [float(step["kernel"][0, 0]) for step in steps] == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_learning_rates_share_one_compiled_update(config: ConfigDict, name: str) -> None:
    section = settings(config, name=name, lr=0.25, warmup=0, eps=0.4)
    optimizer = make_optimizer(section, total_steps=10)
    params, grads = jnp.zeros(2), jnp.array([0.6, 0.8])
    update = jax.jit(optimizer.transform.update)
    state = jax.jit(optimizer.transform.init)(params)
    once, _ = update(grads, state, params)
    thrice, after = update(grads, optax.tree.set(state, learning_rate=jnp.float32(0.75)), params)
    np.testing.assert_allclose(thrice, 3 * once, rtol=1e-5)
    assert update._cache_size() == 1
    assert float(learning_rate(after, make_schedule(section, 10), jnp.int32(0))) == 0.75


def settings(config: ConfigDict, **changes: Any) -> ConfigDict:
    config.optimizer.update(changes)
    return config.optimizer


def grad(first: float, second: float, bias: float) -> Tree:
    return {"kernel": np.array([[first, second]]), "bias": np.array([bias])}


def parameters(section: ConfigDict, start: Tree, grads: list[Tree]) -> list[Tree]:
    """Returns the parameters after each of a sequence of mean gradients."""
    optimizer = make_optimizer(section, total_steps=100)
    update = jax.jit(make_update(optimizer))
    params = jax.tree.map(jnp.float32, start)
    state = TrainState(jnp.int32(0), {"params": params}, optimizer.transform.init(params), (), jax.random.key(0))
    after = []
    for mean in grads:
        sums = Sums(jnp.float32(1), jnp.float32(2), jax.tree.map(lambda leaf: jnp.float32(2 * leaf), mean))
        state, _ = update(state, sums, (), {}, jnp.bool_(True))
        after.append(state.variables["params"])
    return after
