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
TAIL_SHARE = 0.25
"""The share of the streams whose tails are computed at once."""
LAST_BELOW_1 = 1 - 2.0**-24
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


def sample_adaptive_softmax(
    given: AdaptiveLogits, keys_S: jax.Array, uniform_S: jax.Array, temperature: float
) -> jax.Array:
    """Returns one token per row [S], never the unknown one, drawn as `sample_token` draws from the log-probabilities of
    all ids, but computing a stream's tails only where one is proposed. `uniform_S` is drawn with `keys_S`.

    With a temperature t the weight of a tail of probability p is p^(1/t) times Z, the sum of q^(1/t) over the
    probabilities q within it. Z is at most 1, or C^(1 - 1/t) for a tail of C ids where t is above 1. A part is drawn
    with this bound for Z. A tail is accepted with probability Z / bound (rejection sampling); otherwise a part is drawn
    by the weights themselves, which are known by then.
    """
    logits_SP, hidden_SH, tails, dtype = given
    temperature = _bounded(temperature)
    S, P = logits_SP.shape
    head = P - len(tails)
    log_bound_N = jnp.array([max(0.0, 1 - 1 / temperature) * math.log(len(tail.bias)) for tail in tails])
    logs_SP = jnp.where(jnp.arange(P)[None] == UNKNOWN_ID, -jnp.inf, jax.nn.log_softmax(logits_SP)) / temperature
    logs_SP = logs_SP.at[:, head:].add(log_bound_N[None])
    ids_S = _draw(logs_SP, uniform_S)  # those of tails are still to be drawn
    C = math.ceil(TAIL_SHARE * S)

    def draw_within(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        ids_S, in_tail_S = state
        (places_C,) = jnp.nonzero(in_tail_S, size=C, fill_value=S)  # S: none
        keys_C, hidden_CH, ids_C, logs_CP = (leaf[places_C] for leaf in (keys_S, hidden_SH, ids_S, logs_SP))
        more_C = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, 1), (3,)))(keys_C)
        accept_C, again_C, within_C = more_C.T
        log_z_CN, drawn_CN, first = [], [], head
        for tail, log_bound in zip(tails, log_bound_N, strict=True):
            logs_CV = jax.nn.log_softmax(tail_logits(tail, hidden_CH, dtype)) / temperature
            log_z_CN.append(jax.nn.logsumexp(logs_CV, axis=-1) - log_bound)
            drawn_CN.append(first + _draw(logs_CV, within_C))
            first += logs_CV.shape[-1]
        log_z_CP = jnp.concatenate([jnp.zeros((C, head)), jnp.stack(log_z_CN, axis=1)], axis=1)
        accepted_C = accept_C < jnp.exp(jnp.take_along_axis(log_z_CP, ids_C[:, None], axis=1)[:, 0])
        part_C = jnp.where(accepted_C, ids_C, _draw(logs_CP + log_z_CP, again_C))
        of_tail_C = jnp.take_along_axis(jnp.stack(drawn_CN, axis=1), jnp.maximum(part_C - head, 0)[:, None], axis=1)
        ids_C = jnp.where(part_C < head, part_C, of_tail_C[:, 0])
        return ids_S.at[places_C].set(ids_C, mode="drop"), in_tail_S.at[places_C].set(False, mode="drop")

    return jax.lax.while_loop(lambda state: jnp.any(state[1]), draw_within, (ids_S, ids_S >= head))[0]


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
