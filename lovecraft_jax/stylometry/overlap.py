"""Spans that a text shares with the training text: exact, by binary search in the tales' suffix array."""

import dataclasses
import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from pydivsufsort import divsufsort

LEAST = 20
"""Characters from which a shared span is told of: as many as a stock phrase has, not yet a theft."""
LENGTHS = (LEAST, 50, 100)
_BORDER = "\0"  # ends every tale; no text from a file has it (`data/corpus.py`)


@dataclasses.dataclass(frozen=True)
class Span:
    """text[start:end] stands in `tale` too, from `offset` on."""

    start: int
    end: int
    tale: str
    offset: int

    @property
    def length(self) -> int:
        """In characters."""
        return self.end - self.start


class Overlap:
    """What texts share with `tales` (name to text), of which there is one index: 0.2 s and 13 MB for 2.6 million
    characters. No span runs on from one tale into the next. Of the places that hold a span, the first is named, the
    tales in the order of their names."""

    def __init__(self, tales: Mapping[str, str]) -> None:
        self._names = sorted(tales)
        self._text = "".join(tales[name] + _BORDER for name in self._names)
        lengths = [len(tales[name]) + 1 for name in self._names]
        self._starts = list(itertools.accumulate(lengths, initial=0))[:-1]
        codes = np.frombuffer(self._text.encode("utf-32-le"), np.uint32)
        codes = codes.astype(np.min_scalar_type(codes.max(initial=0)))  # bytes are sorted in least time and memory
        suffixes = divsufsort(codes) if len(codes) else np.empty(0, np.int32)
        self._suffixes = suffixes.view(np.uint8).data.cast("i")  # whose items are read far faster than numpy's

    def spans(self, text: str, least: int = LEAST) -> list[Span]:
        """Every span of at least `least` characters that can be lengthened on neither side, by `start`; they may
        overlap. 100,000 characters take about a second."""
        return [self._locate(text, start, end) for start, end in self._matches(text, least)]

    def longest(self, text: str) -> Span | None:
        """The longest span, the first of several; None where no character is shared."""
        for least in (LEAST, LEAST // 2, LEAST // 4, 1):  # the shorter, the more of them there are
            if matches := list(self._matches(text, least)):
                return self._locate(text, *max(matches, key=lambda match: match[1] - match[0]))
        return None

    def shares(self, text: str, lengths: Sequence[int] = LENGTHS) -> dict[int, float]:
        """By length, the share of the text's characters that lie inside spans of at least so many; 0 of no text."""
        matches = list(self._matches(text, min(lengths)))
        return {
            least: _covered(match for match in matches if match[1] - match[0] >= least) / max(1, len(text))
            for least in lengths
        }

    def figures(self, text: str) -> dict[str, float]:
        """{"copied_longest": characters, "copied_20": % of the characters in spans of at least 20, ...}."""
        longest = self.longest(text)
        shares = {f"copied_{least}": 100 * share for least, share in self.shares(text).items()}
        return {"copied_longest": float(longest.length if longest else 0)} | shares

    def author(self, texts: Iterable[str], length: int) -> dict[str, tuple[float, float, float]]:
        """What to read a text's figures against: the 2.5 %, 50 % and 97.5 % quantiles of those of the author's own
        `texts` that are not in the index, in pieces of `length` characters; what is shorter is a piece too."""
        pieces = [text[at : at + length] for text in texts for at in range(0, max(1, len(text) - length + 1), length)]
        found = [self.figures(piece) for piece in pieces]
        return {
            key: tuple(np.quantile([figures[key] for figures in found], (0.025, 0.5, 0.975)).tolist())
            for key in found[0]
        }

    def _matches(self, text: str, least: int) -> Iterator[tuple[int, int]]:
        """(start, end) of every maximal match of at least `least` characters.

        A part of what a tale holds is held too. So where `text` must match up to `end`, the starts from which it does
        are all those from some first one on, which a binary search finds; what it passes over is never looked at.
        """
        start, end = 0, least
        while end <= len(text):
            start = bisect_left(range(end), True, lo=start, key=lambda at: self._holds(text[at:end]))
            if end - start >= least:
                end = self._end(text, start, end)
                yield start, end
                end += 1  # the next match, not being inside this one, goes further
            else:
                end = start + least

    def _end(self, text: str, start: int, end: int) -> int:
        """How far the match goes that begins at `start` and reaches `end`."""
        step = 1
        while end + step <= len(text) and self._holds(text[start : end + step]):
            end, step = end + step, 2 * step
        beyond = range(end + 1, min(end + step, len(text) + 1))
        return end + bisect_left(beyond, True, key=lambda to: not self._holds(text[start:to]))

    def _holds(self, part: str) -> bool:
        at = self._first(part)
        return at < len(self._suffixes) and self._text.startswith(part, self._suffixes[at])

    def _first(self, part: str) -> int:
        """The first suffix, in their order, that is not before `part`."""
        return bisect_left(self._suffixes, part, key=lambda at: self._text[at : at + len(part)])

    def _locate(self, text: str, start: int, end: int) -> Span:
        part, first = text[start:end], self._first(text[start:end])
        last = bisect_right(self._suffixes, part, lo=first, key=lambda at: self._text[at : at + len(part)])
        at = min(self._suffixes[first:last])
        tale = bisect_right(self._starts, at) - 1
        return Span(start, end, self._names[tale], at - self._starts[tale])


def _covered(matches: Iterator[tuple[int, int]]) -> int:
    """How many characters lie inside at least one, which come in the order of their starts and ends."""
    covered, reached = 0, 0
    for start, end in matches:
        covered += end - max(start, reached)
        reached = end
    return covered
