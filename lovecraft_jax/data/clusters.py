"""Classes of words by the words beside them: the exchange algorithm for a bigram model of classes.

Reinhard Kneser and Hermann Ney, Improved Clustering Techniques for Class-Based Statistical Language Modelling (1993);
Sven Martin, Jörg Liermann and Hermann Ney, Algorithms for Bigram and Trigram Word Clustering (1998). Where
p(w | v) = p(w | class of w) p(class of w | class of v), the log-likelihood of a text is, but for a constant,

    sum over classes c, d of f(n(c d)) - 2 sum over c of f(n(c)),    f(n) = n log n

with the counts n of pairs of neighbours and of words. Each word in turn is moved to the class where that is greatest.
Axes in names: N words of a text, W different words, C classes, P different pairs of neighbours.
"""

import numpy as np

ITERATIONS = 5
"""The most iterations over all words; in each a word may move once. This bounds the time: the last gain little."""


def exchange(words_N: np.ndarray, n_words: int, n_classes: int) -> np.ndarray:
    """Returns the class of each of `n_words` words [W], a number below `n_classes`. The text `words_N` has the numbers
    of its words, the most frequent first; those from `n_words` on are taken for one more word in a class of its own.
    The first word follows the last one. Time grows with W C, and a little with P."""
    state = _State(words_N, n_words, n_classes)
    for _ in range(ITERATIONS):
        if not sum([state.move(word) for word in range(n_words)]):
            break
    return state.class_W[:n_words]


class _State:
    """The classes and counts of all words; W and C have one more here, for the words that do not move."""

    def __init__(self, words_N: np.ndarray, n_words: int, n_classes: int) -> None:
        words_N = np.minimum(words_N, n_words).astype(np.int64)
        W, self._n_classes, self._size = n_words + 1, n_classes, n_classes + 1
        pairs_P, counts_P = np.unique(words_N * W + np.roll(words_N, -1), return_counts=True)
        first_P, second_P = np.divmod(pairs_P, W)
        self._count_W = np.bincount(words_N, minlength=W)
        twice_P = first_P == second_P
        self._twice_W = np.bincount(first_P[twice_P], counts_P[twice_P], W)  # how often a word follows itself
        self._next = _Neighbours(first_P[~twice_P], second_P[~twice_P], counts_P[~twice_P], W)
        self._previous = _Neighbours(second_P[~twice_P], first_P[~twice_P], counts_P[~twice_P], W)
        self.class_W = np.append(np.arange(n_words) % n_classes, n_classes)
        self._pairs_CC = np.zeros((self._size, self._size))
        np.add.at(self._pairs_CC, (self.class_W[first_P], self.class_W[second_P]), counts_P)
        self._f_CC = _f(self._pairs_CC)  # a copy is quicker than to compute it again
        self._count_C = np.bincount(self.class_W, self._count_W, self._size)

    def move(self, word: int) -> bool:
        """Moves a word to its best class; returns whether that is another than before."""
        before = self.class_W[word]
        previous_C, next_C = (side.by_class(word, self.class_W, self._size) for side in (self._previous, self._next))
        self._add(word, before, previous_C, next_C, -1)
        gain_C = self._gains(word, previous_C, next_C)
        best = int(np.argmax(gain_C))
        if gain_C[best] <= gain_C[before] + 1e-9:  # rounding must not move words back and forth
            best = before
        self._add(word, best, previous_C, next_C, 1)
        self.class_W[word] = best
        return best != before

    def _add(self, word: int, to: int, previous_C: np.ndarray, next_C: np.ndarray, sign: int) -> None:
        """Adds a word's counts to those of a class, or takes them away."""
        self._pairs_CC[:, to] += sign * previous_C
        self._pairs_CC[to, :] += sign * next_C
        self._pairs_CC[to, to] += sign * self._twice_W[word]
        self._count_C[to] += sign * self._count_W[word]
        self._f_CC[:, to], self._f_CC[to, :] = _f(self._pairs_CC[:, to]), _f(self._pairs_CC[to, :])

    def _gains(self, word: int, previous_C: np.ndarray, next_C: np.ndarray) -> np.ndarray:
        """Returns by how much each class would raise the log-likelihood if it took the word, which has none now."""
        n = self._n_classes
        rows, columns = np.flatnonzero(previous_C), np.flatnonzero(next_C)
        before = _f(self._pairs_CC[rows, :n] + previous_C[rows, None]) - self._f_CC[rows, :n]
        after = _f(self._pairs_CC[:n, columns] + next_C[columns]) - self._f_CC[:n, columns]
        # The pairs within the class itself are in both.
        within_C, both_C = np.diagonal(self._pairs_CC)[:n], previous_C[:n] + next_C[:n] + self._twice_W[word]
        twice = _f(within_C + previous_C[:n]) + _f(within_C + next_C[:n]) - _f(within_C)
        words = _f(self._count_C[:n] + self._count_W[word]) - _f(self._count_C[:n])
        return before.sum(axis=0) + after.sum(axis=1) + _f(within_C + both_C) - twice - 2 * words


class _Neighbours:
    """The words that stand on one side of each word, with how often they do."""

    def __init__(self, words_P: np.ndarray, others_P: np.ndarray, counts_P: np.ndarray, n_words: int) -> None:
        order = np.argsort(words_P, kind="stable")
        self._others_P, self._counts_P = others_P[order], counts_P[order]
        self._begins = np.searchsorted(words_P[order], np.arange(n_words + 1)).tolist()

    def by_class(self, word: int, class_W: np.ndarray, size: int) -> np.ndarray:
        """Returns how many neighbours of a word are in each class."""
        here = slice(self._begins[word], self._begins[word + 1])
        return np.bincount(class_W[self._others_P[here]], self._counts_P[here], size)


def _f(counts: np.ndarray) -> np.ndarray:
    return counts * np.log(np.maximum(counts, 1))
