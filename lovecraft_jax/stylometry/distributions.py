"""The distributions of letters, words and sentences behind the features, on axes that all texts share."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from lovecraft_jax.stylometry.reference import Reference
from lovecraft_jax.stylometry.text import sentences, words

WORD_LENGTHS = np.arange(1, 21)  # in letters; the last bin also counts all longer words
SENTENCE_LENGTHS = np.arange(5, 101, 5)  # in words, the upper ends of bins; the last also counts all longer sentences
RANKS = np.unique(np.geomspace(1, 1000, 28).astype(int))
PREFIX_LENGTHS = np.arange(100, 2001, 100)  # in words: the beginnings of the text in which distinct words are counted


def axes(reference: Reference) -> dict[str, np.ndarray]:
    """Returns the x values of each of the `distributions`."""
    return {
        "letters": np.array(list(reference.alphabet))[reference.frequent],
        "word_lengths": WORD_LENGTHS,
        "sentence_lengths": SENTENCE_LENGTHS,
        "zipf": RANKS,
        "type_token": PREFIX_LENGTHS,
    }


def distributions(text: str, reference: Reference) -> dict[str, np.ndarray]:
    """Returns the distributions of a text, by name, one value for each x of `axes`.

    - letters: the frequency of each letter, or of those that the author uses most.
    - word_lengths, sentence_lengths: the share of words, or sentences, in each bin.
    - zipf: the frequency of the word of each rank; NaN beyond the last rank.
    - type_token: the number of distinct words among the first x words; NaN beyond the end of the text.
    """
    lower = [word.lower() for word in words(text)]
    by_rank = np.array(sorted(Counter(lower).values(), reverse=True), float) / max(1, len(lower))
    first_at = {word: place for place, word in reversed(list(enumerate(lower)))}
    distinct = np.cumsum(np.bincount(list(first_at.values()), minlength=len(lower)).astype(float))
    return {
        "letters": reference.letter_frequencies(text)[reference.frequent],
        "word_lengths": _histogram([len(word) for word in lower], WORD_LENGTHS),
        "sentence_lengths": _histogram([len(words(sentence)) for sentence in sentences(text)], SENTENCE_LENGTHS),
        "zipf": _values_at(by_rank, RANKS),
        "type_token": _values_at(distinct, PREFIX_LENGTHS),
    }


def _histogram(values: Sequence[int], ends: np.ndarray) -> np.ndarray:
    """The share of the values in each bin, given the bins' upper ends (inclusive)."""
    bins = np.minimum(np.searchsorted(ends, np.array(values, int)), len(ends) - 1)
    return np.bincount(bins, minlength=len(ends)) / max(1, len(values))


def _values_at(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The values at places that count from 1; NaN at places beyond the end."""
    return np.append(values, np.nan)[np.minimum(places, len(values) + 1) - 1]
