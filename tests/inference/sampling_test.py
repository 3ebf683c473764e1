"""Drawing a token by the parts of an adaptive softmax: from the same distribution as from all log-probabilities."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lovecraft_jax.data.encoded import UNKNOWN_ID
from lovecraft_jax.inference.decoder import tail_logits
from lovecraft_jax.inference.sampling import Parts, sample_by_parts
from lovecraft_jax.model.adaptive_softmax import Tail, join_log_probs

H, HEAD, DRAWS = 4, 3, 40_000
TAILS = (2, 5)
V = HEAD + sum(TAILS)


@pytest.fixture(scope="module")
def one() -> tuple[Parts, np.ndarray]:
    """What a model gives for one stream, and the log-probabilities [V] that it stands for."""
    rng = np.random.default_rng(0)
    top_1H = jnp.float32(rng.normal(size=(1, H)))
    tails = []
    for n, size in enumerate(TAILS):
        down, up = rng.normal(size=(H, 2)), rng.normal(size=(2 if n else H, size))
        tails.append(Tail(jnp.float32(down) if n else None, jnp.float32(up), jnp.float32(rng.normal(size=size))))
    logits_1P = jnp.float32([[1.0, 0.5, -0.5, 0.7, 1.2]])
    parts = Parts(logits_1P, top_1H, tuple(tails), jnp.dtype("float32"))
    within = [tail_logits(tail, top_1H, parts.dtype) for tail in tails]
    return parts, np.asarray(join_log_probs(logits_1P, within))[0]


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_tokens_are_drawn_by_their_probabilities_at_any_temperature(
    one: tuple[Parts, np.ndarray], temperature: float
) -> None:
    parts, logs_V = one
    weights_V = np.exp(logs_V.astype(float) / temperature)
    weights_V[UNKNOWN_ID] = 0.0
    expected = weights_V / weights_V.sum()
    ids = np.asarray(draw(parts, DRAWS, temperature))
    counts = np.bincount(ids, minlength=V) / DRAWS
    assert len(counts) == V
    assert counts[UNKNOWN_ID] == 0
    assert np.all(np.abs(counts - expected) <= 4 * np.sqrt(expected * (1 - expected) / DRAWS))


def test_a_stream_s_token_does_not_depend_on_how_many_there_are(one: tuple[Parts, np.ndarray]) -> None:
    many = draw(one[0], 40, 1.0)
    assert len(set(many.tolist())) > 5
    np.testing.assert_array_equal(draw(one[0], 3, 1.0), many[:3])


def draw(parts: Parts, count: int, temperature: float) -> Any:
    """A token of each of so many streams that are all alike."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), jnp.arange(count))
    alike = parts._replace(logits_SP=jnp.tile(parts.logits_SP, (count, 1)), top_SH=jnp.tile(parts.top_SH, (count, 1)))
    leaves, tails, dtype = alike[:2], parts.tails, parts.dtype
    by_parts = jax.jit(
        lambda leaves, keys: sample_by_parts(
            Parts(*leaves, tails, dtype), keys, jax.vmap(jax.random.uniform)(keys), temperature
        )
    )
    return by_parts(leaves, keys)
