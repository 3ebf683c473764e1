"""A model of how words are spelt: an interpolated Kneser-Ney n-gram of the characters of many words, by class of word.

It gives the cost of spelling a word that the vocabulary lacks, and generates such words. With modified smoothing
(kneser_ney.py),

    p(c | h) = (n(h c) - D(n(h c))) / n(h .) + g(h) p(c | h'),    g(h) = sum over c of D(n(h c)) / n(h .)

h is the word's class and at most `letters` characters before c; h' is h without the class, then without its first
character, and so on. n counts occurrences where h has the class; elsewhere what different characters or classes stand
before h c (Kneser and Ney 1995). In the end all characters are equally likely.

Axes in names: N symbols of all words, W words, C classes, M places of a context, V symbols that can follow, R rows of a
table.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lovecraft_jax.data.characters import code_points, distinct
from lovecraft_jax.data.kneser_ney import discounts

LETTERS = 6  # of the context; 5 costs Lovecraft's held-out tales .002 bpc more
CHUNK = 1 << 15  # words whose costs are computed at a time, which bounds memory
CACHE_BYTES = 1 << 24
"""Memory for the distributions of contexts, and as much for their cumulative sums, so that generation does not compute
them again."""
END, OTHER, FIRST_LETTER = 0, 1, 2
"""Symbols: before a word's first character and after its last, a character that no training word has, the first that
one has."""


class Speller:
    """The model of `words`, whose classes are numbers below `n_classes`. OTHER stands for a character that none of them
    has: one of `alphabet_size`, all equally likely. The context is the class and `letters` characters; None: nothing,
    so that it is a unigram model of characters."""

    def __init__(
        self,
        words: Sequence[str],
        classes: Sequence[int],
        n_classes: int,
        alphabet_size: int,
        letters: int | None = LETTERS,
    ) -> None:
        self._letters, self._alphabet_size = distinct("".join(words)), alphabet_size
        self._words_C = np.bincount(np.asarray(classes, int), minlength=n_classes)
        self._size = FIRST_LETTER + len(self._letters)  # symbols that can follow; those of classes come after them
        self._n_letters = letters or 0
        symbols_N, begins_W = self._symbols(words, classes)
        contexts_NM = _contexts(symbols_N, begins_W, self._n_letters)[:, : 0 if letters is None else None]
        is_given_N = np.isin(np.arange(len(symbols_N)), begins_W)  # the classes
        self._tables = _fit(symbols_N[~is_given_N], contexts_NM[~is_given_N], self._size, self._size + n_classes)
        kept = functools.lru_cache(max(1, CACHE_BYTES // (8 * self._size)))
        self._cumulative, self._probs_after = kept(self._compute_cumulative), kept(self._compute_probs_after)

    def nats(self, words: Sequence[str], classes: Sequence[int]) -> np.ndarray:
        """Returns what each word, of a character or more, costs, given its class and its end included: [W]."""
        starts = range(0, len(words), CHUNK)
        parts = (self._nats(words[start : start + CHUNK], classes[start : start + CHUNK]) for start in starts)
        return np.concatenate([np.zeros(0), *parts])

    def _nats(self, words: Sequence[str], classes: Sequence[int]) -> np.ndarray:
        symbols_N, begins_W = self._symbols(words, classes)
        contexts_NM = _contexts(symbols_N, begins_W, self._n_letters)
        nats_N = -np.log(self._probs(symbols_N, contexts_NM))
        firsts_W = begins_W + 1  # no word is empty
        nats_N[firsts_W] += np.log1p(-self._probs(np.full(len(firsts_W), END), contexts_NM[firsts_W]))
        nats_N += np.where(symbols_N == OTHER, math.log(self._alphabet_size), 0.0)
        nats_N[begins_W] = 0.0
        return np.add.reduceat(nats_N, begins_W)

    def likeliest_classes(self, words: Sequence[str]) -> list[int]:
        """Returns the class that each word is most likely to have by its spelling and the sizes of the classes."""
        prior_C = np.log(self._words_C + 0.5)  # a class may have no words
        nats_CW = np.array([self.nats(words, [one] * len(words)) for one in range(len(prior_C))])
        return np.argmax(prior_C[:, None] - nats_CW, axis=0).tolist()

    def generate(self, class_index: int, rng: np.random.Generator, longest: int, temperature: float = 1.0) -> str:
        """Returns a new word of a class, cut after `longest` characters. Each is drawn at this temperature (0: always
        the likeliest), and none is OTHER."""
        symbols: list[int] = []
        while len(symbols) < longest:
            letters = (*reversed(symbols[-self._n_letters :]), END)[: self._n_letters]
            cumulative_V = self._cumulative((*letters, self._size + class_index), temperature)
            symbol = int(np.searchsorted(cumulative_V, rng.random() * cumulative_V[-1], side="right"))
            if symbol == END:
                break
            symbols.append(symbol)
        return "".join(self._letters[symbol - FIRST_LETTER] for symbol in symbols)

    def _compute_cumulative(self, context: tuple[int, ...], temperature: float) -> np.ndarray:
        """Returns the sums of the weights of the symbols after a context, whose nearest symbol comes first [V]."""
        length, number = 0, 0
        for symbol, table in zip(context, self._tables[1:], strict=False):
            if (longer := table.find_one(number, symbol)) < 0:
                break
            length, number = length + 1, longer
        probs_V = self._probs_after(length, number).copy()
        is_first = context[0] == END
        probs_V[[OTHER, END] if is_first else OTHER] = 0.0
        return np.cumsum(at_temperature(probs_V, temperature))

    def _compute_probs_after(self, length: int, number: int) -> np.ndarray:
        """Returns the probabilities of the symbols after a context of that length, by its number in its table [V]."""
        table = self._tables[length]
        shorter = int(table.keys[number]) // table.n_symbols
        probs_V = self._probs_after(length - 1, shorter) if length else np.full(self._size, 1 / self._size)
        return table.after(number, probs_V)

    def _symbols(self, words: Sequence[str], classes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Returns the class, the characters and the END of each word, one after another [N], and where each begins
        [W]."""
        lengths_W = np.array([len(word) for word in words], int)
        begins_W = np.cumsum(lengths_W + 2) - lengths_W - 2
        symbols_N = np.full(int(lengths_W.sum()) + 2 * len(words), END)
        symbols_N[begins_W] = self._size + np.asarray(classes, int)
        known, text = code_points(self._letters), code_points("".join(words))
        places = np.searchsorted(known, text)
        is_known = np.append(known, 0)[places] == text if len(known) else np.zeros(len(text), bool)
        is_letter_N = ~np.isin(np.arange(len(symbols_N)), np.concatenate([begins_W, begins_W + lengths_W + 1]))
        symbols_N[is_letter_N] = np.where(is_known, FIRST_LETTER + places, OTHER)
        return symbols_N, begins_W

    def _probs(self, symbols_N: np.ndarray, contexts_NM: np.ndarray) -> np.ndarray:
        """Returns the probability of each symbol in its context."""
        probs_N, numbers_N = np.full(len(symbols_N), 1 / self._size), np.zeros(len(symbols_N), int)
        for length, table in enumerate(self._tables):
            if length:
                numbers_N = table.find(numbers_N, contexts_NM[:, length - 1])
            probs_N = table.interpolate(numbers_N, symbols_N, probs_N)
        return probs_N


class _Table(NamedTuple):
    """The n-grams of one length: contexts by their number, and the counts of what follows each. All arrays but
    `discount` have one more value at the end, for what the training words lack: a key that nothing has, or 0."""

    size: int  # symbols that can follow
    n_symbols: int  # with those of classes
    keys: np.ndarray  # of each context, sorted: the number of the one without its first symbol * n_symbols + that
    grams_R: np.ndarray  # sorted: the number of the context * size + the symbol after it
    counts_R: np.ndarray
    total: np.ndarray  # of the counts of each context
    left: np.ndarray  # of each context: what the discounts take from it
    discount: np.ndarray  # by count, up to 3

    def find(self, shorter_N: np.ndarray, first_N: np.ndarray) -> np.ndarray:
        """Returns the numbers of contexts, from those of the contexts without their first symbols; -1 where the
        training words have none."""
        wanted_N = shorter_N * self.n_symbols + first_N
        places_N = np.searchsorted(self.keys, wanted_N)
        is_there_N = self.keys[places_N] == wanted_N
        return np.where(is_there_N & (shorter_N >= 0) & (first_N >= 0), places_N, -1)

    def find_one(self, shorter: int, first: int) -> int:
        """`find` for one context that the training words have without its first symbol, without NumPy's overhead."""
        wanted = shorter * self.n_symbols + first
        place = int(self.keys.searchsorted(wanted))
        return place if self.keys[place] == wanted else -1

    def after(self, number: int, lower_V: np.ndarray) -> np.ndarray:
        """Returns the probabilities of all symbols in one context, from those in it without its first symbol."""
        begin, end = self.grams_R.searchsorted([number * self.size, (number + 1) * self.size])
        counts = self.counts_R[begin:end]
        probs_V = self.left[number] * lower_V
        probs_V[self.grams_R[begin:end] - number * self.size] += counts - self.discount[np.minimum(counts, 3)]
        return probs_V / self.total[number]

    def interpolate(self, numbers_N: np.ndarray, symbols_N: np.ndarray, lower_N: np.ndarray) -> np.ndarray:
        """Returns the probabilities of symbols in contexts, from those in the contexts without their first symbols."""
        wanted_N = numbers_N * self.size + symbols_N
        places_N = np.searchsorted(self.grams_R, wanted_N)
        counts_N = np.where(self.grams_R[places_N] == wanted_N, self.counts_R[places_N], 0)
        total_N, left_N = self.total[numbers_N], self.left[numbers_N]  # those at the end for -1
        kept_N = counts_N - self.discount[np.minimum(counts_N, 3)]
        return np.where(total_N > 0, (kept_N + left_N * lower_N) / np.maximum(total_N, 1), lower_N)


def at_temperature(weights: np.ndarray, temperature: float) -> np.ndarray:
    """Returns the weights to the power of 1 / temperature, the largest being 1; at 0 all others are 0."""
    if temperature == 0:
        return np.where(np.arange(len(weights)) == np.argmax(weights), 1.0, 0.0)
    with np.errstate(divide="ignore", over="ignore"):
        logs = np.log(weights)  # -inf for 0
        return np.exp((logs - logs.max()) / temperature)


def _fit(symbols_N: np.ndarray, contexts_NM: np.ndarray, size: int, n_symbols: int) -> list[_Table]:
    """Returns a table for each length of the context, from 0 on."""
    tables, keys, numbers_N = [], np.zeros(1, int), np.zeros(len(symbols_N), int)
    for length in range(contexts_NM.shape[1] + 1):
        grams_N = numbers_N * size + symbols_N
        grams_R, rows_N, counts_R = np.unique(grams_N, return_inverse=True, return_counts=True)
        longer = length < contexts_NM.shape[1]
        if longer:
            first_N = contexts_NM[:, length]
            is_longer_N = first_N >= 0  # all of an n-gram are, or none: where its context has the class
            longer_keys = np.unique((numbers_N * n_symbols + first_N)[is_longer_N])
            longer_N = np.searchsorted(longer_keys, (numbers_N * n_symbols + first_N)[is_longer_N])
            # Each n-gram counts once for each different symbol before it.
            _, once = np.unique(longer_N * size + symbols_N[is_longer_N], return_index=True)
            preceded_R = np.bincount(rows_N[is_longer_N][once], minlength=len(grams_R))
            counts_R = np.where(preceded_R > 0, preceded_R, counts_R)
        discount, context_R = np.array([0.0, *discounts(counts_R)]), grams_R // size
        total = np.bincount(context_R, counts_R, len(keys))
        left = np.bincount(context_R, discount[np.minimum(counts_R, 3)], len(keys))
        keys, grams_R = np.append(keys, np.iinfo(int).max), np.append(grams_R, np.iinfo(int).max)
        counts_R, total, left = np.append(counts_R, 0), np.append(total, 0), np.append(left, 0)
        tables.append(_Table(size, n_symbols, keys, grams_R, counts_R, total, left, discount))
        if longer:
            symbols_N, contexts_NM = symbols_N[is_longer_N], contexts_NM[is_longer_N]
            numbers_N, keys = longer_N, longer_keys
    return tables


def _contexts(symbols_N: np.ndarray, begins_W: np.ndarray, letters: int) -> np.ndarray:
    """Returns the symbols before each [N, letters + 1], the nearest first: up to `letters` characters, of which an END
    stands before the word's first; then the class; then -1."""
    N = len(symbols_N)
    begin_N = np.repeat(begins_W, np.diff(np.append(begins_W, N)))
    place_N = np.arange(N) - begin_N  # 0: the class
    contexts_NM = np.full((N, letters + 1), -1)
    for n in range(letters):
        letter_N = np.where(place_N == n + 1, END, np.roll(symbols_N, n + 1))
        contexts_NM[:, n] = np.where(n < place_N, letter_N, -1)
    is_letter_N = place_N > 0
    contexts_NM[is_letter_N, np.minimum(letters, place_N[is_letter_N])] = symbols_N[begin_N[is_letter_N]]
    return contexts_NM
