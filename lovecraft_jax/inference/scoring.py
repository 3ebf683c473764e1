"""How well a model predicts a text: exact sums over all of its tokens, by three definitions.

- `final`: one row, zero carry, a newline as the first input; every token is a target once. The published number.
- `scheduled`: several rows side by side, each warmed up on the tokens before it. Fast, for scores during training.
- `windows`: every T tokens from a zero carry, as a model in the window regime was trained.

Each is a fold over chunks of the text by a Method: `static` never changes the variables; that of adaptive.py lets the
model learn from what it has read, that of neural_cache.py remembers it. Scores of these two are adaptive, and never
compared with static ones.
"""

import dataclasses
import functools
import math
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lovecraft_jax.data.batches import Batch
from lovecraft_jax.data.encoded import Encoded
from lovecraft_jax.model.ensemble import Model
from lovecraft_jax.model.lm import Carry, Variables, reset_carry
from lovecraft_jax.model.losses import Costs, forward_costs
from lovecraft_jax.runtime import distributed
from lovecraft_jax.runtime.files import Row

WARM_UP = 1000
"""Unscored tokens before a row of a scheduled score, where there are as many."""
CHUNK = 500
"""Tokens of a row in one dispatch."""


Step = Callable[[Any, Batch], tuple[Any, Costs]]
"""Reads a chunk of a text: takes a method's state before it, returns that after it and the costs [..., rows, tokens]:
those of several scores at once, where they have more axes."""


class Method(NamedTuple):
    """A way to score a text: `init(variables, rows)` is the state before the first token, `step` reads a chunk of it. A
    method that adapts to the text is another pair of functions, with whatever it keeps in its state. `costs` is the
    number of costs of a token that `step` computes."""

    init: Callable[[Variables, int], Any]
    step: Step
    costs: int = 1


@functools.cache
def static(model: Model, bce: bool = False) -> Method:
    """Returns the method that scores with fixed variables. With `bce` it computes binary_BT too."""

    def init(variables: Variables, rows: int) -> tuple[Variables, Carry]:
        return variables, model.initial_carry(rows)

    def step(state: tuple[Variables, Carry], chunk: Batch) -> tuple[tuple[Variables, Carry], Costs]:
        variables, carry = state
        carry, costs = forward_costs(model, variables, reset_carry(carry, chunk.reset_B), chunk, bce)
        return (variables, carry), costs

    return Method(init, step, 2 if bce else 1)


@dataclasses.dataclass(frozen=True)
class Score:
    """The cross-entropy of a whole text. `nats` includes `Encoded.extra_nats`, for spelling out unknown tokens;
    `binary`, where it was computed, the sum of binary cross-entropies over all tokens and the vocabulary, does not."""

    nats: float
    tokens: int
    chars: int
    vocab_size: int
    binary: float | None = None

    @property
    def loss(self) -> float:
        return self.nats / self.tokens

    @property
    def bpc(self) -> float:
        """Bits per character of the cleaned text."""
        return self.nats / self.chars / math.log(2)

    @property
    def bce(self) -> float | None:
        """Keras's `binary_crossentropy`: a mean over the vocabulary too, so a larger one makes it smaller."""
        return self.bce_over(self.vocab_size)

    def bce_over(self, classes: int) -> float | None:
        """`bce` for a vocabulary of `classes` entries, where those beyond the model's own have probability 0."""
        return None if self.binary is None else self.binary / self.tokens / classes

    @property
    def perplexity(self) -> float:
        """exp of the loss, per token; infinite where a float cannot hold it."""
        return math.exp(self.loss) if self.loss < math.log(sys.float_info.max) else math.inf

    def values(self) -> dict[str, float]:
        """{"loss": ..., "bpc": ..., "perplexity": ...}, and "bce" where it was computed."""
        bce = {} if self.bce is None else {"bce": self.bce}
        return {"loss": self.loss, "bpc": self.bpc} | bce | {"perplexity": self.perplexity}


def score_row(step: int, split: str, scoring: str, score: Score) -> Row:
    """Returns a score as a row of metrics.jsonl."""
    return {"step": step, "split": split, "scoring": scoring} | score.values()


@dataclasses.dataclass(frozen=True)
class Scorer:
    """Scores texts with one model. `start_id` is the input before a text's first token.

    Processes share the rows of a text, and all must call the same method. `variables` must be on this process's own
    devices. `bce` computes the binary cross-entropy too, which takes another pass over [rows, tokens, V].
    """

    model: Model
    start_id: int

    def final(self, variables: Variables, text: Encoded, bce: bool = False) -> Score:
        return self._score(static(self.model, bce), variables, text, 1)

    def score_with(self, method: Method, variables: Variables, text: Encoded) -> Score:
        """Scores as `final` does, by another method than `static`."""
        return self._score(method, variables, text, 1)

    def score_all_with(self, method: Method, variables: Variables, text: Encoded) -> list[Score]:
        """Scores as `score_with` does, by a method that computes the costs of several scores at once."""
        sums = self._sums(method, variables, text, 1)
        return [Score(nats + text.extra_nats, len(text.ids), text.n_chars, self.model.vocab_size) for nats in sums]

    def scheduled(self, variables: Variables, text: Encoded, rows: int, bce: bool = False) -> Score:
        """Scores the whole text in `rows` rows, each warmed up on up to WARM_UP tokens before it."""
        return self._score(static(self.model, bce), variables, text, rows)

    def windows(self, variables: Variables, text: Encoded, rows: int, seq_len: int, bce: bool = False) -> Score:
        """Scores the whole text in windows of `seq_len` tokens, each from a zero carry."""
        return self._score(static(self.model, bce), variables, text, rows, window=seq_len)

    def _score(self, method: Method, variables: Variables, text: Encoded, rows: int, window: int = 0) -> Score:
        nats, *binary = self._sums(method, variables, text, rows, window)
        return Score(nats + text.extra_nats, len(text.ids), text.n_chars, self.model.vocab_size, *binary)

    def _sums(self, method: Method, variables: Variables, text: Encoded, rows: int, window: int = 0) -> list[float]:
        """The sum of each of the method's costs over the tokens of the text; `extra_nats` is not in it."""
        unit, chunk, warm_up = (window, window, 0) if window else (1, CHUNK, WARM_UP)
        length = len(text.ids)
        # Where rows of nearly equal length begin and end: each but the last is a multiple of the window.
        edges = [min(length, math.ceil(length / unit) * row // rows * unit) for row in range(rows + 1)]
        share = distributed.process_share(rows)
        own = edges[share.start : share.stop + 1]
        sums = [0.0] * method.costs
        if own[0] < own[-1]:
            batch = _rows(text.ids, self.start_id, own, chunk, warm_up)
            batch = batch._replace(reset_B=np.full(len(own) - 1, window > 0))
            _, sums = fold(method.step, method.init(variables, len(own) - 1), batch, chunk)
        total: list[float] = np.sum(distributed.gather(sums), axis=0).tolist()
        return total


def fold(step: Step, state: Any, text: Batch, chunk: int) -> tuple[Any, list[float]]:
    """Folds a method's step over the text, and returns the state after it and the sum of each cost over it."""
    costs = []
    for start in range(0, text.x_BT.shape[1], chunk):
        part = slice(start, start + chunk)
        batch = Batch(text.x_BT[:, part], text.y_BT[:, part], text.weight_BT[:, part], text.reset_B)
        state, sums = _step_and_sum(step, state, batch)
        costs.append(sums)
    # Summed in float64 on the host; within a chunk float32 is exact enough.
    return state, np.array(jax.device_get(costs), np.float64).sum(axis=0).tolist()


@functools.partial(jax.jit, static_argnames="step")
def _step_and_sum(step: Step, state: Any, batch: Batch) -> tuple[Any, jax.Array]:
    state, costs = step(state, batch)
    return state, jnp.concatenate([jnp.sum(cost, axis=(-2, -1)).ravel() for cost in jax.tree.leaves(costs)])


def single_row(ids: np.ndarray, start_id: int, chunk: int) -> Batch:
    """Returns a text as a batch [1, N], N a multiple of `chunk`, with weight 0 on the padding."""
    return _rows(ids, start_id, [0, len(ids)], chunk, 0)


def _rows(ids: np.ndarray, start_id: int, edges: list[int], chunk: int, warm_up: int) -> Batch:
    """The text as a batch [rows, N], N a multiple of `chunk`, with weight 0 on the warm-up and on the padding."""
    inputs = np.concatenate([np.array([start_id], ids.dtype), ids[:-1]])
    begins = [max(0, edge - warm_up) for edge in edges[:-1]]
    longest = max(end - begin for begin, end in zip(begins, edges[1:], strict=True))
    shape = (len(begins), math.ceil(longest / chunk) * chunk)
    x, y, weight = np.zeros(shape, ids.dtype), np.zeros(shape, ids.dtype), np.zeros(shape, np.uint8)
    for row, (begin, edge, end) in enumerate(zip(begins, edges, edges[1:], strict=False)):
        x[row, : end - begin] = inputs[begin:end]
        y[row, : end - begin] = ids[begin:end]
        weight[row, edge - begin : end - begin] = 1
    return Batch(x, y, weight, np.zeros(len(begins), bool))
