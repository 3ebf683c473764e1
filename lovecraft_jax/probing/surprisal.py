"""The surprisal of each token, in bits: the score of every held-out tale, and one passage token by token."""

import dataclasses
import itertools
import math
import re
from collections.abc import Mapping, Sequence

import jax
import numpy as np
import optax

from lovecraft_jax.model.lm import Carry
from lovecraft_jax.probing.forward_texts import forward_texts
from lovecraft_jax.run import Run

PASSAGE = 2000  # characters


@dataclasses.dataclass(frozen=True)
class TaleScore:
    """The final score of one tale by itself: from a zero carry, with a newline as the first input."""

    split: str
    tale: str
    chars: int
    bpc: float


@dataclasses.dataclass(frozen=True)
class Passage:
    """Part of a tale, token by token."""

    tale: str
    offset: int  # in characters of the cleaned tale
    tokens: list[str]
    bits: np.ndarray  # the surprisal of each token


@dataclasses.dataclass(frozen=True)
class Surprisal:
    """The scores of the held-out tales, in the order of the splits, and a typical passage of one of them."""

    scores: list[TaleScore]
    passage: Passage


def analyze(run: Run, tales: Mapping[str, Mapping[str, str]]) -> Surprisal:
    """Scores the held-out tales of `tales` (split -> tale -> cleaned text). The passage comes from the first tale of
    the last split; its mean surprisal is nearest to that of the whole tale."""
    held_out = [(split, tale) for split in tales if split != "train" for tale, text in tales[split].items() if text]
    bits = token_surprisals(run, [tales[split][tale] for split, tale in held_out])
    scores = [
        TaleScore(split, tale, len(tales[split][tale]), float(np.sum(bits_N)) / len(tales[split][tale]))
        for (split, tale), bits_N in zip(held_out, bits, strict=True)
    ]
    first = next(n for n, (split, _) in enumerate(held_out) if split == held_out[-1][0])
    split, tale = held_out[first]
    return Surprisal(scores, _typical_passage(run, tale, tales[split][tale], bits[first]))


def token_surprisals(run: Run, texts: Sequence[str]) -> list[np.ndarray]:
    """Returns the surprisal of each token of each cleaned text in bits [N]. That of a token without an id of its own
    includes what spelling it costs, so the sum over a text is its final score (scoring.py)."""
    encoded = [run.tokenizer.encode(text) for text in texts]
    inputs = [np.concatenate([[run.tokenizer.start_id], text.ids])[: len(text.ids)] for text in encoded]
    nats = forward_texts(run.model, run.variables, inputs, [text.ids for text in encoded], _nats)
    return [(nats_N + text.extra_nats_N) / math.log(2) for nats_N, text in zip(nats, encoded, strict=True)]


def _nats(carry: Carry, logits_BV: jax.Array, y_B: jax.Array) -> jax.Array:
    del carry
    return optax.softmax_cross_entropy_with_integer_labels(logits_BV, y_B)


def _typical_passage(run: Run, tale: str, text: str, bits_N: np.ndarray) -> Passage:
    """The passage of about PASSAGE characters, from the start of a paragraph to the end of a word, whose mean surprisal
    is nearest to the tale's."""
    lengths = run.tokenizer.lengths(run.tokenizer.encode(text))
    char_at = np.concatenate([[0], np.cumsum(lengths)])  # where each token starts, and the end of the text
    tokens = [text[start:end] for start, end in itertools.pairwise(char_at)]
    paragraphs = [0] + [match.end() for match in re.finditer(r"\n+", text)]
    starts = [start for start in paragraphs if start + PASSAGE <= len(text)] or [0]
    ends = [max(text.rfind(" ", start + PASSAGE // 2, start + PASSAGE), 0) or start + PASSAGE for start in starts]
    firsts, lasts = np.searchsorted(char_at, starts), np.searchsorted(char_at, np.minimum(ends, len(text)))
    total = np.concatenate([[0.0], np.cumsum(bits_N, dtype=np.float64)])
    means = (total[lasts] - total[firsts]) / (char_at[lasts] - char_at[firsts])
    best = int(np.argmin(np.abs(means - total[-1] / len(text))))
    first, last = int(firsts[best]), int(lasts[best])
    return Passage(tale, int(char_at[first]), tokens[first:last], bits_N[first:last])
