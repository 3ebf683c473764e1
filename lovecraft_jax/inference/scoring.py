"""How well a model predicts a text: exact sums over the whole of it, by two definitions.

- `final`: one lane, zero carry, a newline as first input; every token is a target once. What is published.
- `scheduled`: several lanes side by side, each warmed on the tokens before it. Fast, for scores during training.
A third, `windows`, forgets everything every T tokens, as a model in the window regime was trained.
"""

import dataclasses
import functools
import math
import sys
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from lovecraft_jax.data.batches import Batch
from lovecraft_jax.data.tokenizer import Encoded
from lovecraft_jax.model.lm import Carry, LanguageModel, Variables, forward, reset_carry
from lovecraft_jax.model.losses import binary_cross_entropy, cross_entropy
from lovecraft_jax.runtime import distributed
from lovecraft_jax.runtime.files import Row

WARM_TOKENS = 1000
CHUNK = 500
"""Tokens of a lane in one dispatch."""


class Cost(NamedTuple):
    """What a text costs a model, summed over its tokens: `nats`, and what `binary` says."""

    nats: jax.Array
    binary: jax.Array


def make_eval_step(model: LanguageModel) -> Callable[[Variables, Carry, Batch], tuple[Variables, Carry, Cost]]:
    """(variables, carry, chunk) -> (variables, carry, cost): a fold, so that dynamic evaluation is another step."""

    def eval_step(variables: Variables, carry: Carry, batch: Batch) -> tuple[Variables, Carry, Cost]:
        carry, logits_BTV = forward(model, variables, reset_carry(carry, batch.reset_B), batch.x_BT)
        return variables, carry, Cost(cross_entropy(logits_BTV, batch)[0], binary_cross_entropy(logits_BTV, batch))

    return eval_step


@dataclasses.dataclass(frozen=True)
class Score:
    """What a text cost in all. `nats` has what spelling out unknown tokens costs; `binary`, the sum of the binary
    cross-entropies (step.py) over its tokens and all `vocab_size` of them that there are, has not."""

    nats: float
    tokens: int
    chars: int
    binary: float
    vocab_size: int

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nats / self.tokens

    @property
    def bpc(self) -> float:
        """Bits per character of the cleaned text."""
        return self.nats / self.chars / math.log(2)

    @property
    def bce(self) -> float:
        """Keras's `binary_crossentropy`, a mean over the vocabulary too: larger ones make it smaller."""
        return self.bce_over(self.vocab_size)

    def bce_over(self, classes: int) -> float:
        """The same model's in a vocabulary of so many, those beyond its own never likely."""
        return self.binary / self.tokens / classes

    @property
    def perplexity(self) -> float:
        """exp of the loss, per token; infinite where a float cannot hold it."""
        return math.exp(self.loss) if self.loss < math.log(sys.float_info.max) else math.inf


def score_row(step: int, split: str, scoring: str, score: Score) -> Row:
    """A score as a row of metrics.jsonl."""
    values = {"loss": score.loss, "bpc": score.bpc, "bce": score.bce, "perplexity": score.perplexity}
    return {"step": step, "split": split, "scoring": scoring, **values}


@dataclasses.dataclass(frozen=True)
class Scorer:
    """Scores texts with one model; a text that nothing stands before starts from `start_id`.

    Processes share out the lanes, and all must ask. `variables` lie on this process's own devices.
    """

    model: LanguageModel
    start_id: int

    def final(self, variables: Variables, text: Encoded) -> Score:
        """The whole text in one lane."""
        return self._score(variables, text, [0, len(text.ids)], CHUNK)

    def scheduled(self, variables: Variables, text: Encoded, lanes: int) -> Score:
        """The whole text in `lanes` lanes, each warmed on up to WARM_TOKENS unscored tokens before it."""
        return self._score(variables, text, _edges(len(text.ids), lanes, 1), CHUNK, warm=WARM_TOKENS)

    def windows(self, variables: Variables, text: Encoded, lanes: int, seq_len: int) -> Score:
        """The whole text in windows of `seq_len` tokens, each from a zero carry."""
        return self._score(variables, text, _edges(len(text.ids), lanes, seq_len), seq_len, forget=True)

    def _score(
        self, variables: Variables, text: Encoded, edges: list[int], chunk: int, warm: int = 0, forget: bool = False
    ) -> Score:
        lanes = distributed.process_share(len(edges) - 1)
        own = edges[lanes.start : lanes.stop + 1]
        cost = self._cost(variables, text.ids, own, chunk, warm, forget) if lanes else (0.0, 0.0)
        nats, binary = np.sum(distributed.gather(cost), axis=0).tolist()
        return Score(nats + text.extra_nats, len(text.ids), text.n_chars, binary, self.model.vocab_size)

    def _cost(
        self, variables: Variables, ids: np.ndarray, edges: list[int], chunk: int, warm: int, forget: bool
    ) -> tuple[float, float]:
        lanes = _lanes(ids, self.start_id, edges, chunk, warm)
        rows, length = lanes.x_BT.shape
        carry = self.model.initial_carry(rows)
        reset_B = np.full(rows, forget)
        costs = []
        for start in range(0, length, chunk):
            part = slice(start, start + chunk)
            batch = Batch(lanes.x_BT[:, part], lanes.y_BT[:, part], lanes.weight_BT[:, part], reset_B)
            variables, carry, cost = _eval_step(self.model, variables, carry, batch)
            costs.append(cost)
        # Added up in float64 on the host; within a chunk float32 is exact enough.
        nats, binary = np.array(jax.device_get(costs), np.float64).reshape(-1, 2).sum(axis=0).tolist()
        return nats, binary


@functools.partial(jax.jit, static_argnames="model")
def _eval_step(model: LanguageModel, variables: Variables, carry: tuple, batch: Batch) -> tuple[Variables, tuple, Cost]:
    return make_eval_step(model)(variables, carry, batch)


def _edges(length: int, lanes: int, unit: int) -> list[int]:
    """Where `lanes` lanes of nearly equal length begin and end, each a multiple of `unit` but the last."""
    units = math.ceil(length / unit)
    return [min(length, units * lane // lanes * unit) for lane in range(lanes + 1)]


def _lanes(ids: np.ndarray, start_id: int, edges: list[int], chunk: int, warm: int) -> Batch:
    """The text as rows [lanes, N], N a multiple of `chunk`: weight 0 on the warm-up before and the padding behind."""
    inputs = np.concatenate([np.array([start_id], ids.dtype), ids[:-1]])
    begins = [max(0, edge - warm) for edge in edges[:-1]]
    longest = max(end - begin for begin, end in zip(begins, edges[1:], strict=True))
    shape = (len(begins), math.ceil(longest / chunk) * chunk)
    x, y, weight = np.zeros(shape, ids.dtype), np.zeros(shape, ids.dtype), np.zeros(shape, np.uint8)
    for row, (begin, edge, end) in enumerate(zip(begins, edges, edges[1:], strict=False)):
        x[row, : end - begin] = inputs[begin:end]
        y[row, : end - begin] = ids[begin:end]
        weight[row, edge - begin : end - begin] = 1
    return Batch(x, y, weight, np.zeros(len(begins), bool))
