"""The distributions behind the figures, each along an axis that texts of one length share: what the plots show."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from lovecraft_jax.stylometry.reference import Reference
from lovecraft_jax.stylometry.text import sentences, words

WORD_LENGTHS = np.arange(1, 21)
"""In letters; the last stands for all that are longer too."""
SENTENCE_LENGTHS = np.arange(5, 101, 5)
"""In words, the end of each bin of five; the last stands for all that are longer too."""
RANKS = np.unique(np.geomspace(1, 1000, 28).astype(int))
RUNNING = np.arange(100, 2001, 100)


def axes(reference: Reference) -> dict[str, np.ndarray]:
    """Where the values of `curves` stand: letters, letters a word, words a sentence, ranks, running words."""
    return {
        "letters": np.array(list(reference.alphabet)),
        "word_lengths": WORD_LENGTHS,
        "sentence_lengths": SENTENCE_LENGTHS,
        "zipf": RANKS,
        "type_token": RUNNING,
    }


def curves(text: str, reference: Reference) -> dict[str, np.ndarray]:
    """Shares of a text's letters, of its words by length, of its sentences by length; the share that the word of a rank
    has of its running words; the distinct words among so many of the first. NaN where the text is too short to reach.
    """
    lower = [word.lower() for word in words(text)]
    by_rank = np.array(sorted(Counter(lower).values(), reverse=True), float) / max(1, len(lower))
    firsts = {word: place for place, word in reversed(list(enumerate(lower)))}
    distinct = np.cumsum(np.bincount(list(firsts.values()), minlength=len(lower)).astype(float))
    return {
        "letters": reference.letters(text)[:-1],
        "word_lengths": _shares([len(word) for word in lower], WORD_LENGTHS),
        "sentence_lengths": _shares([len(words(sentence)) for sentence in sentences(text)], SENTENCE_LENGTHS),
        "zipf": _at(by_rank, RANKS),
        "type_token": _at(distinct, RUNNING),
    }


def _shares(values: Sequence[int], ends: np.ndarray) -> np.ndarray:
    bins = np.minimum(np.searchsorted(ends, np.array(values, int)), len(ends) - 1)
    return np.bincount(bins, minlength=len(ends)) / max(1, len(values))


def _at(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The values at places that count from 1; NaN past their end."""
    return np.append(values, np.nan)[np.minimum(places, len(values) + 1) - 1]
