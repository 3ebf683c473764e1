"""Figures of a text's style: the article's and better ones, each countable by hand."""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from lovecraft_jax.stylometry.reference import OVERLAPS, Reference
from lovecraft_jax.stylometry.text import PREPOSITIONS, PRONOUNS, runs, sentences, words

WINDOW = 100
"""Running words in which distinct ones are counted, so that the count does not grow with the text."""


@dataclasses.dataclass(frozen=True)
class Figure:
    """One number about a text. `whole` is what a share is a share of; None where it is a size."""

    key: str
    label: str
    unit: str
    decimals: int
    whole: float | None = None
    article: bool = False


def _per_10_000(key: str, label: str, article: bool = True) -> Figure:
    return Figure(key, label, "per 10,000 words", 1, 1e4, article)


FIGURES = (
    Figure("word_length", "Mean word length", "letters", 2, article=True),
    Figure("capitals", "Capitals that start a word", "% of capitals", 1, 100, True),
    _per_10_000("the", "\u201cthe\u201d"),
    _per_10_000("tion_end", "Words that end in -tion"),
    _per_10_000("tion_inside", "Words with -tion- before their end"),
    _per_10_000("ing", "Words that end in -ing"),
    _per_10_000("ed", "Words that end in -ed"),
    Figure("pronouns", "Pronouns", "% of words", 1, 100, True),
    Figure("prepositions", "Prepositions", "% of words", 1, 100, True),
    Figure("once_distinct", "Words that occur once", "% of distinct words", 1, 100, True),
    Figure("once_running", "Words that occur once", "% of words", 1, 100, True),
    Figure("letters_tv", "Letter frequencies, total variation from the author's", "", 4, 1),
    Figure("letters_js", "Letter frequencies, Jensen-Shannon distance from the author's", "", 4, 1),
    Figure("word_spread", "Word lengths, standard deviation", "letters", 2),
    Figure("sentence_length", "Mean sentence length", "words", 1),
    Figure("sentence_spread", "Sentence lengths, standard deviation", "words", 1),
    Figure("real_train", "Words that the training text has", "% of words", 2, 100),
    Figure("real_held_out", "Words that the held-out text has", "% of words", 2, 100),
    Figure("real", "Real words: those that either has", "% of words", 2, 100),
    _per_10_000("invented_plausible", "Invented words, plausible", article=False),
    _per_10_000("invented_other", "Invented words, implausible", article=False),
    Figure("distinct_in_100", f"Distinct words among {WINDOW} running ones", "words", 1, WINDOW),
    Figure("zipf", "Zipf exponent", "", 3),
    Figure("distinct_1", "Distinct words", "% of words", 1, 100),
    Figure("distinct_2", "Distinct pairs of words", "% of pairs", 1, 100),
    Figure("distinct_3", "Distinct runs of three words", "% of runs", 1, 100),
    Figure("repetition", "Longest run of words said twice at once", "words", 0),
    Figure("overlap_2", "Pairs of words that the held-out text has", "% of pairs", 1, 100),
    Figure("overlap_3", "Runs of three words that the held-out text has", "% of runs", 1, 100),
)


def measure(text: str, reference: Reference) -> dict[str, float]:
    """Every figure of FIGURES by its key. Words count in any case of their letters; what there is none of is 0."""
    written = words(text)
    lower = [word.lower() for word in written]
    count = Counter(lower)
    once = sum(times == 1 for times in count.values())
    in_train, in_held_out = set(filter(reference.in_train, count)), set(filter(reference.in_held_out, count))
    invented = count.keys() - in_train - in_held_out
    plausible = set(filter(reference.is_plausible, invented))
    word_lengths, sentence_lengths = [len(word) for word in written], [len(words(part)) for part in sentences(text)]
    tv, js = letter_distances(reference.letters(text), reference.letters())

    def share(holds: Callable[[str], bool], of: float = 100) -> float:
        return _share(sum(times for word, times in count.items() if holds(word)), len(lower), of)

    return {
        "word_length": _mean(word_lengths),
        "capitals": _share(sum(word[0].isupper() for word in written), sum(map(str.isupper, text))),
        "the": share(lambda word: word == "the", 1e4),
        "tion_end": share(lambda word: word.endswith("tion"), 1e4),
        "tion_inside": share(lambda word: "tion" in word[:-1], 1e4),
        "ing": share(lambda word: word.endswith("ing"), 1e4),
        "ed": share(lambda word: word.endswith("ed"), 1e4),
        "pronouns": share(PRONOUNS.__contains__),
        "prepositions": share(PREPOSITIONS.__contains__),
        "once_distinct": _share(once, len(count)),
        "once_running": _share(once, len(lower)),
        "letters_tv": tv,
        "letters_js": js,
        "word_spread": _spread(word_lengths),
        "sentence_length": _mean(sentence_lengths),
        "sentence_spread": _spread(sentence_lengths),
        "real_train": share(in_train.__contains__),
        "real_held_out": share(in_held_out.__contains__),
        "real": share((in_train | in_held_out).__contains__),
        "invented_plausible": share(plausible.__contains__, 1e4),
        "invented_other": share((invented - plausible).__contains__, 1e4),
        "distinct_in_100": distinct_in(lower, WINDOW),
        "zipf": zipf_exponent(count.values()),
        **{f"distinct_{n}": _share(len(set(runs(lower, n))), len(runs(lower, n))) for n in (1, 2, 3)},
        "repetition": longest_repetition(lower),
        **{f"overlap_{n}": _mean([100 * reference.holds_out(run) for run in runs(lower, n)]) for n in OVERLAPS},
    }


def letter_distances(p: np.ndarray, q: np.ndarray) -> tuple[float, float]:
    """Total variation, and Jensen-Shannon distance in base 2 (Endres and Schindelin 2003), of two distributions."""
    middle = (p + q) / 2
    divergence = (_relative_entropy(p, middle) + _relative_entropy(q, middle)) / 2
    return float(np.abs(p - q).sum() / 2), math.sqrt(max(0.0, divergence))


def distinct_in(lower: Sequence[str], window: int) -> float:
    """Mean count of distinct words over all windows of so many running words (Covington and McFall 2010)."""
    window = min(window, len(lower))
    if not window:
        return 0.0
    last: dict[str, int] = {}
    found = 0
    for i, word in enumerate(lower):
        # The windows in which this is the word's first occurrence begin after the one before, and hold i.
        first = max(last.get(word, -1) + 1, i - window + 1)
        found += max(0, min(i, len(lower) - window) - first + 1)
        last[word] = i
    return found / (len(lower) - window + 1)


def zipf_exponent(counts: Iterable[int]) -> float:
    """The s of count ~ rank^-s by least squares in logarithms, over the words that occur more than once."""
    repeated = np.array(sorted((count for count in counts if count > 1), reverse=True), float)
    if len(repeated) < 2:
        return 0.0
    ranks = np.log(np.arange(1, len(repeated) + 1))
    ranks -= ranks.mean()
    return float(-(ranks @ np.log(repeated)) / (ranks @ ranks))


def longest_repetition(lower: Sequence[str]) -> int:
    """The longest run of words that follows itself at once, in words: 3 for "and the sea and the sea"."""
    number: dict[str, int] = {}
    ids = np.array([number.setdefault(word, len(number)) for word in lower])
    for length in range(len(ids) // 2, 0, -1):
        same = ids[:-length] == ids[length:]
        if np.count_nonzero(same) >= length and _longest_run(same) >= length:
            return length
    return 0


def _longest_run(flags: np.ndarray) -> int:
    breaks = np.flatnonzero(np.concatenate([[True], ~flags, [True]]))
    return int(np.diff(breaks).max()) - 1


def _relative_entropy(p: np.ndarray, q: np.ndarray) -> float:
    there = p > 0
    return float((p[there] * np.log2(p[there] / q[there])).sum())


def _share(part: float, whole: float, of: float = 100) -> float:
    return of * part / whole if whole else 0.0


def _mean(values: Sequence[int]) -> float:
    return sum(values) / len(values) if values else 0.0


def _spread(values: Sequence[int]) -> float:
    return float(np.std(values)) if values else 0.0
