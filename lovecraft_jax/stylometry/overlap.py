"""Verbatim overlap: the spans that a text shares with the training text, found exactly with a suffix array."""

import dataclasses
import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from pydivsufsort import divsufsort

MIN_SPAN = 20  # characters: shorter spans are not reported, and one of about this length can still be a stock phrase
SPAN_LENGTHS = (MIN_SPAN, 50, 100)
_SEPARATOR = "\0"  # ends every tale; no text read from a file contains it (data/corpus.py refuses it)


@dataclasses.dataclass(frozen=True)
class Span:
    """The characters text[start:end], which also occur in `tale`, from `offset` on."""

    start: int
    end: int
    tale: str
    offset: int

    @property
    def length(self) -> int:
        return self.end - self.start


class Overlap:
    """Finds the spans that a text shares with `tales` (name -> text), each within one tale: if a span occurs at several
    places, the first, in the alphabetical order of the tales' names. The suffix array is built once, in 0.2 s."""

    def __init__(self, tales: Mapping[str, str]) -> None:
        self._names = sorted(tales)
        self._text = "".join(tales[name] + _SEPARATOR for name in self._names)
        lengths = [len(tales[name]) + 1 for name in self._names]
        self._starts = list(itertools.accumulate(lengths, initial=0))[:-1]
        codes = np.frombuffer(self._text.encode("utf-32-le"), np.uint32)
        codes = codes.astype(np.min_scalar_type(codes.max(initial=0)))  # bytes sort fastest, in the least memory
        suffixes = divsufsort(codes) if len(codes) else np.empty(0, np.int32)
        self._suffixes = suffixes.view(np.uint8).data.cast("i")  # indexing a memoryview is much faster than numpy

    def spans(self, text: str, min_length: int = MIN_SPAN) -> list[Span]:
        """Returns all shared spans of at least `min_length` characters that cannot be extended to either side, by
        `start`; they may overlap. 100,000 characters take about a second. Raises ValueError for a
        `min_length` below 1."""
        _check_positive("min_length", min_length)
        return [self._locate(text, start, end) for start, end in self._matches(text, min_length)]

    def longest(self, text: str) -> Span | None:
        """Returns the longest span, the first of equally long ones; None if no character is shared."""
        for min_length in (MIN_SPAN, MIN_SPAN // 2, MIN_SPAN // 4, 1):  # the shorter, the more spans there are
            if matches := list(self._matches(text, min_length)):
                return self._locate(text, *max(matches, key=lambda match: match[1] - match[0]))
        return None

    def shares(self, text: str, lengths: Sequence[int] = SPAN_LENGTHS) -> dict[int, float]:
        """Returns for each length the share of the text's characters that lie in spans of at least that length. Raises
        ValueError for no length and for one below 1."""
        if not lengths:
            raise ValueError("lengths: none given; expected at least one")
        for length in lengths:
            _check_positive("lengths", length)
        matches = list(self._matches(text, min(lengths)))
        shares = {}
        for length in lengths:
            covered, reached = 0, 0
            for start, end in matches:  # by start
                if end - start >= length:
                    covered += end - max(start, reached)
                    reached = end
            shares[length] = covered / max(1, len(text))
        return shares

    def measure(self, text: str) -> dict[str, float]:
        """Returns {"copied_longest": characters, "copied_20": % of the characters in spans of at least 20, ...}."""
        longest, shares = self.longest(text), self.shares(text)
        copied = {f"copied_{length}": 100 * share for length, share in shares.items()}
        return {"copied_longest": float(longest.length if longest else 0)} | copied

    def quantiles(self, texts: Iterable[str], length: int) -> dict[str, tuple[float, float, float]]:
        """Returns the 2.5 %, 50 % and 97.5 % quantiles of each value of `measure` over pieces of other texts, of
        `length` characters each; a shorter text is one piece. The author's held-out tales show what to expect
        without memorisation. Raises ValueError for no texts and for a `length` below 1."""
        _check_positive("length", length)
        pieces = [text[at : at + length] for text in texts for at in range(0, max(1, len(text) - length + 1), length)]
        if not pieces:
            raise ValueError("texts: none given; expected at least one")
        measured = [self.measure(piece) for piece in pieces]
        return {
            key: tuple(np.quantile([values[key] for values in measured], (0.025, 0.5, 0.975)).tolist())
            for key in measured[0]
        }

    def _matches(self, text: str, min_length: int) -> Iterator[tuple[int, int]]:
        """Yields (start, end) of each maximal match of at least `min_length` characters. Every substring of a match is
        a match too. So for a fixed `end`, if text[start:end] matches, it also matches from every later start, and a
        binary search finds the first start. Positions it skips are never looked at."""
        start, end = 0, min_length
        while end <= len(text):
            start = bisect_left(range(end), True, lo=start, key=lambda at: self._contains(text[at:end]))
            if end - start >= min_length:
                end = self._extend(text, start, end)
                yield start, end
                end += 1  # the next match is not inside this one, so it ends later
            else:
                end = start + min_length

    def _extend(self, text: str, start: int, end: int) -> int:
        """The end of the longest match that begins at `start`, given that text[start:end] matches."""
        step = 1
        while end + step <= len(text) and self._contains(text[start : end + step]):
            end, step = end + step, 2 * step
        candidates = range(end + 1, min(end + step, len(text) + 1))
        return end + bisect_left(candidates, True, key=lambda to: not self._contains(text[start:to]))

    def _contains(self, part: str) -> bool:
        at = self._first_suffix(part)
        return at < len(self._suffixes) and self._text.startswith(part, self._suffixes[at])

    def _first_suffix(self, part: str) -> int:
        """The index of the first suffix, in sorted order, that is not smaller than `part`."""
        return bisect_left(self._suffixes, part, key=lambda at: self._text[at : at + len(part)])

    def _locate(self, text: str, start: int, end: int) -> Span:
        part, first = text[start:end], self._first_suffix(text[start:end])
        last = bisect_right(self._suffixes, part, lo=first, key=lambda at: self._text[at : at + len(part)])
        at = min(self._suffixes[first:last])
        tale = bisect_right(self._starts, at) - 1
        return Span(start, end, self._names[tale], at - self._starts[tale])


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name}={value}: expected a whole number of at least 1")
