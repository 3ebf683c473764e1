"""The adaptive softmax: normalised, the same cost by both ways, its gradients those of the whole softmax."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from lovecraft_jax.data.batches import Batch
from lovecraft_jax.inference.decoder import decode, jitted_make_decoder
from lovecraft_jax.model.adaptive_softmax import AdaptiveSoftmax, flops_per_token, tail_edges, tail_width
from lovecraft_jax.model.lm import LanguageModel, forward
from lovecraft_jax.model.losses import forward_costs

H, V, HEAD, N = 24, 173, 6, 64
SOFTMAX = AdaptiveSoftmax(V, HEAD, H, jnp.dtype("float32"), in_cpp=False)
# One program each: without jit every operation is a program of its own, and takes a while to compile.
jitted_decode, jitted_forward, jitted_costs = (jax.jit(of, static_argnums=0) for of in (decode, forward, forward_costs))
log_probs, nats, init = (
    jax.jit(functools.partial(of, method=method), static_argnums=0)
    for of, method in (
        (AdaptiveSoftmax.apply, "log_probs"),
        (AdaptiveSoftmax.apply, "nats"),
        (AdaptiveSoftmax.init, "log_probs"),
    )
)


def test_tails_are_four_times_as_long_and_as_narrow_as_what_is_before_them() -> None:
    assert tail_edges(173, 6) == [6, 30, 150, 173]
    assert [tail_width(1024, n) for n in range(4)] == [256, 64, 16, 16]
    assert flops_per_token(1024, 100, 100) == 2 * 1024 * 100  # nothing but the head


@pytest.fixture(scope="module")
def params() -> Any:
    rng, params = np.random.default_rng(1), init(SOFTMAX, jax.random.key(0), jnp.zeros((1, H)))["params"]
    return jax.tree.map(lambda leaf: leaf + np.float32(0.5 * rng.normal(size=leaf.shape)), params)


@pytest.mark.parametrize("highest", [HEAD, 30, V])
def test_costs_are_the_log_probabilities_however_many_tokens_are_in_a_tail(params: Any, highest: int) -> None:
    """Targets below HEAD leave the tails empty; of all ids alike, they fill more than their share."""
    hidden_NH = jax.random.normal(jax.random.key(2), (N, H))
    y_N = jax.random.randint(jax.random.key(3), (N,), 0, highest)
    logs_NV = np.asarray(log_probs(SOFTMAX, {"params": params}, hidden_NH))
    np.testing.assert_allclose(np.sum(np.exp(logs_NV), axis=1), 1.0, rtol=1e-5)
    expected_N = -np.take_along_axis(logs_NV, np.asarray(y_N)[:, None], axis=1)[:, 0]
    nats_N = nats(SOFTMAX, {"params": params}, hidden_NH, y_N)
    np.testing.assert_allclose(nats_N, expected_N, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("highest", [30, V])
def test_gradients_are_those_of_the_log_probabilities(params: Any, highest: int) -> None:
    hidden_NH = jax.random.normal(jax.random.key(2), (N, H))
    y_N = jax.random.randint(jax.random.key(3), (N,), 0, highest)

    def by_costs(params: Any, hidden_NH: jax.Array) -> jax.Array:
        return jnp.sum(nats(SOFTMAX, {"params": params}, hidden_NH, y_N))

    def by_logs(params: Any, hidden_NH: jax.Array) -> jax.Array:
        logs_NV = log_probs(SOFTMAX, {"params": params}, hidden_NH)
        return -jnp.sum(jnp.take_along_axis(logs_NV, y_N[:, None], axis=1))

    found, expected = (jax.jit(jax.grad(cost, (0, 1)))(params, hidden_NH) for cost in (by_costs, by_logs))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4 * np.max(np.abs(other)))


@pytest.mark.parametrize("settings", [{}, {"tie": True}, {"tie": True, "skip": True, "backend": "native"}], ids=str)
def test_decoding_equals_forward_and_the_costs(settings: dict[str, Any]) -> None:
    model = LanguageModel(vocab_size=V, layers=2, units=H, embed=8, softmax_head=HEAD, **settings)
    x_BT = jax.random.randint(jax.random.key(4), (3, 5), 0, V)
    variables = jax.jit(model.init)(jax.random.key(5), model.initial_carry(3), x_BT)
    _, logits_BTV = jitted_forward(model, variables, model.initial_carry(3), x_BT)
    y_BT = jax.random.randint(jax.random.key(6), (3, 5), 0, V)
    batch = Batch(x_BT, y_BT, np.ones(y_BT.shape, np.uint8), np.ones(3, bool))
    _, (nats_BT, _) = jitted_costs(model, variables, model.initial_carry(3), batch)
    expected_BT1 = np.take_along_axis(np.asarray(logits_BTV), np.asarray(y_BT)[..., None], 2)
    np.testing.assert_allclose(-nats_BT, expected_BT1[..., 0], rtol=1e-4)
    decoder, carry = jitted_make_decoder(model, variables), model.initial_carry(3)
    for t in range(5):
        carry, logits_BV = jitted_decode(model, decoder, carry, x_BT[:, t])
        np.testing.assert_allclose(logits_BV, logits_BTV[:, t], rtol=1e-4, atol=1e-4)


def test_a_tied_softmax_has_the_embedding_for_all_ids() -> None:
    tied = SOFTMAX.clone(tied=True)
    table_VD, hidden_NH = (jax.random.normal(jax.random.key(key), (size, H)) for key, size in ((7, V), (8, N)))
    variables = init(tied, jax.random.key(9), hidden_NH, table_VD)
    sizes = {name: leaf.shape for name, leaf in variables["params"].items() if "bias" not in name}
    assert sizes == {"tails_kernel": (H, 3)}
    logs_NV = np.asarray(log_probs(tied, variables, hidden_NH, table_VD))
    np.testing.assert_allclose(np.sum(np.exp(logs_NV), axis=1), 1.0, rtol=1e-5)
    for low, high in (0, HEAD), (HEAD, 30), (30, 150), (150, V):  # within a part as in a softmax over it
        expected_NV = log_softmax(hidden_NH @ np.asarray(table_VD)[low:high].T, axis=1)
        found_NV = log_softmax(logs_NV[:, low:high], axis=1)
        np.testing.assert_allclose(found_NV, expected_NV, rtol=1e-4, atol=1e-4)
