"""Texts cut into pieces that a page shows differently: copied spans, how surprising each token was, what a unit did."""

import dataclasses
import itertools
import re
from collections.abc import Iterable, Sequence

import numpy as np

from lovecraft_jax.stylometry.overlap import Span

BITS = (1, 2, 4, 6, 8)
"""Where the levels 1, 2, ... of surprise begin; under the first is level 0."""
HELD = (0.2, 0.4, 0.6, 0.8)
"""The same for what a cell holds, from 0 for the lowest of a passage to 1 for the highest."""


@dataclasses.dataclass(frozen=True)
class Copied:
    """A piece of a text and the span that it is from, None where it is the text's own."""

    text: str
    span: Span | None


@dataclasses.dataclass(frozen=True)
class Word:
    """A word with what surrounds it: what it cost in all, and its pieces of one level each."""

    text: str
    bits: float
    pieces: list[tuple[str, int]]


def copied(text: str, spans: Iterable[Span]) -> list[Copied]:
    """`text` in pieces. Where spans overlap, the longer one is shown."""
    owner: list[Span | None] = [None] * len(text)
    for span in sorted(spans, key=lambda span: span.end - span.start):
        owner[span.start : span.end] = [span] * (min(span.end, len(text)) - span.start)
    pieces, at = [], 0
    for shown, group in itertools.groupby(owner):
        end = at + len(list(group))
        pieces.append(Copied(text[at:end], shown))
        at = end
    return pieces


def surprising(tokens: Sequence[str], bits: np.ndarray) -> list[Word]:
    """The text of `tokens` word by word; the space after a word is the next one's, and so is what it cost."""
    levels = np.searchsorted(BITS, bits, side="right")
    words: list[list[int]] = []
    for i, token in enumerate(tokens):
        if not words or (token[:1].isspace() and not tokens[i - 1][-1:].isspace()):
            words.append([])
        words[-1].append(i)
    return [
        Word(
            "".join(tokens[i] for i in word),
            float(sum(bits[i] for i in word)),
            _pieces([tokens[i] for i in word], [int(levels[i]) for i in word]),
        )
        for word in words
    ]


def held(text: str, values: np.ndarray) -> list[tuple[str, int]]:
    """`text` in pieces of one level each, by a value a character."""
    spread = float(np.ptp(values)) or 1.0
    levels = np.searchsorted(HELD, (values - values.min()) / spread, side="right")
    return _pieces(text, [int(level) for level in levels])


def shortened(text: str, length: int) -> str:
    """Its first `length` characters, up to the end of a word."""
    if len(text) <= length:
        return text
    return re.sub(r"\s+\S*$", "", text[:length])


def _pieces(tokens: Sequence[str], levels: Sequence[int]) -> list[tuple[str, int]]:
    grouped = itertools.groupby(zip(tokens, levels, strict=True), key=lambda pair: pair[1])
    return [("".join(token for token, _ in group), level) for level, group in grouped]
