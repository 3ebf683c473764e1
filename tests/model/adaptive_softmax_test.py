"""The adaptive softmax: normalised, the same cost by both ways, its gradients those of the whole softmax."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from lovecraft_jax.data.batches import Batch
from lovecraft_jax.inference.decoder import decode, make_decoder
from lovecraft_jax.model.adaptive_softmax import AdaptiveSoftmax, flops_per_token, tail_edges, tail_width
from lovecraft_jax.model.lm import LanguageModel, forward
from lovecraft_jax.model.losses import forward_costs
from tests.helpers.untrained import random_variables

pytestmark = pytest.mark.usefixtures("unoptimized")

H, V, HEAD, N = 24, 173, 6, 64
SOFTMAX = AdaptiveSoftmax(V, HEAD, H, jnp.dtype("float32"), in_cpp=False)
# One program each: without jit every operation is a program of its own, and takes a while to compile.
log_probs, nats, init = (
    jax.jit(functools.partial(of, method=method), static_argnums=0)
    for of, method in (
        (AdaptiveSoftmax.apply, "log_probs"),
        (AdaptiveSoftmax.apply, "nats"),
        (AdaptiveSoftmax.init, "log_probs"),
    )
)


@jax.jit
def gradients(params: Any, hidden_NH: jax.Array, y_N: jax.Array) -> tuple[Any, Any]:
    """Those of the costs of the targets, and those of their log-probabilities."""

    def by_costs(params: Any, hidden_NH: jax.Array) -> jax.Array:
        return jnp.sum(nats(SOFTMAX, {"params": params}, hidden_NH, y_N))

    def by_logs(params: Any, hidden_NH: jax.Array) -> jax.Array:
        logs_NV = log_probs(SOFTMAX, {"params": params}, hidden_NH)
        return -jnp.sum(jnp.take_along_axis(logs_NV, y_N[:, None], axis=1))

    return jax.grad(by_costs, (0, 1))(params, hidden_NH), jax.grad(by_logs, (0, 1))(params, hidden_NH)


def test_tails_are_four_times_as_long_and_as_narrow_as_what_is_before_them() -> None:
    assert tail_edges(173, 6) == [6, 30, 150, 173]
    assert [tail_width(1024, n) for n in range(4)] == [256, 64, 16, 16]
    assert flops_per_token(1024, 100, 100) == 2 * 1024 * 100  # nothing but the head


@pytest.fixture(scope="module")
def params() -> Any:
    rng, params = np.random.default_rng(1), init(SOFTMAX, jax.random.key(0), np.zeros((1, H), np.float32))["params"]
    return jax.tree.map(lambda leaf: np.asarray(leaf) + np.float32(0.5 * rng.normal(size=leaf.shape)), params)


def draw(highest: int) -> tuple[np.ndarray, np.ndarray]:
    """Hidden states [N, H] and targets [N] below `highest`."""
    rng = np.random.default_rng(2)
    return rng.normal(size=(N, H)).astype(np.float32), rng.integers(highest, size=N, dtype=np.int32)


@pytest.mark.parametrize("highest", [HEAD, 30, V])
def test_costs_are_the_log_probabilities_however_many_tokens_are_in_a_tail(params: Any, highest: int) -> None:
    """Targets below HEAD leave the tails empty; of all ids alike, they fill more than their share."""
    hidden_NH, y_N = draw(highest)
    logs_NV = np.asarray(log_probs(SOFTMAX, {"params": params}, hidden_NH))
    np.testing.assert_allclose(np.sum(np.exp(logs_NV), axis=1), 1.0, rtol=1e-5)
    expected_N = -logs_NV[np.arange(N), y_N]
    nats_N = nats(SOFTMAX, {"params": params}, hidden_NH, y_N)
    np.testing.assert_allclose(nats_N, expected_N, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("highest", [30, V])
def test_gradients_are_those_of_the_log_probabilities(params: Any, highest: int) -> None:
    found, expected = gradients(params, *draw(highest))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4 * np.max(np.abs(other)))


@pytest.mark.parametrize(
    "settings",
    [{}, pytest.param({"tie": True}, marks=pytest.mark.slow), {"tie": True, "skip": True, "backend": "native"}],
    ids=str,
)
def test_decoding_equals_forward_and_the_costs(settings: dict[str, Any]) -> None:
    model = LanguageModel(vocab_size=V, layers=2, units=H, embed=8, softmax_head=HEAD, **settings)
    x_BT, y_BT = np.random.default_rng(4).integers(V, size=(2, 3, 5), dtype=np.int32)
    batch = Batch(x_BT, y_BT, np.ones(y_BT.shape, np.uint8), np.ones(3, bool))

    @jax.jit
    def three_ways(variables: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        carry = model.initial_carry(3)
        (_, logits_BTV), (_, costs) = (
            forward(model, variables, carry, x_BT),
            forward_costs(model, variables, carry, batch),
        )
        decoder = make_decoder(model, variables)
        _, decoded_TBV = jax.lax.scan(lambda carry, ids_B: decode(model, decoder, carry, ids_B), carry, x_BT.T)
        return logits_BTV, costs.nats_BT, decoded_TBV

    logits_BTV, nats_BT, decoded_TBV = map(np.asarray, three_ways(random_variables(model, 0.4)))
    expected_BT1 = np.take_along_axis(logits_BTV, y_BT[..., None], 2)
    np.testing.assert_allclose(-nats_BT, expected_BT1[..., 0], rtol=1e-4)
    np.testing.assert_allclose(decoded_TBV, np.swapaxes(logits_BTV, 0, 1), rtol=1e-4, atol=1e-4)


def test_a_tied_softmax_has_the_embedding_for_all_ids() -> None:
    tied = SOFTMAX.clone(tied=True)
    rng = np.random.default_rng(7)
    table_VD, hidden_NH = (rng.normal(size=(size, H)).astype(np.float32) for size in (V, N))
    variables = init(tied, jax.random.key(9), hidden_NH, table_VD)
    sizes = {name: leaf.shape for name, leaf in variables["params"].items() if "bias" not in name}
    assert sizes == {"tails_kernel": (H, 3)}
    logs_NV = np.asarray(log_probs(tied, variables, hidden_NH, table_VD))
    np.testing.assert_allclose(np.sum(np.exp(logs_NV), axis=1), 1.0, rtol=1e-5)
    for low, high in (0, HEAD), (HEAD, 30), (30, 150), (150, V):  # within a part as in a softmax over it
        expected_NV = log_softmax(hidden_NH @ table_VD[low:high].T, axis=1)
        found_NV = log_softmax(logs_NV[:, low:high], axis=1)
        np.testing.assert_allclose(found_NV, expected_NV, rtol=1e-4, atol=1e-4)
