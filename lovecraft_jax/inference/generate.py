"""Generation: prefills the carry with a prompt, then samples tokens inside one compiled scan."""

import codecs
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lovecraft_jax.data.encoded import UNKNOWN_ID, Cut, Prompt
from lovecraft_jax.data.tokenizer import Tokenizer
from lovecraft_jax.inference.decoder import Decoder, Folded, decode, decode_head, jitted_make_decoder
from lovecraft_jax.inference.sampling import AdaptiveLogits, Sampling, sample_adaptive_softmax, sample_token
from lovecraft_jax.model.ensemble import Model
from lovecraft_jax.model.lm import Carry, LanguageModel, Variables, forward
from lovecraft_jax.runtime.checks import checked, shown
from lovecraft_jax.runtime.errors import UserError

LIMITS = {"length": range(1, 2**31), "samples": range(1, 2**20 + 1), "seed": range(2**32)}
"""What may be asked of one call. So many samples at once are gigabytes for the smallest model."""


def check_limits(**values: Any) -> None:
    """Raises UserError where one of `values`, by the names of LIMITS, is not a whole number within them."""
    for name, value in values.items():
        low, high = LIMITS[name][0], LIMITS[name][-1]
        checked(name, value, int, f"a whole number from {low} to {high}", LIMITS[name].__contains__)


def encode_prompt(tokenizer: Tokenizer, prompt: str, name: str = "prompt") -> Prompt:
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
    decoder: Decoder | None = None,
) -> Iterator[list[str]]:
    """Yields the S samples that `generate_tokens` yields as text, what each adds to the prompt; a character whose bytes
    are not complete comes with the next ones."""
    utf8_decoders = [codecs.getincrementaldecoder("utf-8")("replace") for _ in range(samples)]
    ids, begun, allowed_V = _choose_cut(model, variables, prompt)
    start = 0
    for ids_SN in generate_tokens(model, variables, ids, length, seed, sampling, samples, chunk, allowed_V, decoder):
        texts = [
            tokenizer.generated_bytes(ids_N, (seed, sample), start, sampling.temperature)
            for sample, ids_N in enumerate(ids_SN)
        ]
        parts = [text[len(begun) :] for text in texts]
        start, begun = start + ids_SN.shape[1], b""
        is_last = bool(start == length)
        yield [utf8.decode(part, is_last) for utf8, part in zip(utf8_decoders, parts, strict=True)]


def _choose_cut(model: Model, variables: Variables, prompt: Prompt) -> tuple[np.ndarray, bytes, np.ndarray | None]:
    """Returns the ids to continue, and the `begun` and `allowed_V` of the prompt's likeliest cut: that with the largest
    probability of the ids up to it, times that of a token after it which begins as the rest of the prompt does."""
    if not prompt.cuts:
        return prompt.ids, b"", None
    first = min(cut.kept for cut in prompt.cuts) - 1  # what is before it is common to all
    carry = model.initial_carry(1)
    if first:
        carry, _ = _forward(model, variables, prompt.ids[None, :first], carry)
    _, logits_BNV = _forward(model, variables, prompt.ids[None, first:], carry)
    log_probs_NV = np.asarray(jax.nn.log_softmax(logits_BNV[0]), np.float64)
    id_log_probs_N = log_probs_NV[np.arange(len(log_probs_NV) - 1), prompt.ids[first + 1 :]]
    log_prob_N = np.concatenate([[0.0], np.cumsum(id_log_probs_N)])

    def log_prob(cut: Cut) -> float:
        n = cut.kept - 1 - first
        return float(log_prob_N[n] + np.logaddexp.reduce(log_probs_NV[n][cut.allowed_V])) - cut.nats

    chosen = max(prompt.cuts, key=log_prob)
    return prompt.ids[: chosen.kept], chosen.begun, chosen.allowed_V


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
    allowed_V: np.ndarray | None = None,
    decoder: Decoder | None = None,
) -> Iterator[np.ndarray]:
    """Yields the ids [S, at most chunk; the first may have one more] of S samples that continue the ids `prompt` [N],
    `length` new tokens each. The tokens that may come first are those of which `allowed_V` is true; None: all.

    `chunk` tokens are yielded at a time (None: all at once), while the next chunk is computed; with `allowed_V` one
    more at first. A sample depends on neither `chunk` nor S: each sample has its own random key, from which one is
    folded for each position. `decoder`: that of the model's weights, if it has been made before.
    """
    prompt_SN = np.broadcast_to(prompt.astype(np.int32), (samples, len(prompt)))
    if decoder is None:
        decoder = jitted_make_decoder(model, variables)
    keys_S, carry = _prefill(model, variables, prompt_SN[:, :-1], np.uint32(seed))
    ids_S, first_S1 = jnp.asarray(prompt_SN[:, -1]), np.zeros((samples, 0), np.int32)
    if allowed_V is not None:
        carry, ids_S1 = _generate_chunk(model, decoder, carry, ids_S, keys_S, jnp.int32(0), sampling, 1, allowed_V)
        ids_S, first_S1 = ids_S1[:, 0], np.asarray(ids_S1)
    start = first_S1.shape[1]
    if start == length:
        yield first_S1
        return
    chunk, ahead = min(chunk or length, length - start), None
    for position in range(start, length, chunk):
        before = ahead
        carry, ahead = _generate_chunk(model, decoder, carry, ids_S, keys_S, jnp.int32(position), sampling, chunk)
        ids_S = ahead[:, -1]
        if before is not None:
            yield np.concatenate([first_S1, before], axis=1)
            first_S1 = first_S1[:, :0]
    assert ahead is not None, "something is left to generate"
    last = np.asarray(ahead)[:, : (length - start - 1) % chunk + 1]
    yield np.concatenate([first_S1, last], axis=1)


def most_likely_next(model: Model, variables: Variables, x_BT: np.ndarray) -> np.ndarray:
    """Returns the most likely next token, but never the unknown one, at every position [B, T] of rows from a zero
    carry. This is not generation: every token is predicted from the true ones before it (teacher forcing)."""
    return np.asarray(_argmax_next(model, variables, x_BT.astype(np.int32)))


@functools.partial(jax.jit, static_argnames="model")
def _argmax_next(model: Model, variables: Variables, x_BT: jax.Array) -> jax.Array:
    _, logits_BTV = forward(model, variables, model.initial_carry(len(x_BT)), x_BT)
    return logits_BTV.at[..., UNKNOWN_ID].set(-jnp.inf).argmax(axis=-1)


@functools.partial(jax.jit, static_argnames="model")
def _prefill(model: Model, variables: Variables, prompt_SN: jax.Array, seed: jax.Array) -> tuple[jax.Array, Carry]:
    """Returns a random key per sample, and the carry after the prompt, which may be empty."""
    S, N = prompt_SN.shape
    keys_S = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.arange(S))
    carry = model.initial_carry(S)
    if N:
        carry, _ = forward(model, variables, carry, prompt_SN)
    return keys_S, carry


@functools.partial(jax.jit, static_argnames=("model", "sampling", "length"))
def _generate_chunk(
    model: Model,
    decoder: Decoder,
    carry: Carry,
    ids_S: jax.Array,
    keys_S: jax.Array,
    start: jax.Array,
    sampling: Sampling,
    length: int,
    allowed_V: jax.Array | None = None,
) -> tuple[Carry, jax.Array]:
    """Returns the carry before the last of `length` more tokens, after the token `ids_S` and from position `start` on,
    and their ids [S, length]. Only tokens of which `allowed_V` is true are sampled; None: all."""

    # The random numbers of all positions at once, outside the scan.
    keys_NS = jax.vmap(jax.vmap(jax.random.fold_in, (0, None)), (None, 0))(keys_S, start + jnp.arange(length))
    uniform_NS = jax.vmap(jax.vmap(jax.random.uniform))(keys_NS)
    by_parts = allowed_V is None and sampling.is_unfiltered and isinstance(decoder, Folded) and bool(decoder.tails)

    def step(
        state: tuple[Carry, jax.Array], random: tuple[jax.Array, ...]
    ) -> tuple[tuple[Carry, jax.Array], jax.Array]:
        (carry, ids_S), (keys_S, uniform_S) = state, random
        if by_parts and isinstance(model, LanguageModel):
            carry, logits_SP, hidden_SH = decode_head(model, decoder, carry, ids_S)
            given = AdaptiveLogits(logits_SP, hidden_SH, decoder.tails, model.dtype)
            ids_S = sample_adaptive_softmax(given, keys_S, uniform_S, sampling.temperature)
        else:
            carry, logits_SV = decode(model, decoder, carry, ids_S)
            if allowed_V is not None:
                logits_SV = jnp.where(allowed_V[None], logits_SV, -jnp.inf)
            ids_S = sample_token(logits_SV, uniform_S, sampling)
        return (carry, ids_S), ids_S

    (carry, _), ids_NS = jax.lax.scan(step, (carry, ids_S), (keys_NS, uniform_NS))
    return carry, ids_NS.T
