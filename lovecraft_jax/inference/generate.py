"""Writing: a prompt is read into the carry, then tokens are drawn inside one compiled scan."""

import dataclasses
import functools
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from lovecraft_jax.data.tokenizer import UNKNOWN_ID, Tokenizer
from lovecraft_jax.inference.decoder import Decoder, decode, make_decoder
from lovecraft_jax.model.lm import Carry, LanguageModel, Variables, forward
from lovecraft_jax.runtime.errors import UserError

LEAST_TEMPERATURE = 1e-30
"""Below it float32 has no room for the quotient; it is greedy long before."""


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How a token is drawn: logits over `temperature` (0 takes the likeliest), then only the `top_k` likeliest
    (0 keeps all), then the fewest whose probabilities reach `top_p` (Holtzman et al. 2020; 1 keeps all)."""

    temperature: float = 0.7
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not (0 <= self.temperature < math.inf):
            raise UserError(f"temperature={self.temperature}: expected a finite number of at least 0 (0 is greedy)")
        if self.top_k < 0:
            raise UserError(f"top_k={self.top_k}: expected at least 0 (0 keeps all)")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p={self.top_p}: expected above 0 and up to 1 (1 keeps all)")


def encode_prompt(tokenizer: Tokenizer, prompt: str, name: str = "--prompt") -> np.ndarray:
    """The prompt's ids [N], a newline for an empty one. Raises UserError that names what the model cannot read."""
    cleaned, _ = tokenizer.cleaning.apply(prompt)
    unseen = tokenizer.cleaning.lost(prompt) + tokenizer.unseen(cleaned)
    if unseen:
        shown = " ".join(repr(part) for part in unseen)
        raise UserError(f"{name}={prompt!r}: this model's training text never had {shown}; name a prompt without")
    return tokenizer.encode(cleaned).ids if cleaned else np.array([tokenizer.start_id])


def generate_tokens(
    model: LanguageModel,
    variables: Variables,
    prompt: np.ndarray,
    length: int,
    seed: int,
    sampling: Sampling,
    samples: int = 1,
    chunk: int | None = None,
) -> Iterator[np.ndarray]:
    """Yields the ids [S, <= chunk] of S samples after one prompt, `length` new tokens in all.

    `chunk` tokens come at a time (None: all at once), while the next are drawn. The text depends on neither `chunk` nor
    S: every sample has its own key, every position its own fold of it.
    """
    chunk = min(chunk or length, length)
    prompt_SN = np.broadcast_to(prompt.astype(np.int32), (samples, len(prompt)))
    decoder, keys_S, carry, logits_SV = _read(model, variables, prompt_SN, np.uint32(seed))
    drawn: jax.Array | None = None
    for start in range(0, length, chunk):
        before = drawn
        carry, logits_SV, drawn = _sample_tokens(
            model, decoder, carry, logits_SV, keys_S, jnp.int32(start), sampling, chunk
        )
        if before is not None:
            yield np.asarray(before)
    assert drawn is not None, "length is at least 1"
    yield np.asarray(drawn)[:, : (length - 1) % chunk + 1]


def most_likely_next(model: LanguageModel, variables: Variables, x_BT: np.ndarray) -> np.ndarray:
    """The likeliest token after each of these, every row from a zero carry: what teacher forcing shows, [B, T].

    No writing: the next one goes on from the text, not from this answer. The unknown is never given.
    """
    return np.asarray(_most_likely_next(model, variables, x_BT.astype(np.int32)))


@functools.partial(jax.jit, static_argnames="model")
def _most_likely_next(model: LanguageModel, variables: Variables, x_BT: jax.Array) -> jax.Array:
    _, logits_BTV = forward(model, variables, model.initial_carry(len(x_BT)), x_BT)
    return logits_BTV.at[..., UNKNOWN_ID].set(-jnp.inf).argmax(axis=-1)


@functools.partial(jax.jit, static_argnames="model")
def _read(
    model: LanguageModel, variables: Variables, prompt_SN: jax.Array, seed: jax.Array
) -> tuple[Decoder, jax.Array, Carry, jax.Array]:
    """What writing goes on with: weights, keys, and the carry after a prompt with the logits of what follows [S, V]."""
    S = prompt_SN.shape[0]
    keys_S = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.arange(S))
    carry, logits_SNV = forward(model, variables, model.initial_carry(S), prompt_SN)
    return make_decoder(model, variables), keys_S, carry, logits_SNV[:, -1]


@functools.partial(jax.jit, static_argnames=("model", "sampling", "length"))
def _sample_tokens(
    model: LanguageModel,
    decoder: Decoder,
    carry: Carry,
    logits_SV: jax.Array,
    keys_S: jax.Array,
    start: jax.Array,
    sampling: Sampling,
    length: int,
) -> tuple[Carry, jax.Array, jax.Array]:
    """`length` tokens from position `start` on: the carry and logits after them, and their ids [S, length]."""
    # For all positions at once, outside of the loop.
    uniform = lambda key, position: jax.random.uniform(jax.random.fold_in(key, position))  # noqa: E731
    uniform_NS = jax.vmap(jax.vmap(uniform, (0, None)), (None, 0))(keys_S, start + jnp.arange(length))

    def one(state: tuple[Carry, jax.Array], uniform_S: jax.Array) -> tuple[tuple[Carry, jax.Array], jax.Array]:
        carry, logits_SV = state
        ids_S = sample_token(logits_SV, uniform_S, sampling)
        return decode(model, decoder, carry, ids_S), ids_S

    (carry, logits_SV), ids_NS = jax.lax.scan(one, (carry, logits_SV), uniform_NS)
    return carry, logits_SV, ids_NS.T


def sample_token(logits_SV: jax.Array, uniform_S: jax.Array, sampling: Sampling) -> jax.Array:
    """One id a row [S], by a number from 0 up to 1 that says how far up the distribution; the unknown is never written.

    One random number a token: the usual Gumbel noise takes V, and took a sixth of the time of 256 streams.
    """
    V = logits_SV.shape[-1]
    logits_SV = jnp.where(jnp.arange(V)[None] == UNKNOWN_ID, -jnp.inf, logits_SV)
    if sampling.temperature == 0:
        return jnp.argmax(logits_SV, axis=-1).astype(jnp.int32)
    # From the largest down, so that a small temperature cannot overflow.
    logits_SV -= jnp.max(logits_SV, axis=-1, keepdims=True)
    logits_SV = _likeliest(logits_SV / max(sampling.temperature, LEAST_TEMPERATURE), sampling)
    up_to_SV = jnp.cumsum(jnp.exp(logits_SV), axis=-1)
    ids_S = jnp.sum(up_to_SV <= uniform_S[:, None] * up_to_SV[:, -1:], axis=-1)
    return ids_S.astype(jnp.int32)


def _likeliest(logits_SV: jax.Array, sampling: Sampling) -> jax.Array:
    """-inf for what top-k and top-p leave out; of equals, the first in the vocabulary stay."""
    S, V = logits_SV.shape
    kept = min(sampling.top_k or V, V)
    if kept == V and sampling.top_p == 1:
        return logits_SV
    logits_SK, ids_SK = jax.lax.top_k(logits_SV, kept)  # in falling order
    if sampling.top_p < 1:
        probs_SK = jax.nn.softmax(logits_SK, axis=-1)
        # A token stays while those before it have not reached top_p: the likeliest always does.
        before_SK = jnp.cumsum(probs_SK, axis=-1) - probs_SK
        logits_SK = jnp.where(before_SK < sampling.top_p, logits_SK, -jnp.inf)
    return jnp.full_like(logits_SV, -jnp.inf).at[jnp.arange(S)[:, None], ids_SK].set(logits_SK)
