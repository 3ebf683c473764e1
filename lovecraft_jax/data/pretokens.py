"""Splits a text into pretokens: words, numbers and punctuation, each with the space before it, and other white space.

Their concatenation is the text, whatever the text is. The tokens of large vocabularies are pretokens or parts of them.
"""

import functools
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from lovecraft_jax.data.characters import distinct, whole_lines

AT_ONCE = 1 << 17  # pretokens that are worked on at once: the memory for it stays bounded

_WHITE = r"\s\x1c-\x1f"
_LETTER = r"\p{L}\p{M}\p{Nl}\p{No}"
PATTERN = (
    rf"\n+| ?[{_LETTER}]+(?:'[{_LETTER}]+)*| ?\p{{Nd}}+| ?[^{_WHITE}{_LETTER}\p{{Nd}}]+"
    rf"|(?:[^\S\n]|[\x1c-\x1f])+(?= [^{_WHITE}])|(?:[^\S\n]|[\x1c-\x1f])+"
)
"""A pretoken, as the regular expressions of the `tokenizers` library write it: a sequence of newlines; a word, which
may have apostrophes inside; a number; punctuation; a sequence of spaces, but for the last where something follows it.
"""


class Pretokens:
    """A text as its different pretokens `types` and, for each pretoken of the text, the index of its type [N]."""

    def __init__(self, text: str) -> None:
        known: dict[str, int] = {}
        parts = [
            np.fromiter((known.setdefault(token, len(known)) for token in tokens), np.int32, len(tokens))
            for tokens in split(text)
        ]
        self.types = list(known)
        self.index_N: np.ndarray = np.concatenate(parts) if parts else np.zeros(0, np.int32)


def split(text: str) -> Iterator[list[str]]:
    """Yields the pretokens of a text in order, those of about a million characters at a time."""
    pattern = _pattern_for(distinct(text))
    for piece in whole_lines(text):
        yield pattern.findall(piece)


def split_short(text: str) -> list[str]:
    """Returns the pretokens of a text of a few words, for which `split` takes far longer."""
    return _pattern_for(sorted(set(text))).findall(text)


def split_prompt(text: str) -> list[str]:
    """Returns the pretokens of a text that goes on: the last one may be the beginning of a word. `split` takes it for
    complete: here "don'" is one pretoken, and of two spaces at the end the last belongs to what follows."""
    *before, last = split_short(text + "a")
    return [*before, last[:-1]] if len(last) > 1 else before


def expand(ids_of_types: Sequence[Sequence[int]], index_N: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Returns the ids of a text from those of its different pretokens and the index of each pretoken's."""
    lengths = np.array([len(ids) for ids in ids_of_types], np.int64)
    flat = np.array([one for ids in ids_of_types for one in ids], dtype)
    starts, parts = np.cumsum(lengths) - lengths, [flat[:0]]
    for begin in range(0, len(index_N), AT_ONCE):
        types_N = index_N[begin : begin + AT_ONCE]
        lengths_N = lengths[types_N]
        ends_N = np.cumsum(lengths_N)
        # Within each pretoken's ids the place in `flat` counts up from its start.
        places = np.arange(ends_N[-1]) + np.repeat(starts[types_N] - (ends_N - lengths_N), lengths_N)
        parts.append(flat[places])
    return np.concatenate(parts)


def _pattern_for(chars: Iterable[str]) -> re.Pattern[str]:
    """The pattern for texts of these characters."""
    # Python's regular expressions do not know combining marks, which belong to words.
    return _python_pattern("".join(char for char in chars if unicodedata.category(char).startswith("M")))


@functools.lru_cache(maxsize=256)
def _python_pattern(marks: str) -> re.Pattern[str]:
    """PATTERN in the syntax of Python, for a text whose only combining marks are `marks`: a search takes a tenth of the
    time that the `tokenizers` library needs."""
    letter = rf"(?:[^\W\d_]|[{re.escape(marks)}])" if marks else r"[^\W\d_]"
    other = rf"(?:(?![{re.escape(marks)}])(?:[^\s\w]|_))" if marks else r"(?:[^\s\w]|_)"
    return re.compile(rf"\n+| ?{letter}+(?:'{letter}+)*| ?\d+| ?{other}+|[^\S\n]+(?= \S)|[^\S\n]+")
