"""Generation: prefills the carry with a prompt, then samples tokens inside one compiled scan."""

import codecs
import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lovecraft_jax.data.encoded import UNKNOWN_ID, Cut, Prompt
from lovecraft_jax.data.tokenizer import Tokenizer
from lovecraft_jax.inference.decoder import Decoder, decode, make_decoder
from lovecraft_jax.model.ensemble import Model
from lovecraft_jax.model.lm import Carry, Variables, forward
from lovecraft_jax.runtime.checks import checked, shown
from lovecraft_jax.runtime.errors import UserError

MIN_TEMPERATURE, MAX_TEMPERATURE = 1e-30, 1e30
"""Other temperatures become the nearer of these, greedy and uniform in effect: where 1 / temperature is no normal
float32, XLA divides -inf, the logit of what must not be sampled, to NaN."""
LIMITS = {"length": range(1, 2**31), "samples": range(1, 2**20 + 1), "seed": range(2**32)}
"""What may be asked of one call. So many samples at once are gigabytes for the smallest model."""


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How a token is sampled.

    Logits are divided by `temperature` (0 is greedy: the most likely token). Of the tokens only the `top_k` most likely
    are kept (0 keeps all), and of these the fewest whose probabilities add up to `top_p` (nucleus sampling, Holtzman et
    al. 2020; 1 keeps all). Raises UserError for values out of range.
    """

    temperature: float = 0.7
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        for name, kind, expected, allowed in (
            ("temperature", float, "a finite number of at least 0 (0 is greedy)", lambda value: 0 <= value < math.inf),
            ("top_k", int, "a whole number of at least 0 (0 keeps all)", lambda value: value >= 0),
            ("top_p", float, "a number above 0 and up to 1 (1 keeps all)", lambda value: 0 < value <= 1),
        ):
            object.__setattr__(self, name, checked(name, getattr(self, name), kind, expected, allowed))


def check_limits(**values: Any) -> None:
    """Raises UserError where one of `values`, by the names of LIMITS, is not a whole number within them."""
    for name, value in values.items():
        low, high = LIMITS[name][0], LIMITS[name][-1]
        checked(f"--{name}", value, int, f"a whole number from {low} to {high}", LIMITS[name].__contains__)


def encode_prompt(tokenizer: Tokenizer, prompt: str, name: str = "--prompt") -> Prompt:
    """Returns a prompt as tokens, a newline for an empty one. Raises UserError, whose message calls the prompt `name`,
    if it has characters that the training text does not contain."""
    cleaned, _ = tokenizer.cleaning.apply(checked(name, prompt, str, "text"))
    if unseen := tokenizer.cleaning.lost(prompt) + tokenizer.unseen(cleaned):
        parts = " ".join(map(repr, unseen[:20])) + (f" and {len(unseen) - 20} more" if len(unseen) > 20 else "")
        raise UserError(
            f"{name}={shown(prompt)}: the training text does not contain {parts}; give a prompt of its characters"
        )
    return tokenizer.encode_prompt(cleaned)


def generate_texts(
    model: Model,
    variables: Variables,
    tokenizer: Tokenizer,
    prompt: Prompt,
    length: int,
    seed: int,
    sampling: Sampling,
    samples: int = 1,
    chunk: int | None = None,
) -> Iterator[list[str]]:
    """Yields the S samples that `generate_tokens` yields as text, what each adds to the prompt; a character whose bytes
    are not complete comes with the next ones."""
    decoders = [codecs.getincrementaldecoder("utf-8")("replace") for _ in range(samples)]
    ids, begun, first_V = _choose_cut(model, variables, prompt)
    start = 0
    for ids_SN in generate_tokens(model, variables, ids, length, seed, sampling, samples, chunk, first_V):
        texts = [tokenizer.generated_bytes(ids_N, (seed, sample), start) for sample, ids_N in enumerate(ids_SN)]
        parts = [text[len(begun) :] for text in texts]
        start, begun = start + ids_SN.shape[1], b""
        yield [decoder.decode(part, bool(start == length)) for decoder, part in zip(decoders, parts, strict=True)]


def _choose_cut(model: Model, variables: Variables, prompt: Prompt) -> tuple[np.ndarray, bytes, np.ndarray | None]:
    """Returns the ids to continue, and the `begun` and `first_V` of the prompt's likeliest cut: that with the largest
    probability of the ids up to it, times that of a token after it which begins as the rest of the prompt does."""
    if not prompt.cuts:
        return prompt.ids, b"", None
    first = min(cut.kept for cut in prompt.cuts) - 1  # what is before it is common to all
    carry = model.initial_carry(1)
    if first:
        carry, _ = _forward(model, variables, prompt.ids[None, :first], carry)
    _, logits_BNV = _forward(model, variables, prompt.ids[None, first:], carry)
    log_probs_NV = np.asarray(jax.nn.log_softmax(logits_BNV[0]), np.float64)
    of_ids_N = log_probs_NV[np.arange(len(log_probs_NV) - 1), prompt.ids[first + 1 :]]
    log_prob_N = np.concatenate([[0.0], np.cumsum(of_ids_N)])

    def log_prob(cut: Cut) -> float:
        n = cut.kept - 1 - first
        return float(log_prob_N[n] + np.logaddexp.reduce(log_probs_NV[n][cut.first_V])) - cut.nats

    chosen = max(prompt.cuts, key=log_prob)
    return prompt.ids[: chosen.kept], chosen.begun, chosen.first_V


@functools.partial(jax.jit, static_argnames="model")
def _forward(model: Model, variables: Variables, x_BT: jax.Array, carry: Carry) -> tuple[Carry, jax.Array]:
    return forward(model, variables, carry, x_BT)


def generate_tokens(
    model: Model,
    variables: Variables,
    prompt: np.ndarray,
    length: int,
    seed: int,
    sampling: Sampling,
    samples: int = 1,
    chunk: int | None = None,
    first_V: np.ndarray | None = None,
) -> Iterator[np.ndarray]:
    """Yields the ids [S, <= chunk] of S samples that continue the ids `prompt` [N], `length` new tokens each. The
    tokens that may come first are those of which `first_V` is true; None: all.

    `chunk` tokens are yielded at a time (None: all at once), while the next chunk is computed. A sample depends on
    neither `chunk` nor S: each sample has its own random key, from which one is folded for each position.
    """
    chunk = min(chunk or length, length)
    prompt_SN = np.broadcast_to(prompt.astype(np.int32), (samples, len(prompt)))
    decoder, keys_S, carry, logits_SV = _prefill(model, variables, prompt_SN, np.uint32(seed))
    if first_V is not None:
        logits_SV = jnp.where(first_V, logits_SV, -jnp.inf)
    sampled: jax.Array | None = None
    for start in range(0, length, chunk):
        previous = sampled
        state = _generate_chunk(model, decoder, carry, logits_SV, keys_S, jnp.int32(start), sampling, chunk)
        carry, logits_SV, sampled = state
        if previous is not None:
            yield np.asarray(previous)
    assert sampled is not None, "length is at least 1"
    yield np.asarray(sampled)[:, : (length - 1) % chunk + 1]


def most_likely_next(model: Model, variables: Variables, x_BT: np.ndarray) -> np.ndarray:
    """Returns the most likely next token, but never the unknown one, at every position [B, T] of rows from a zero
    carry. This is not generation: every token is predicted from the true ones before it (teacher forcing)."""
    return np.asarray(_argmax_next(model, variables, x_BT.astype(np.int32)))


@functools.partial(jax.jit, static_argnames="model")
def _argmax_next(model: Model, variables: Variables, x_BT: jax.Array) -> jax.Array:
    _, logits_BTV = forward(model, variables, model.initial_carry(len(x_BT)), x_BT)
    return logits_BTV.at[..., UNKNOWN_ID].set(-jnp.inf).argmax(axis=-1)


@functools.partial(jax.jit, static_argnames="model")
def _prefill(
    model: Model, variables: Variables, prompt_SN: jax.Array, seed: jax.Array
) -> tuple[Decoder, jax.Array, Carry, jax.Array]:
    """Returns the decoder, a random key per sample, the carry after the prompt, and the logits of the next token."""
    S = prompt_SN.shape[0]
    keys_S = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.arange(S))
    carry, logits_SNV = forward(model, variables, model.initial_carry(S), prompt_SN)
    return make_decoder(model, variables), keys_S, carry, logits_SNV[:, -1]


@functools.partial(jax.jit, static_argnames=("model", "sampling", "length"))
def _generate_chunk(
    model: Model,
    decoder: Decoder,
    carry: Carry,
    logits_SV: jax.Array,
    keys_S: jax.Array,
    start: jax.Array,
    sampling: Sampling,
    length: int,
) -> tuple[Carry, jax.Array, jax.Array]:
    """Returns the carry and logits after `length` more tokens, from position `start` on, and their ids [S, length]."""

    def uniform(key: jax.Array, position: jax.Array) -> jax.Array:
        return jax.random.uniform(jax.random.fold_in(key, position))

    # The random numbers of all positions at once, outside the scan.
    uniform_NS = jax.vmap(jax.vmap(uniform, (0, None)), (None, 0))(keys_S, start + jnp.arange(length))

    def step(state: tuple[Carry, jax.Array], uniform_S: jax.Array) -> tuple[tuple[Carry, jax.Array], jax.Array]:
        carry, logits_SV = state
        ids_S = sample_token(logits_SV, uniform_S, sampling)
        return decode(model, decoder, carry, ids_S), ids_S

    (carry, logits_SV), ids_NS = jax.lax.scan(step, (carry, logits_SV), uniform_NS)
    return carry, logits_SV, ids_NS.T


def sample_token(logits_SV: jax.Array, uniform_S: jax.Array, sampling: Sampling) -> jax.Array:
    """Returns one sampled token per row [S], never the unknown one: the cumulative distribution, inverted at
    `uniform_S` in [0, 1). Gumbel noise needs V random numbers per token: with 256 samples a sixth of the time."""
    V = logits_SV.shape[-1]
    logits_SV = jnp.where(jnp.arange(V)[None] == UNKNOWN_ID, -jnp.inf, logits_SV)
    if sampling.temperature == 0:
        return jnp.argmax(logits_SV, axis=-1).astype(jnp.int32)
    # The largest becomes 0, so that dividing by a small temperature cannot overflow.
    logits_SV -= jnp.max(logits_SV, axis=-1, keepdims=True)
    temperature = min(max(sampling.temperature, MIN_TEMPERATURE), MAX_TEMPERATURE)
    logits_SV = _filter_top_k_top_p(logits_SV / temperature, sampling)
    cumulative_SV = jnp.cumsum(jnp.exp(logits_SV), axis=-1)
    ids_S = jnp.sum(cumulative_SV <= uniform_S[:, None] * cumulative_SV[:, -1:], axis=-1)
    return ids_S.astype(jnp.int32)


def _filter_top_k_top_p(logits_SV: jax.Array, sampling: Sampling) -> jax.Array:
    """Sets the logits that top-k and top-p remove to -inf; of equal logits, the first in the vocabulary are kept."""
    S, V = logits_SV.shape
    kept = min(sampling.top_k or V, V)
    if kept == V and sampling.top_p == 1:
        return logits_SV
    logits_SK, ids_SK = jax.lax.top_k(logits_SV, kept)  # in descending order
    if sampling.top_p < 1:
        probs_SK = jax.nn.softmax(logits_SK, axis=-1)
        # A token is kept if those before it add up to less than top_p; the first even where that is 0 in float32.
        before_SK = jnp.cumsum(probs_SK, axis=-1) - probs_SK
        logits_SK = jnp.where((before_SK < sampling.top_p) | (jnp.arange(kept) == 0)[None], logits_SK, -jnp.inf)
    return jnp.full_like(logits_SV, -jnp.inf).at[jnp.arange(S)[:, None], ids_SK].set(logits_SK)
