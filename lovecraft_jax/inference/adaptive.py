"""Dynamic evaluation (Krause et al. 2018, "Dynamic Evaluation of Neural Sequence Models"): a model that goes on
learning while it reads the text that it is scored on, as a file compressor does.

A segment is scored before anything is learnt from it; so no token's cost depends on itself or on what comes later. Then
one step of the paper's RMS rule, with `decay` back to the first weights W0:

    W <- W - lr * g / (rms + eps) + min(1, decay * rms / mean(rms)) * (W0 - W)

g is the gradient of the segment's mean cross-entropy, backpropagated within the segment; the carry goes on. rms is the
root mean square of such gradients over training text, mean(rms) its mean over all parameters. There is no dropout, and
norms keep their running statistics.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lovecraft_jax.data.batches import Batch
from lovecraft_jax.data.encoded import Encoded
from lovecraft_jax.inference.scoring import CHUNK, Method, Score, Scorer, Step, fold, single_row
from lovecraft_jax.model.ensemble import Model
from lovecraft_jax.model.lm import Carry, Variables, reset_carry
from lovecraft_jax.model.losses import Costs, forward_costs

SEGMENT = 100
"""Tokens between two updates. With 50 a model of 2 x 150 gains as much, and takes a third more time."""
STABILITY = 0.1
"""eps as a share of mean(rms): parameters that training hardly moves, as of rare tokens, do not jump. From 0.01 to 1 it
changes bits per character by less than 0.002."""
RMS_CHUNKS = 60
"""Pieces of CHUNK tokens of the training text, evenly spread, for rms; with 10 or 200 the scores are the same."""
TUNING_TOKENS = 150_000
"""The first tokens of valid, which the rates are tuned on. On 40,000 a model of 2 x 150 tunes in 9 s of a core instead
of 19 s, but finds a lower lr, as there is less to learn: .004 bits per character worse on valid, .007 on test."""
MOST_TOKENS = 1_000_000
"""Tokens of valid and test together up to which a run computes adaptive scores when it ends: they are read one after
the other, by a model of 2 x 150 in 26 us each on a core."""
LEARNING_RATES = tuple(1e-4 * 2.0**n for n in range(-7, 8))
DECAYS = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1)
FIRST_TRY = (LEARNING_RATES.index(8e-4), DECAYS.index(0.003))
"""Where the search begins: the best rates of c150:plain with norm=batch_input. Those of c150:plain after its first
1,000 to 1,500 steps are one or two places away."""


class Rates(NamedTuple):
    """How fast the weights learn, and how fast they return to the first weights: shares per segment."""

    lr: float
    decay: float


class State(NamedTuple):
    """What is carried from segment to segment. The rates are values in it, so that one program serves all."""

    variables: Variables
    first: Variables  # the parameters before the text
    rms: Variables
    rates: Rates
    carry: Carry


@dataclasses.dataclass(frozen=True)
class AdaptiveScorer:
    """Scores texts with a model that learns from each while it reads it, every time from `variables` on. Build it with
    `of`. `rms`: `gradient_rms` over the training text.

    Of many processes one reads the text, and all must call the same method.
    """

    scorer: Scorer
    variables: Variables
    rms: Variables

    @classmethod
    def of(cls, scorer: Scorer, variables: Variables, train: Encoded) -> "AdaptiveScorer":
        """Returns a scorer, after measuring the gradients' root mean squares over the training text."""
        return cls(scorer, variables, gradient_rms(scorer.model, variables, train, scorer.start_id))

    def score(self, text: Encoded, rates: Rates) -> Score:
        """One row, zero carry, a newline as the first input: `Scorer.final`, adaptive."""
        return self.scorer.score_with(adaptive(self.scorer.model, self.rms, rates), self.variables, text)

    def tune(self, valid: Encoded, on_score: Callable[[], None] = lambda: None) -> tuple[Rates, Score]:
        """Returns the rates that give the first TUNING_TOKENS of valid the lowest score, and that score. `on_score` is
        called after every score.

        A climb on the grid of LEARNING_RATES and DECAYS, from neighbour to neighbour until none is better: the score is
        smooth and flat around its best rates, which the sizes of the model and the text shift by factors of a few. It
        takes six to a dozen scores, where the grid has ninety.
        """
        part = tuning_part(valid)

        @functools.cache
        def score(lr: int, decay: int) -> Score:
            found = self.score(part, Rates(LEARNING_RATES[lr], DECAYS[decay]))
            on_score()
            return found

        def cost(lr: int, decay: int) -> tuple[float, float]:
            if not (0 <= lr < len(LEARNING_RATES) and 0 <= decay < len(DECAYS)):
                return math.inf, 0.0
            nats = score(lr, decay).nats
            # Among diverging rates the lower is better, so the search returns to finite scores.
            return (0, nats) if math.isfinite(nats) else (1 + lr, 0.0)

        (lr, decay), moved = FIRST_TRY, True
        while moved:
            moved = False
            for more_lr, more_decay in ((1, 0), (-1, 0), (0, 1), (0, -1)):
                while cost(lr + more_lr, decay + more_decay) < cost(lr, decay):
                    lr, decay, moved = lr + more_lr, decay + more_decay, True
        return Rates(LEARNING_RATES[lr], DECAYS[decay]), score(lr, decay)


def tuning_part(text: Encoded) -> Encoded:
    """Returns the first TUNING_TOKENS of a longer text. Only the nats of its scores mean something: its `n_chars` are
    tokens, and the cost of spelling is left out."""
    return Encoded(text.ids[:TUNING_TOKENS], TUNING_TOKENS, 0.0) if len(text.ids) > TUNING_TOKENS else text


def adaptive(model: Model, rms: Variables, rates: Rates) -> Method:
    """Returns the method that learns from each segment after it has scored it. `rms`: from `gradient_rms`."""

    def init(variables: Variables, rows: int) -> State:
        values = Rates(*(jnp.float32(rate) for rate in rates))
        return State(variables, variables["params"], rms, values, model.initial_carry(rows))

    return Method(init, _adaptive_step(model))


@functools.cache
def _adaptive_step(model: Model) -> Step:
    gradient = _make_gradient(model)

    def step(state: State, chunk: Batch) -> tuple[State, Costs]:
        count, total = sum(leaf.size for leaf in jax.tree.leaves(state.rms)), jax.tree.map(jnp.sum, state.rms)
        mean = sum(jax.tree.leaves(total)) / count

        def segment(carried: tuple[Variables, Carry], part: Batch) -> tuple[tuple[Variables, Carry], jax.Array]:
            params, carry = carried
            (_, (carry, nats_BT)), grads = gradient(params, state.variables, carry, part)

            def updated(now: jax.Array, first: jax.Array, grad: jax.Array, rms: jax.Array) -> jax.Array:
                learnt = state.rates.lr * grad / (rms + STABILITY * mean)
                return now - learnt + jnp.minimum(1.0, state.rates.decay * rms / mean) * (first - now)

            return (jax.tree.map(updated, params, state.first, grads, state.rms), carry), nats_BT

        carry = reset_carry(state.carry, chunk.reset_B)
        (params, carry), nats_NBT = jax.lax.scan(segment, (state.variables["params"], carry), _segments(chunk))
        nats_BT = jnp.moveaxis(nats_NBT, 0, 1).reshape(chunk.y_BT.shape)
        return state._replace(variables=state.variables | {"params": params}, carry=carry), Costs(nats_BT)

    return step


def gradient_rms(model: Model, variables: Variables, train: Encoded, start_id: int) -> Variables:
    """Returns the root mean square of each parameter's gradient over segments spread over the training text."""
    pieces = min(RMS_CHUNKS, math.ceil(len(train.ids) / CHUNK))
    starts = np.linspace(0, max(0, len(train.ids) - CHUNK), pieces).astype(int)
    ids = np.concatenate([train.ids[start : start + CHUNK] for start in starts])
    text = single_row(ids, start_id, CHUNK)
    zeros = jax.tree.map(jnp.zeros_like, variables["params"])
    (_, squares, _), _ = fold(_squares_step(model), (variables, zeros, model.initial_carry(1)), text, CHUNK)
    segments = text.x_BT.size // SEGMENT
    return jax.tree.map(lambda leaf: jnp.sqrt(leaf / segments), squares)


@functools.cache
def _squares_step(model: Model) -> Step:
    """A step whose state has the sums of the squares of the gradients of all segments."""
    gradient = _make_gradient(model)

    def step(state: tuple[Variables, Variables, Carry], chunk: Batch) -> tuple[Any, Costs]:
        variables, squares, carry = state

        def segment(carried: tuple[Variables, Carry], part: Batch) -> tuple[tuple[Variables, Carry], jax.Array]:
            squares, carry = carried
            (_, (carry, nats_BT)), grads = gradient(variables["params"], variables, carry, part)
            return (jax.tree.map(lambda total, grad: total + grad * grad, squares, grads), carry), nats_BT

        (squares, carry), nats_NBT = jax.lax.scan(segment, (squares, carry), _segments(chunk))
        return (variables, squares, carry), Costs(nats_NBT)

    return step


def _make_gradient(model: Model) -> Any:
    """Returns a function to ((loss, (carry, nats_BT)), gradient); the loss is a segment's nats per token."""

    def loss(params: Variables, variables: Variables, carry: Carry, part: Batch) -> tuple[jax.Array, Any]:
        carry, costs = forward_costs(model, variables | {"params": params}, carry, part)
        return jnp.sum(costs.nats_BT) / SEGMENT, (carry, costs.nats_BT)

    return jax.value_and_grad(loss, has_aux=True)


def _segments(chunk: Batch) -> Batch:
    """The chunk [rows, CHUNK] as segments, with leaves [CHUNK / SEGMENT, rows, SEGMENT]."""
    split = lambda leaf_BT: jnp.moveaxis(jnp.reshape(leaf_BT, (len(leaf_BT), -1, SEGMENT)), 1, 0)  # noqa: E731
    x, y, weight = jax.tree.map(split, (chunk.x_BT, chunk.y_BT, chunk.weight_BT))
    return Batch(x, y, weight, np.zeros(x.shape[:2], bool))
