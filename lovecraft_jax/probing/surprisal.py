"""What each token of a text costs a model: the bits behind the score, for every held-out tale and over a page."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence

import jax
import numpy as np
import optax

from lovecraft_jax.data.tokenizer import UNKNOWN_ID
from lovecraft_jax.inference.forward_texts import read
from lovecraft_jax.model.lm import Carry
from lovecraft_jax.run import Run

PAGE = 2000
"""Characters."""


@dataclasses.dataclass(frozen=True)
class TaleScore:
    """The final score of a tale by itself: from a zero carry, a newline before it."""

    split: str
    tale: str
    chars: int
    bpc: float


@dataclasses.dataclass(frozen=True)
class Page:
    """A passage of a tale: its tokens' texts, and what each cost."""

    tale: str
    offset: int  # in characters of the cleaned tale
    tokens: list[str]
    bits: np.ndarray


@dataclasses.dataclass(frozen=True)
class Surprisal:
    """`scores` of the held-out tales, in their order, and the page of one of them that is the most like it."""

    scores: list[TaleScore]
    page: Page


def study(run: Run, tales: Mapping[str, Mapping[str, str]]) -> Surprisal:
    """Of the cleaned tales of each split but the training's; the page is from the last split's first tale."""
    held_out = [(split, tale) for split in tales if split != "train" for tale, text in tales[split].items() if text]
    costs = bits(run, [tales[split][tale] for split, tale in held_out])
    scores = [
        TaleScore(split, tale, len(tales[split][tale]), float(np.sum(cost)) / len(tales[split][tale]))
        for (split, tale), cost in zip(held_out, costs, strict=True)
    ]
    last = held_out[-1][0]
    first = [split for split, _ in held_out].index(last)
    tale = held_out[first][1]
    return Surprisal(scores, _page(run, tale, tales[last][tale], costs[first]))


def bits(run: Run, texts: Sequence[str]) -> list[np.ndarray]:
    """The bits that each token of each cleaned text costs [N], spelling out the unknown included.

    A text's sum is its final score's (scoring.py).
    """
    encoded = [run.tokenizer.encode(text) for text in texts]
    before = [np.concatenate([[run.tokenizer.start_id], text.ids[:-1]]) for text in encoded]
    costs = read(run.model, run.variables, before, [text.ids for text in encoded], _nats)
    for cost, text in zip(costs, encoded, strict=True):
        unknown = text.ids == UNKNOWN_ID
        cost[unknown] += text.extra_nats / max(1, int(np.count_nonzero(unknown)))
    return [cost / math.log(2) for cost in costs]


def _nats(carry: Carry, logits_BV: jax.Array, y_B: jax.Array) -> jax.Array:
    del carry
    return optax.softmax_cross_entropy_with_integer_labels(logits_BV, y_B)


def _page(run: Run, tale: str, text: str, cost: np.ndarray) -> Page:
    """About PAGE characters from a paragraph's start to a word's end: of all such, the one whose mean is nearest the
    tale's."""
    tokens = _tokens(run, text)
    chars = np.cumsum([0] + [len(token) for token in tokens])  # before each token, and behind the last
    paragraphs = [0] + [match.end() for match in re.finditer(r"\n+", text)]
    starts = [start for start in paragraphs if start + PAGE <= len(text)] or [0]
    ends = [max(text.rfind(" ", start + PAGE // 2, start + PAGE), 0) or start + PAGE for start in starts]
    firsts, lasts = np.searchsorted(chars, starts), np.searchsorted(chars, np.minimum(ends, len(text)))
    before = np.concatenate([[0.0], np.cumsum(cost, dtype=np.float64)])
    means = (before[lasts] - before[firsts]) / (chars[lasts] - chars[firsts])
    best = int(np.argmin(np.abs(means - before[-1] / len(text))))
    first, last = int(firsts[best]), int(lasts[best])
    return Page(tale, int(chars[first]), tokens[first:last], cost[first:last])


def _tokens(run: Run, text: str) -> list[str]:
    """The text of each token."""
    ids = run.tokenizer.encode(text).ids
    return list(text) if len(ids) == len(text) else [run.tokenizer.decode(ids[n : n + 1]) for n in range(len(ids))]
