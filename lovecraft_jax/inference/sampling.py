"""Sampling: how a token is drawn from the logits of a model."""

import dataclasses
import functools
import math
from collections.abc import Sequence
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
FIRST_SHARES, LATER_SHARES = (0.375, 0.1875), (0.0625, 0.0625)
"""The shares of the streams for which the first tail, and each later one, is computed at once: first, and then until
every stream has an id."""
LAST_BELOW_1 = 1 - 2.0**-24
NONE = -1
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


class _State(NamedTuple):
    """What is known of each stream so far: its id; or the tail that is proposed, else NONE; the log-weights [S, N] of
    the tails or upper bounds of them; the id that was drawn within each tail [S, N], NONE where that is not computed;
    and how many tails were."""

    ids_S: jax.Array
    tail_S: jax.Array
    log_weights_SN: jax.Array
    drawn_SN: jax.Array
    computed_S: jax.Array


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
    (S, P), N = logits_SP.shape, len(tails)
    head = P - N
    logs_SP = jnp.where(jnp.arange(P)[None] == UNKNOWN_ID, -jnp.inf, jax.nn.log_softmax(logits_SP)) / temperature
    log_bound_N = jnp.array([max(0.0, 1 - 1 / temperature) * math.log(len(tail.bias)) for tail in tails])

    def propose(
        logs_SP: jax.Array, log_weights_SN: jax.Array, drawn_SN: jax.Array, uniform_S: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Draws a part for each stream. Returns its id and NONE; or, of a tail in which none is drawn, NONE and it."""
        part_S = _draw(logs_SP.at[:, head:].set(log_weights_SN), uniform_S)
        tail_S = part_S - head
        drawn_S = jnp.take_along_axis(drawn_SN, jnp.maximum(tail_S, 0)[:, None], axis=1)[:, 0]
        ids_S = jnp.where(tail_S < 0, part_S, drawn_S)
        return ids_S, jnp.where(ids_S == NONE, tail_S, NONE)

    def draw_numbers(key: jax.Array, computed: jax.Array) -> jax.Array:
        return jax.random.uniform(jax.random.fold_in(key, computed + 1), (3,))

    def draw_within(n: int, share: float, state: _State) -> _State:
        """Draws an id of tail n for streams where it is proposed, at most R of them."""
        R = math.ceil(share * S)
        (places_R,) = jnp.nonzero(state.tail_S == n, size=R, fill_value=S)  # S: none
        keys_R, hidden_RH, logs_RP = (leaf[places_R] for leaf in (keys_S, hidden_SH, logs_SP))
        _, _, log_weights_RN, drawn_RN, computed_R = (leaf[places_R] for leaf in state)
        accept_R, within_R, again_R = jax.vmap(draw_numbers)(keys_R, computed_R).T
        logits_RC = tail_logits(tails[n], hidden_RH, dtype)
        logits_RC -= jnp.max(logits_RC, axis=-1, keepdims=True)
        weights_RC = jnp.exp(logits_RC / temperature)
        log_z_R = jnp.log(jnp.sum(weights_RC, axis=-1)) - jax.nn.logsumexp(logits_RC, axis=-1) / temperature
        log_weight_R, log_bound_R = logs_RP[:, head + n] + log_z_R, log_weights_RN[:, n]
        id_in_tail_R = head + sum(len(tail.bias) for tail in tails[:n]) + _draw_weighted(weights_RC, within_R)
        log_weights_RN = log_weights_RN.at[:, n].set(log_weight_R)
        drawn_RN = drawn_RN.at[:, n].set(id_in_tail_R)
        ids_R, tail_R = propose(logs_RP, log_weights_RN, drawn_RN, again_R)
        is_accepted_R = accept_R < jnp.exp(log_weight_R - log_bound_R)
        ids_R, tail_R = jnp.where(is_accepted_R, id_in_tail_R, ids_R), jnp.where(is_accepted_R, NONE, tail_R)
        after = _State(ids_R, tail_R, log_weights_RN, drawn_RN, computed_R + 1)
        return jax.tree.map(lambda leaf, new: leaf.at[places_R].set(new, mode="drop"), state, after)

    def draw_proposed(shares: Sequence[float], state: _State) -> _State:
        for n in range(N):
            draw = functools.partial(draw_within, n, shares[min(n, 1)])
            state = jax.lax.cond(jnp.any(state.tail_S == n), draw, lambda same: same, state)
        return state

    log_weights_SN, drawn_SN = logs_SP[:, head:] + log_bound_N[None], jnp.full((S, N), NONE)
    proposed = propose(logs_SP, log_weights_SN, drawn_SN, uniform_S)
    state = draw_proposed(FIRST_SHARES, _State(*proposed, log_weights_SN, drawn_SN, jnp.zeros(S, jnp.int32)))
    draw_others = functools.partial(draw_proposed, LATER_SHARES)
    return jax.lax.while_loop(lambda state: jnp.any(state.tail_S != NONE), draw_others, state).ids_S


def _bounded(temperature: float) -> float:
    return min(max(temperature, MIN_TEMPERATURE), MAX_TEMPERATURE)


def _draw(logits_SV: jax.Array, uniform_S: jax.Array) -> jax.Array:
    """Returns an index per row, drawn by its logits."""
    # The largest weight is 1: the sum neither overflows nor is 0.
    return _draw_weighted(jnp.exp(logits_SV - jnp.max(logits_SV, axis=-1, keepdims=True)), uniform_S)


def _draw_weighted(weights_SV: jax.Array, uniform_S: jax.Array) -> jax.Array:
    """Returns an index per row, drawn by its weights: the cumulative distribution, inverted at `uniform_S` in [0, 1).
    Of many weights first a block is drawn, then one in it, since XLA's cumulative sum takes long."""
    (S, V), B = weights_SV.shape, BLOCK
    if V <= 2 * B:
        return _invert(weights_SV, uniform_S)[0]
    blocks_SNB = jnp.pad(weights_SV, ((0, 0), (0, -V % B))).reshape(S, -1, B)
    block_S, uniform_S = _invert(jnp.sum(blocks_SNB, axis=-1), uniform_S)
    weights_SB = jnp.take_along_axis(blocks_SNB, block_S[:, None, None], axis=1)[:, 0]
    return block_S * B + _invert(weights_SB, uniform_S)[0]


def _invert(weights_SV: jax.Array, uniform_S: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the index of each row at which the cumulative distribution passes `uniform_S`, in [0, 1), and how far
    towards the next one: again uniform in [0, 1)."""
    # Sums over zeros, which may be rounded otherwise than the sum before them, are none, so that no zero is drawn.
    is_positive_SV = weights_SV > 0
    cumulative_SV = jnp.where(is_positive_SV, jnp.cumsum(weights_SV, axis=-1), 0.0)
    wanted_S1 = uniform_S[:, None] * jnp.max(cumulative_SV, axis=-1, keepdims=True)
    indices_V = jnp.arange(weights_SV.shape[-1], dtype=jnp.int32)
    is_beyond_SV = is_positive_SV & (cumulative_SV >= wanted_S1)
    index_S = jnp.min(jnp.where(is_beyond_SV, indices_V[None], len(indices_V) - 1), axis=-1)
    weight_S1 = jnp.take_along_axis(weights_SV, index_S[:, None], axis=1)
    passed_S1 = wanted_S1 - (jnp.take_along_axis(cumulative_SV, index_S[:, None], axis=1) - weight_S1)
    return index_S, jnp.clip(passed_S1 / weight_S1, 0.0, LAST_BELOW_1)[:, 0]
