"""Drawing a token by the logits of an adaptive softmax: from the same distribution as from all log-probabilities."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lovecraft_jax.data.encoded import UNKNOWN_ID
from lovecraft_jax.inference.decoder import tail_logits
from lovecraft_jax.inference.sampling import BLOCK, AdaptiveLogits, Sampling, sample_adaptive_softmax, sample_token
from lovecraft_jax.model.adaptive_softmax import Tail, join_log_probs

pytestmark = pytest.mark.usefixtures("unoptimized")

H, HEAD, DRAWS = 4, 3, 40_000
TAILS = (2, 5)
V = HEAD + sum(TAILS)
LOGITS = {"head": [1.0, 0.5, -0.5, 0.7, 1.2], "tail": [1.0, -2.0, -3.0, 4.0, 1.2]}
"""Of the head: those of its first three ids, the first of which is the unknown one, and of two tails."""


@pytest.fixture(scope="module")
def tails() -> tuple[Tail, ...]:
    rng, made = np.random.default_rng(0), []
    for n, size in enumerate(TAILS):
        down, up = rng.normal(size=(H, 2)), rng.normal(size=(2 if n else H, size))
        made.append(Tail(jnp.float32(down) if n else None, jnp.float32(up), jnp.float32(rng.normal(size=size))))
    return tuple(made)


@pytest.fixture(scope="module")
def hot_draws(tails: tuple[Tail, ...]) -> np.ndarray:
    """The tokens of DRAWS streams at temperature 4."""
    return np.asarray(draw(streams(tails, DRAWS), 4.0))


@pytest.mark.parametrize("temperature", [4.0, *(pytest.param(low, marks=pytest.mark.slow) for low in (1e-30, 1.0))])
def test_tokens_are_drawn_by_their_probabilities_at_any_temperature(
    tails: tuple[Tail, ...], hot_draws: np.ndarray, temperature: float
) -> None:
    """Two kinds of streams, in turns: the likeliest token of one is in the head, that of the other in a tail."""
    given = streams(tails, DRAWS)
    ids_S = hot_draws if temperature == 4.0 else np.asarray(draw(given, temperature))
    for kind, logits_P in enumerate(LOGITS.values()):
        counts = np.bincount(ids_S[kind::2], minlength=V) / (DRAWS // 2)
        expected = probabilities(given, kind, np.float32(logits_P), temperature)
        assert len(counts) == V
        assert np.all(counts[expected == 0] == 0)
        assert np.all(np.abs(counts - expected) <= 4 * np.sqrt(expected * (1 - expected) / (DRAWS // 2)) + 1e-6)


def test_a_stream_s_token_does_not_depend_on_how_many_there_are(tails: tuple[Tail, ...], hot_draws: np.ndarray) -> None:
    few = np.asarray(draw(streams(tails, 40), 4.0))
    assert len(set(few.tolist())) > 5
    np.testing.assert_array_equal(few, hot_draws[:40])


def test_of_many_weights_the_one_is_drawn_at_which_their_sum_passes_the_random_number() -> None:
    """Some blocks have no weight at all, and the last one is shorter."""
    rng, size, draws = np.random.default_rng(1), 5 * BLOCK + 7, 4000
    weights = rng.random(size) * (rng.random(size) < 0.5)
    weights[[*range(BLOCK, 2 * BLOCK), UNKNOWN_ID, size - 1]] = 0.0
    uniform_S = np.float32([0.0, 1 - 2.0**-24, *rng.random(draws - 2)])
    logits_SV = np.broadcast_to(np.log(np.maximum(weights, 1e-300)).astype(np.float32), (draws, size))
    logits_SV = np.where(weights > 0, logits_SV, -np.inf)
    ids_S = np.asarray(jax.jit(sample_token, static_argnums=2)(logits_SV, uniform_S, Sampling(1.0)))
    cumulative = np.cumsum(weights) / weights.sum()
    expected_S = np.searchsorted(cumulative, uniform_S, side="right")
    assert np.all(weights[ids_S] > 0)
    assert np.mean(ids_S == expected_S) > 0.99  # float32 sums differ at the edges
    steps = np.cumsum(weights > 0)
    assert np.max(np.abs(steps[ids_S] - steps[expected_S])) <= 1


def probabilities(given: AdaptiveLogits, kind: int, logits_P: np.ndarray, temperature: float) -> np.ndarray:
    """The probability of each id [V] for a stream of that kind, in float64."""
    within = [tail_logits(tail, given.hidden_SH[kind][None], given.dtype) for tail in given.tails]
    logs_V = np.asarray(join_log_probs(jnp.asarray(logits_P)[None], within))[0].astype(float)
    logs_V[UNKNOWN_ID] = -np.inf
    weights_V = np.exp((logs_V - logs_V.max()) / temperature)
    return weights_V / weights_V.sum()


def streams(tails: tuple[Tail, ...], count: int) -> AdaptiveLogits:
    """So many streams, of the two kinds in turns."""
    hidden_2H = np.random.default_rng(2).normal(size=(2, H)).astype(np.float32)
    logits_2P = np.float32(list(LOGITS.values()))
    kinds_S = np.arange(count) % 2
    return AdaptiveLogits(jnp.asarray(logits_2P[kinds_S]), jnp.asarray(hidden_2H[kinds_S]), tails, jnp.dtype("float32"))


def draw(given: AdaptiveLogits, temperature: float) -> Any:
    """A token of each stream, by a key of its own."""

    def sample(logits_SP: jax.Array, hidden_SH: jax.Array, keys_S: jax.Array) -> jax.Array:
        uniform_S = jax.vmap(jax.random.uniform)(keys_S)
        same = given._replace(logits_SP=logits_SP, hidden_SH=hidden_SH)
        return sample_adaptive_softmax(same, keys_S, uniform_S, temperature)

    keys_S = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), jnp.arange(len(given.logits_SP)))
    return jax.jit(sample)(given.logits_SP, given.hidden_SH, keys_S)
