"""Splits texts into pieces for the page: by shared spans, by words and their surprisal, by a unit's activation."""

import dataclasses
import itertools
import re
from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np

from lovecraft_jax.stylometry.overlap import Span

BITS = (1, 2, 4, 6, 8)  # the lower ends of the levels 1, 2, ... of surprisal; below the first is level 0
ACTIVATIONS = (0.2, 0.4, 0.6, 0.8)  # those of activation, from 0 (the lowest of the passage) to 1 (the highest)

Mark = TypeVar("Mark")


@dataclasses.dataclass(frozen=True)
class WordSurprisal:
    """A word with the white space before it, its surprisal, and its pieces with the level of each."""

    text: str
    bits: float
    pieces: list[tuple[str, int]]


def mark_spans(text: str, spans: Iterable[Span]) -> list[tuple[str, Span | None]]:
    """Splits a text into pieces, each with its span or None. Where spans overlap, a piece belongs to the longest."""
    span_of: list[Span | None] = [None] * len(text)
    for span in sorted(spans, key=lambda span: span.length):
        span_of[span.start : span.end] = [span] * (min(span.end, len(text)) - span.start)
    return _join_equal(text, span_of)


def split_words(tokens: Sequence[str], bits: np.ndarray) -> list[WordSurprisal]:
    """Splits a text, given as tokens and their surprisals, into words. White space belongs to the word after it."""
    levels = np.searchsorted(BITS, bits, side="right").tolist()
    starts = [
        i for i, token in enumerate(tokens) if i == 0 or (token[:1].isspace() and not tokens[i - 1][-1:].isspace())
    ]
    words = [slice(start, end) for start, end in itertools.pairwise([*starts, len(tokens)])]
    return [
        WordSurprisal("".join(tokens[word]), float(sum(bits[word])), _join_equal(tokens[word], levels[word]))
        for word in words
    ]


def split_activations(text: str, activations: np.ndarray) -> list[tuple[str, int]]:
    """Splits a text into pieces with one level of activation each, given the activation at each character."""
    spread = float(np.ptp(activations)) or 1.0
    levels = np.searchsorted(ACTIVATIONS, (activations - activations.min()) / spread, side="right")
    return _join_equal(text, levels.tolist())


def shorten(text: str, length: int) -> str:
    """Returns at most the first `length` characters of a text. The last word, which may be cut, is dropped, except in a
    text without spaces, of which that would leave little."""
    if len(text) <= length:
        return text
    whole_words = re.sub(r"\s+\S*$", "", text[:length])
    return whole_words if 2 * len(whole_words) > length else text[:length]


def _join_equal(tokens: Sequence[str], marks: Sequence[Mark]) -> list[tuple[str, Mark]]:
    grouped = itertools.groupby(zip(tokens, marks, strict=True), key=lambda pair: pair[1])
    return [("".join(token for token, _ in group), mark) for mark, group in grouped]
