"""Splits texts into pieces for the page: by shared spans, by words and their surprisal, by a unit's activation."""

import dataclasses
import itertools
import re
from collections.abc import Iterable, Sequence

import numpy as np

from lovecraft_jax.stylometry.overlap import Span

BITS = (1, 2, 4, 6, 8)
"""The lower ends of the levels 1, 2, ... of surprisal; below the first is level 0."""
ACTIVATIONS = (0.2, 0.4, 0.6, 0.8)
"""The same for activations, on a scale from 0 (the lowest of the passage) to 1 (the highest)."""


@dataclasses.dataclass(frozen=True)
class MarkedPiece:
    """A piece of a text and the span that it belongs to, None if it belongs to none."""

    text: str
    span: Span | None


@dataclasses.dataclass(frozen=True)
class WordSurprisal:
    """A word with the white space before it, its surprisal, and its pieces with the level of each."""

    text: str
    bits: float
    pieces: list[tuple[str, int]]


def mark_spans(text: str, spans: Iterable[Span]) -> list[MarkedPiece]:
    """Splits a text into pieces inside and outside of spans. Where spans overlap, the piece belongs to the longest."""
    span_of: list[Span | None] = [None] * len(text)
    for span in sorted(spans, key=lambda span: span.length):
        span_of[span.start : span.end] = [span] * (min(span.end, len(text)) - span.start)
    pieces, start = [], 0
    for span_here, group in itertools.groupby(span_of):
        end = start + len(list(group))
        pieces.append(MarkedPiece(text[start:end], span_here))
        start = end
    return pieces


def split_words(tokens: Sequence[str], bits: np.ndarray) -> list[WordSurprisal]:
    """Splits a text, given as tokens and their surprisals, into words. White space belongs to the word after it."""
    levels = np.searchsorted(BITS, bits, side="right")
    words: list[list[int]] = []
    for i, token in enumerate(tokens):
        if not words or (token[:1].isspace() and not tokens[i - 1][-1:].isspace()):
            words.append([])
        words[-1].append(i)
    return [
        WordSurprisal(
            "".join(tokens[i] for i in word),
            float(sum(bits[i] for i in word)),
            _join_levels([tokens[i] for i in word], [int(levels[i]) for i in word]),
        )
        for word in words
    ]


def split_activations(text: str, activations: np.ndarray) -> list[tuple[str, int]]:
    """Splits a text into pieces with one level of activation each, given the activation at each character."""
    spread = float(np.ptp(activations)) or 1.0
    levels = np.searchsorted(ACTIVATIONS, (activations - activations.min()) / spread, side="right")
    return _join_levels(text, [int(level) for level in levels])


def shorten(text: str, length: int) -> str:
    """Returns at most the first `length` characters of a text; the last word, which may be cut, is dropped."""
    if len(text) <= length:
        return text
    return re.sub(r"\s+\S*$", "", text[:length])


def _join_levels(tokens: Sequence[str], levels: Sequence[int]) -> list[tuple[str, int]]:
    """Joins consecutive tokens of the same level."""
    grouped = itertools.groupby(zip(tokens, levels, strict=True), key=lambda pair: pair[1])
    return [("".join(token for token, _ in group), level) for level, group in grouped]
