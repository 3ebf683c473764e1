"""Features of a text's style: those that the article of 2019 counted, and more. Each can be checked by hand."""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np

from lovecraft_jax.stylometry.reference import NGRAM_LENGTHS, Reference
from lovecraft_jax.stylometry.text import PREPOSITIONS, PRONOUNS, ngrams, sentences, words

WINDOW = 100  # distinct words are counted in windows of so many words, so that the count does not grow with the text


@dataclasses.dataclass(frozen=True)
class Feature:
    """Describes one feature; `measure` returns its value under `key`."""

    key: str
    label: str
    unit: str
    decimals: int
    out_of: float | None = None  # the largest possible value (100 for a percentage), None for a size, which has none
    article: bool = False  # whether the article of 2019 counted it


_per_10_000 = partial(Feature, unit="per 10,000 words", decimals=1, out_of=1e4, article=True)

FEATURES = (
    Feature("word_length", "Mean word length", "letters", 2, article=True),
    Feature("capitals", "Capitals that start a word", "% of capitals", 1, 100, True),
    _per_10_000("the", "\u201cthe\u201d"),
    _per_10_000("tion_end", "Words that end in -tion"),
    _per_10_000("tion_inside", "Words with -tion- before their end"),
    _per_10_000("ing", "Words that end in -ing"),
    _per_10_000("ed", "Words that end in -ed"),
    Feature("pronouns", "Pronouns", "% of words", 1, 100, True),
    Feature("prepositions", "Prepositions", "% of words", 1, 100, True),
    Feature("once_distinct", "Words that occur once", "% of distinct words", 1, 100, True),
    Feature("once_running", "Words that occur once", "% of words", 1, 100, True),
    Feature("letters_tv", "Letter frequencies, total variation from the author's", "", 4, 1),
    Feature("letters_js", "Letter frequencies, Jensen-Shannon distance from the author's", "", 4, 1),
    Feature("word_spread", "Word lengths, standard deviation", "letters", 2),
    Feature("sentence_length", "Mean sentence length", "words", 1),
    Feature("sentence_spread", "Sentence lengths, standard deviation", "words", 1),
    Feature("real_train", "Words found in the training text", "% of words", 2, 100),
    Feature("real_held_out", "Words found in the held-out text", "% of words", 2, 100),
    Feature("real", "Real words: found in either", "% of words", 2, 100),
    _per_10_000("invented_plausible", "Invented words, plausible", article=False),
    _per_10_000("invented_other", "Invented words, implausible", article=False),
    Feature("distinct_in_100", f"Distinct words among {WINDOW} consecutive ones", "words", 1, WINDOW),
    Feature("zipf", "Zipf exponent", "", 3),
    Feature("distinct_1", "Distinct words", "% of words", 1, 100),
    Feature("distinct_2", "Distinct word bigrams", "% of bigrams", 1, 100),
    Feature("distinct_3", "Distinct word trigrams", "% of trigrams", 1, 100),
    Feature("repetition", "Longest n-gram repeated immediately", "words", 0),
    Feature("overlap_2", "Word bigrams found in the held-out text", "% of bigrams", 1, 100),
    Feature("overlap_3", "Word trigrams found in the held-out text", "% of trigrams", 1, 100),
)


def measure(text: str, reference: Reference) -> dict[str, float]:
    """Returns the value of each of FEATURES by its key. Case is ignored in words; a mean or share of nothing is 0."""
    as_written = words(text)
    lower = [word.lower() for word in as_written]
    counts = Counter(lower)
    once = sum(n == 1 for n in counts.values())
    in_train = set(filter(reference.word_in_train, counts))
    in_held_out = set(filter(reference.word_in_held_out, counts))
    invented = counts.keys() - in_train - in_held_out
    plausible = set(filter(reference.is_plausible_word, invented))
    word_lengths, sentence_lengths = [len(word) for word in as_written], [len(words(part)) for part in sentences(text)]
    tv, js = letter_distances(reference.letter_frequencies(text), reference.letter_frequencies())
    grams, known_ngram = {n: ngrams(lower, n) for n in (1, 2, 3)}, reference.ngram_in_held_out

    def rate(matches: Callable[[str], bool], out_of: float = 100) -> float:
        return _share(sum(n for word, n in counts.items() if matches(word)), len(lower), out_of)

    return {
        "word_length": _mean(word_lengths),
        "capitals": _share(sum(word[0].isupper() for word in as_written), sum(map(str.isupper, text))),
        "the": rate(lambda word: word == "the", 1e4),
        "tion_end": rate(lambda word: word.endswith("tion"), 1e4),
        "tion_inside": rate(lambda word: "tion" in word[:-1], 1e4),
        "ing": rate(lambda word: word.endswith("ing"), 1e4),
        "ed": rate(lambda word: word.endswith("ed"), 1e4),
        "pronouns": rate(PRONOUNS.__contains__),
        "prepositions": rate(PREPOSITIONS.__contains__),
        "once_distinct": _share(once, len(counts)),
        "once_running": _share(once, len(lower)),
        "letters_tv": tv,
        "letters_js": js,
        "word_spread": float(np.std(word_lengths or [0])),
        "sentence_length": _mean(sentence_lengths),
        "sentence_spread": float(np.std(sentence_lengths or [0])),
        "real_train": rate(in_train.__contains__),
        "real_held_out": rate(in_held_out.__contains__),
        "real": rate((in_train | in_held_out).__contains__),
        "invented_plausible": rate(plausible.__contains__, 1e4),
        "invented_other": rate((invented - plausible).__contains__, 1e4),
        "distinct_in_100": mean_distinct_words(lower, WINDOW),
        "zipf": zipf_exponent(counts.values()),
        **{f"distinct_{n}": _share(len(set(grams[n])), len(grams[n])) for n in grams},
        "repetition": longest_repetition(lower),
        **{f"overlap_{n}": _share(sum(map(known_ngram, grams[n])), len(grams[n])) for n in NGRAM_LENGTHS},
    }


def letter_distances(p: np.ndarray, q: np.ndarray) -> tuple[float, float]:
    """Returns the total variation distance and the Jensen-Shannon distance of two distributions. The latter is the root
    of the divergence in bits (Endres and Schindelin 2003), so both lie between 0 and 1."""
    middle, entropies = (p + q) / 2, 0.0
    for one in (p, q):
        there = one > 0
        entropies += float((one[there] * np.log2(one[there] / middle[there])).sum())
    return float(np.abs(p - q).sum() / 2), math.sqrt(max(0.0, entropies / 2))


def mean_distinct_words(lower: Sequence[str], window: int) -> float:
    """Returns the mean number of distinct words over all windows of `window` words: the moving-average type-token ratio
    (Covington and McFall 2010), times the window. A text shorter than the window is one window."""
    window = min(window, len(lower))
    if not window:
        return 0.0
    last: dict[str, int] = {}
    total = 0
    for i, word in enumerate(lower):
        # Count the windows that contain i but no earlier occurrence of the word: it is a distinct word in each of them.
        first = max(last.get(word, -1) + 1, i - window + 1)
        total += max(0, min(i, len(lower) - window) - first + 1)
        last[word] = i
    return total / (len(lower) - window + 1)


def zipf_exponent(counts: Iterable[int]) -> float:
    """Returns the s of count ~ rank^-s, fitted by least squares in log-log space to words that occur twice or more; 0
    for fewer than two of them."""
    repeated = np.array(sorted((count for count in counts if count > 1), reverse=True), float)
    if len(repeated) < 2:
        return 0.0
    ranks = np.log(np.arange(1, len(repeated) + 1))
    ranks -= ranks.mean()
    return float(-(ranks @ np.log(repeated)) / (ranks @ ranks))


def longest_repetition(lower: Sequence[str]) -> int:
    """Returns the n of the longest n-gram that is repeated immediately: 3 for "and the sea and the sea"."""
    numbers: dict[str, int] = {}
    ids = np.array([numbers.setdefault(word, len(numbers)) for word in lower])
    for n in range(len(ids) // 2, 0, -1):
        same = ids[:-n] == ids[n:]
        if np.count_nonzero(same) >= n:
            breaks = np.flatnonzero(np.concatenate([[True], ~same, [True]]))
            if np.diff(breaks).max() > n:  # n words in succession are the same as n words before
                return n
    return 0


def _share(part: float, whole: float, out_of: float = 100) -> float:
    return out_of * part / whole if whole else 0.0


def _mean(values: Sequence[int]) -> float:
    return sum(values) / len(values) if values else 0.0
