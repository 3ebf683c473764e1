"""Sampling: how a token is drawn from the logits of a model."""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lovecraft_jax.data.encoded import UNKNOWN_ID
from lovecraft_jax.inference.decoder import tail_logits
from lovecraft_jax.model.adaptive_softmax import Tail
from lovecraft_jax.runtime.checks import checked

MIN_TEMPERATURE, MAX_TEMPERATURE = 1e-30, 1e30
"""Other temperatures become the nearer of these, greedy and uniform in effect: where 1 / temperature is no normal
float32, XLA divides -inf, the logit of what must not be sampled, to NaN."""
TOGETHER = 8
"""The share of the streams, one in so many, whose tails are computed at once."""


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

    @property
    def is_plain(self) -> bool:
        """Whether any token may be drawn, by its probability alone."""
        return self.temperature > 0 and not self.top_k and self.top_p == 1


def sample_token(logits_SV: jax.Array, uniform_S: jax.Array, sampling: Sampling) -> jax.Array:
    """Returns one sampled token per row [S], never the unknown one: the cumulative distribution, inverted at
    `uniform_S` in [0, 1). Gumbel noise needs V random numbers per token: with 256 samples a sixth of the time."""
    V = logits_SV.shape[-1]
    logits_SV = jnp.where(jnp.arange(V)[None] == UNKNOWN_ID, -jnp.inf, logits_SV)
    if sampling.temperature == 0:
        return jnp.argmax(logits_SV, axis=-1).astype(jnp.int32)
    # The largest becomes 0, so that dividing by a small temperature cannot overflow.
    logits_SV -= jnp.max(logits_SV, axis=-1, keepdims=True)
    logits_SV = _filter_top_k_top_p(logits_SV / _bounded(sampling.temperature), sampling)
    return _draw(jnp.exp(logits_SV), uniform_S)


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


class Parts(NamedTuple):
    """What an adaptive softmax gives for the next token of S streams: the logits of its head, P of them, of which the
    last are those of its tails, and what those within the tails come from."""

    logits_SP: jax.Array
    top_SH: jax.Array
    tails: tuple[Tail, ...]
    dtype: jnp.dtype


class _Drawing(NamedTuple):
    """Streams whose token is still to be drawn: where `part_S` is a tail, its tail was drawn, but not accepted yet."""

    part_S: jax.Array
    ids_S: jax.Array
    attempt_S: jax.Array


def sample_by_parts(parts: Parts, keys_S: jax.Array, uniform_S: jax.Array, temperature: float) -> jax.Array:
    """Returns one token per row [S], never the unknown one, drawn as `sample_token` draws from the log-probabilities of
    all ids, but hardly ever computing them all: rejection sampling. `keys_S`: keys for more random numbers.

    With a temperature t the weight of a tail of probability p is p^(1/t) times Z, the sum of q^(1/t) over the
    probabilities q within it. Z is at most 1, or C^(1 - 1/t) for a tail of C ids where t is above 1. A part is drawn
    with the bound for Z. Where it is a tail, Z is computed, and the tail is accepted with probability Z / bound; if it
    is not, a part is drawn anew.
    """
    logits_SP, top_SH, tails, dtype = parts
    temperature = _bounded(temperature)
    S, P = logits_SP.shape
    head = P - len(tails)
    log_bounds = jnp.array([max(0.0, 1 - 1 / temperature) * math.log(len(tail.bias)) for tail in tails])
    logs_SP = jnp.where(jnp.arange(P)[None] == UNKNOWN_ID, -jnp.inf, jax.nn.log_softmax(logits_SP)) / temperature
    logs_SP = logs_SP.at[:, head:].add(log_bounds[None])
    weights_SP = jnp.exp(logs_SP - jnp.max(logs_SP, axis=-1, keepdims=True))
    starts = jnp.cumsum(jnp.array([head, *(len(tail.bias) for tail in tails)]))[:-1]  # the first id of each tail
    C = -(-S // TOGETHER)

    def is_waiting(drawing: _Drawing) -> jax.Array:
        return drawing.part_S >= head

    def draw_within(drawing: _Drawing) -> _Drawing:
        (places_C,) = jnp.nonzero(is_waiting(drawing), size=C, fill_value=S)  # S: none
        part_C, attempt_C = (leaf.at[places_C].get(mode="clip") for leaf in (drawing.part_S, drawing.attempt_S))
        again_C = jax.vmap(jax.random.fold_in)(keys_S.at[places_C].get(mode="clip"), attempt_C)
        accept_C, within_C, next_C = jax.vmap(lambda key: jax.random.uniform(key, (3,)))(again_C).T
        top_CH = top_SH.at[places_C].get(mode="clip")
        log_z_C, drawn_C = jnp.zeros(C), part_C
        for n, tail in enumerate(tails):
            logs_CV = jax.nn.log_softmax(tail_logits(tail, top_CH, dtype)) / temperature
            is_this_C = part_C == head + n
            log_z_C = jnp.where(is_this_C, jax.nn.logsumexp(logs_CV, axis=-1) - log_bounds[n], log_z_C)
            within = _draw(jnp.exp(logs_CV - jnp.max(logs_CV, axis=-1, keepdims=True)), within_C)
            drawn_C = jnp.where(is_this_C, starts[n] + within, drawn_C)
        accepted_C = jnp.log(accept_C) < log_z_C
        anew_C = _draw(weights_SP.at[places_C].get(mode="clip"), next_C)
        ids_C, part_C = jnp.where(accepted_C, drawn_C, anew_C), jnp.where(accepted_C, 0, anew_C)
        updates = zip(drawing, (part_C, ids_C, attempt_C + 1), strict=True)
        return _Drawing(*(leaf_S.at[places_C].set(leaf_C, mode="drop") for leaf_S, leaf_C in updates))

    part_S = _draw(weights_SP, uniform_S)
    first = _Drawing(part_S, part_S, jnp.zeros(S, jnp.int32))
    return jax.lax.while_loop(lambda drawing: jnp.any(is_waiting(drawing)), draw_within, first).ids_S


def _bounded(temperature: float) -> float:
    return min(max(temperature, MIN_TEMPERATURE), MAX_TEMPERATURE)


def _draw(weights_SV: jax.Array, uniform_S: jax.Array) -> jax.Array:
    """Returns an index per row, drawn by the weights: their cumulative sum, inverted at `uniform_S` in [0, 1)."""
    cumulative_SV = jnp.cumsum(weights_SV, axis=-1)
    return jnp.sum(cumulative_SV <= uniform_S[:, None] * cumulative_SV[:, -1:], axis=-1).astype(jnp.int32)
