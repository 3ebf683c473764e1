"""Sampling: how a token is drawn from the logits of a model."""

import dataclasses
import functools
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
TAIL_SHARE = 0.25
"""The share of the streams whose tails are computed at once."""
LAST_BELOW_1 = 1 - 2.0**-24
NO_TAIL = -1
BLOCK = 128
"""Weights of a block, in a long cumulative sum."""


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
    def is_unfiltered(self) -> bool:
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
    return _draw(logits_SV, uniform_S)


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


class AdaptiveLogits(NamedTuple):
    """What an adaptive softmax gives for the next token of S streams: the logits of its head, P of them, of which the
    last are those of its tails, and what those within the tails come from."""

    logits_SP: jax.Array
    hidden_SH: jax.Array
    tails: tuple[Tail, ...]
    dtype: jnp.dtype


class _Proposals(NamedTuple):
    """What is drawn for each stream so far: its id, or the tail that is proposed and else NO_TAIL, upper bounds [S, N]
    of the log-weights of the tails, and how many tails were tried."""

    ids_S: jax.Array
    tail_S: jax.Array
    log_bounds_SN: jax.Array
    tries_S: jax.Array


def sample_adaptive_softmax(
    given: AdaptiveLogits, keys_S: jax.Array, uniform_S: jax.Array, temperature: float
) -> jax.Array:
    """Returns one token per row [S], never the unknown one, drawn as `sample_token` draws from the log-probabilities of
    all ids, but computing a tail only for streams where it is proposed. `uniform_S` is drawn with `keys_S`.

    With a temperature t the weight of a tail of probability p is p^(1/t) times Z, the sum of q^(1/t) over the
    probabilities q within it. Z is at most 1, or C^(1 - 1/t) for a tail of C ids where t is above 1. A part is drawn
    with these bounds for the Z of the tails. A tail is accepted with probability Z / bound (rejection sampling);
    otherwise Z takes the place of its bound, and a part is drawn again. Whatever the bounds, a part that is accepted
    has been drawn by the weights themselves.
    """
    logits_SP, hidden_SH, tails, dtype = given
    temperature = _bounded(temperature)
    S, P = logits_SP.shape
    head = P - len(tails)
    logs_SP = jnp.where(jnp.arange(P)[None] == UNKNOWN_ID, -jnp.inf, jax.nn.log_softmax(logits_SP)) / temperature
    log_bound_N = jnp.array([max(0.0, 1 - 1 / temperature) * math.log(len(tail.bias)) for tail in tails])
    log_bounds_SN = logs_SP[:, head:] + log_bound_N[None]
    R = math.ceil(TAIL_SHARE * S)

    def draw_part(logs_SP: jax.Array, log_bounds_SN: jax.Array, uniform_S: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns for each stream an id of the head and NO_TAIL, or a meaningless id and the tail that is proposed."""
        part_S = _draw(logs_SP.at[:, head:].set(log_bounds_SN), uniform_S)
        return part_S, jnp.maximum(part_S - head, NO_TAIL)

    def draw_numbers(key: jax.Array, tries: jax.Array) -> jax.Array:
        return jax.random.uniform(jax.random.fold_in(key, tries + 1), (3,))

    def draw_within(tail: Tail, n: int, first: int, proposals: _Proposals) -> _Proposals:
        """Draws an id of tail n, whose ids begin at `first`, for streams where it is proposed, at most R of them."""
        (places_R,) = jnp.nonzero(proposals.tail_S == n, size=R, fill_value=S)  # S: none
        keys_R, hidden_RH, logs_RP = (leaf[places_R] for leaf in (keys_S, hidden_SH, logs_SP))
        _, _, log_bounds_RN, tries_R = (leaf[places_R] for leaf in proposals)
        accept_R, within_R, again_R = jax.vmap(draw_numbers)(keys_R, tries_R).T
        logs_RC = jax.nn.log_softmax(tail_logits(tail, hidden_RH, dtype)) / temperature
        log_weight_R = logs_RP[:, head + n] + jax.nn.logsumexp(logs_RC, axis=-1)
        accepted_R = accept_R < jnp.exp(log_weight_R - log_bounds_RN[:, n])
        log_bounds_RN = log_bounds_RN.at[:, n].set(log_weight_R)
        ids_R, tail_R = draw_part(logs_RP, log_bounds_RN, again_R)
        ids_R = jnp.where(accepted_R, first + _draw(logs_RC, within_R), ids_R)
        drawn = _Proposals(ids_R, jnp.where(accepted_R, NO_TAIL, tail_R), log_bounds_RN, tries_R + 1)
        return jax.tree.map(lambda leaf, new: leaf.at[places_R].set(new, mode="drop"), proposals, drawn)

    def draw_proposed(proposals: _Proposals) -> _Proposals:
        first = head
        for n, tail in enumerate(tails):
            draw = functools.partial(draw_within, tail, n, first)
            proposals = jax.lax.cond(jnp.any(proposals.tail_S == n), draw, lambda same: same, proposals)
            first += len(tail.bias)
        return proposals

    proposals = _Proposals(*draw_part(logs_SP, log_bounds_SN, uniform_S), log_bounds_SN, jnp.zeros(S, jnp.int32))
    return jax.lax.while_loop(lambda state: jnp.any(state.tail_S != NO_TAIL), draw_proposed, proposals).ids_S


def _bounded(temperature: float) -> float:
    return min(max(temperature, MIN_TEMPERATURE), MAX_TEMPERATURE)


def _draw(logits_SV: jax.Array, uniform_S: jax.Array) -> jax.Array:
    """Returns an index per row, drawn by its logits: the cumulative distribution, inverted at `uniform_S` in [0, 1). Of
    many logits first a block is drawn, then one in it, since XLA's cumulative sum takes long."""
    # The largest weight is 1: the sum neither overflows nor is 0.
    weights_SV = jnp.exp(logits_SV - jnp.max(logits_SV, axis=-1, keepdims=True))
    (S, V), B = weights_SV.shape, BLOCK
    if V <= 2 * B:
        return _invert(weights_SV, uniform_S)[0]
    blocks_SNB = jnp.pad(weights_SV, ((0, 0), (0, -V % B))).reshape(S, -1, B)
    block_S, uniform_S = _invert(jnp.sum(blocks_SNB, axis=-1), uniform_S)
    of_block_SB = jnp.take_along_axis(blocks_SNB, block_S[:, None, None], axis=1)[:, 0]
    return block_S * B + _invert(of_block_SB, uniform_S)[0]


def _invert(weights_SV: jax.Array, uniform_S: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the index of each row at which the cumulative distribution passes `uniform_S`, in [0, 1), and how far
    towards the next one: again uniform in [0, 1)."""
    cumulative_SV = jnp.cumsum(weights_SV, axis=-1)
    wanted_S1 = uniform_S[:, None] * cumulative_SV[:, -1:]
    index_S = jnp.sum(cumulative_SV <= wanted_S1, axis=-1).astype(jnp.int32)
    weight_S1 = jnp.take_along_axis(weights_SV, index_S[:, None], axis=1)
    passed_S1 = wanted_S1 - (jnp.take_along_axis(cumulative_SV, index_S[:, None], axis=1) - weight_S1)
    return index_S, jnp.clip(passed_S1 / weight_S1, 0.0, LAST_BELOW_1)[:, 0]
