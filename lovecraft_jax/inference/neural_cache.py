"""A neural cache (Grave et al. 2017, "Improving Neural Language Models with a Continuous Cache"): the probabilities of
the model, mixed with those of the tokens that the text had where the model's state was like the present one.

    p(w) = (1 - lam) p_model(w) + lam p_cache(w)
    p_cache(w) proportional to the sum over the last SIZE tokens x_i of 1[w = x_i] exp(theta h . h_i)

h_i is the hidden state before x_i, h the present one; of an ensemble, those of its members side by side.
Where nothing was read yet, p is p_model. The model stays as it is: what adapts to the text is the cache.

w is a *type*. Each id is one; but a token without an id of its own is of the type of its text, whose p_model is that of
its id times that of its spelling. So a name that training never showed is spelled out once, and costs little when it
returns. What the spelling costs is within p_model, and `Encoded.extra_nats` is charged without it. Tokens that are left
out of the ids are in no cache, and cost what they cost otherwise.

A decoder could follow: it knows all tokens before the present one, and so the states, which types are in the cache and
how likely each is there. p is a distribution over all types, as p_model and p_cache are, and a type is in the cache
only after it was read once, in full.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lovecraft_jax.data.batches import Batch
from lovecraft_jax.data.encoded import Encoded, Spelled, smallest_uint
from lovecraft_jax.inference.adaptive import tuning_part
from lovecraft_jax.inference.scoring import Method, Score, Scorer, Step
from lovecraft_jax.model.ensemble import Model
from lovecraft_jax.model.lm import Carry, Variables, reset_carry
from lovecraft_jax.model.losses import Costs, forward_hidden_and_costs

SIZE = 4000
"""Tokens in the cache; docs/results.md has the scores of others."""
THETAS = (0.0, *(2.0**n for n in range(-6, 6)))
LAMS = (0.0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3)
"""The rates that are tried. The score is smooth between them."""
NONE = -1
"""The type of a place in the cache that nothing was read into yet."""


class CacheRates(NamedTuple):
    """How much more a state like the present one counts (0: all tokens of the cache count the same), and the share of
    the cache in the mixture. Tuning tries arrays of both at once."""

    theta: float
    lam: float


class Types(NamedTuple):
    """The id of every type, and its nats on top of those of the id: those of its spelling."""

    ids_W: np.ndarray
    nats_W: np.ndarray


class State(NamedTuple):
    """What is carried from chunk to chunk. Types and rates are values in it, so that one program serves all."""

    variables: Variables
    carry: Carry
    types: Types
    theta_K: jax.Array
    lam_L: jax.Array
    keys_BMH: jax.Array  # the hidden states before each of the last M tokens
    types_BM: jax.Array  # the types of these


@dataclass(frozen=True)
class CacheScorer:
    """Scores texts with a cache that is empty where each begins. Of many processes one reads the text, and all must
    call the same method."""

    scorer: Scorer
    variables: Variables

    def score(self, text: Encoded, rates: CacheRates) -> Score:
        """One row, zero carry, a newline as the first input: `Scorer.final`, with a cache."""
        text, types = in_types(text, self.scorer.model.vocab_size)
        method = cached(self.scorer.model, types, (rates.theta,), (rates.lam,))
        return self.scorer.score_with(method, self.variables, text)

    def tune(self, valid: Encoded, on_score: Callable[[], None] = lambda: None) -> tuple[CacheRates, Score]:
        """Returns the rates of the grid of THETAS and LAMS that give the first TUNING_TOKENS of valid the lowest score,
        and that score. All are scored at once; then `on_score` is called."""
        text, types = in_types(valid, self.scorer.model.vocab_size)
        method = cached(self.scorer.model, types, THETAS, LAMS)
        scores = self.scorer.score_all_with(method, self.variables, tuning_part(text))
        on_score()
        grid = [CacheRates(theta, lam) for theta in THETAS for lam in LAMS]
        return min(zip(grid, scores, strict=True), key=lambda pair: pair[1].nats)


def in_types(text: Encoded, vocab_size: int) -> tuple[Encoded, Types]:
    """Returns the text with a type in the place of each id, and without the nats of what is spelled at one; and all its
    types. Those of texts follow the ids, in the order in which they come."""
    spelled = Spelled() if text.spelled.left_out else text.spelled
    numbers: dict[str, int] = {}
    types_R = np.array([numbers.setdefault(one, vocab_size + len(numbers)) for one in spelled.texts], int)
    count = vocab_size + len(numbers)
    types_N = text.ids.astype(smallest_uint(count))
    types_N[spelled.at_R] = types_R
    # To a power of two, so that texts of about the same length share a program.
    ids_W = np.arange(1 << (count - 1).bit_length(), dtype=np.int32)
    nats_W = np.zeros(len(ids_W), np.float32)
    ids_W[types_R], nats_W[types_R] = text.ids[spelled.at_R], spelled.nats_R
    return Encoded(types_N, text.n_chars, text.extra_nats - float(spelled.nats_R.sum())), Types(ids_W, nats_W)


def cached(model: Model, types: Types, thetas: Sequence[float], lams: Sequence[float]) -> Method:
    """Returns the method that scores a text `in_types` with a cache, a cost for every theta with every lam. A chunk of
    T tokens takes O(T * (SIZE + T) * H) operations, and memory for some arrays [T, SIZE + T], 9 MB each, besides the
    cache [SIZE, H]; each further theta takes O(T * (SIZE + T)) operations."""

    def init(variables: Variables, rows: int) -> State:
        keys_BMH = jnp.zeros((rows, SIZE, model.head_width))
        types_BM = jnp.full((rows, SIZE), NONE, jnp.int32)
        rates = jnp.array(thetas, jnp.float32), jnp.array(lams, jnp.float32)
        return State(variables, model.initial_carry(rows), types, *rates, keys_BMH, types_BM)

    return Method(init, _cached_step(model), len(thetas) * len(lams))


@functools.cache
def _cached_step(model: Model) -> Step:
    def step(state: State, chunk: Batch) -> tuple[State, Costs]:
        types = state.types
        x_BT, y_BT = (jnp.asarray(types_BT, jnp.int32) for types_BT in (chunk.x_BT, chunk.y_BT))
        carry = reset_carry(state.carry, chunk.reset_B)
        ids = chunk._replace(x_BT=types.ids_W[x_BT], y_BT=types.ids_W[y_BT])
        carry, hidden_TBH, costs = forward_hidden_and_costs(model, state.variables, carry, ids)
        model_BT = costs.nats_BT + types.nats_W[y_BT]

        # The cache and the chunk, J = M + T tokens, of which each of the chunk may look at the M before it.
        M, T = state.types_BM.shape[1], y_BT.shape[1]
        hidden_BTH = hidden_TBH.swapaxes(0, 1).astype(jnp.float32)
        keys_BJH = jnp.concatenate([state.keys_BMH, hidden_BTH], axis=1)
        before_BM = jnp.where(chunk.reset_B[:, None], NONE, state.types_BM)
        types_BJ = jnp.concatenate([before_BM, y_BT], axis=1)
        offset_TJ = np.arange(M + T)[None] - np.arange(T)[:, None]
        seen_BTJ = ((offset_TJ >= 0) & (offset_TJ < M))[None] & (types_BJ != NONE)[:, None]
        same_BTJ = seen_BTJ & (types_BJ[:, None] == y_BT[:, :, None])
        similarity_BTJ = jnp.einsum("bth,bjh->btj", hidden_BTH, keys_BJH, precision="highest")

        def log_prob(theta: jax.Array) -> jax.Array:
            """The log-probability of each target in the cache."""
            log_same_BT, log_seen_BT = (
                jax.nn.logsumexp(theta * similarity_BTJ, axis=-1, where=where_BTJ) for where_BTJ in (same_BTJ, seen_BTJ)
            )
            return log_same_BT - log_seen_BT

        cache_KBT = jnp.where(jnp.any(seen_BTJ, axis=-1)[None], jax.lax.map(log_prob, state.theta_K), -model_BT[None])
        lam_LBT = state.lam_L[:, None, None]
        logs_KLBT = jnp.logaddexp(
            (jnp.log1p(-lam_LBT) - model_BT[None])[None], jnp.log(lam_LBT)[None] + cache_KBT[:, None]
        )
        nats_KLBT = -logs_KLBT * chunk.weight_BT.astype(jnp.float32)[None, None]
        state = state._replace(carry=carry, keys_BMH=keys_BJH[:, T:], types_BM=types_BJ[:, T:])
        return state, Costs(nats_KLBT)

    return step
