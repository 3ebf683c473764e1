"""The author's tales that a text is compared with. Any one tale can be left out."""

import copy
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from itertools import chain
from typing import Self

import numpy as np

from lovecraft_jax.stylometry.text import ngrams, words

NGRAM_LENGTHS = (2, 3)  # the n of the word n-grams that are looked up in the held-out text
MAX_LETTERS = 60  # those of a larger alphabet that are compared one by one
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
"""Letters of scripts that put no spaces between words: Thai, Lao, Burmese, Khmer, Japanese, Chinese."""


class Reference:
    """The words, n-grams and letter frequencies of the author's tales (name -> text). Upper and lower case count as the
    same. A piece of a tale is compared with the others by `reference.without(tale)`, which takes constant time."""

    def __init__(self, train: Mapping[str, str], held_out: Mapping[str, str]) -> None:
        tales = {**train, **held_out}
        lower = {name: [word.lower() for word in words(text)] for name, text in tales.items()}
        self._left_out: str | None = None
        self._train = _Index({name: lower[name] for name in train})
        self._held_out = _Index({name: lower[name] for name in held_out})
        self._trigrams = _Index({name: chain.from_iterable(map(_letter_trigrams, set(lower[name]))) for name in tales})
        self._ngrams = {n: _Index({name: ngrams(lower[name], n) for name in held_out}) for n in NGRAM_LENGTHS}
        self._letters = {name: _letter_counts(text) for name, text in tales.items()}
        self._letters_of_all = sum(self._letters.values(), Counter())
        self.alphabet = "".join(sorted(self._letters_of_all))
        frequent = dict(self._letters_of_all.most_common(MAX_LETTERS))
        self.frequent = np.flatnonzero([char in frequent for char in self.alphabet])  # their places in `alphabet`

    def without(self, tale: str) -> Self:
        rest = copy.copy(self)
        rest._left_out = tale
        return rest

    def word_in_train(self, word: str) -> bool:
        return self._train.has(word, self._left_out)

    def word_in_held_out(self, word: str) -> bool:
        return self._held_out.has(word, self._left_out)

    def is_real_word(self, word: str) -> bool:
        return self.word_in_train(word) or self.word_in_held_out(word)

    def is_plausible_word(self, word: str) -> bool:
        """Whether each letter trigram of the word occurs in a word of the tales; start and end count as letters."""
        return all(self._trigrams.has(trigram, self._left_out) for trigram in _letter_trigrams(word))

    def ngram_in_held_out(self, ngram: tuple[str, ...]) -> bool:
        """Whether the held-out text contains a word n-gram; n is one of NGRAM_LENGTHS."""
        return self._ngrams[len(ngram)].has(ngram, self._left_out)

    def letter_frequencies(self, text: str | None = None) -> np.ndarray:
        """Returns the frequency of each letter of `alphabet`, then that of all other letters together [A + 1], counted
        in `text`, or in all tales if it is None. They add up to 1: if there are no letters, the last entry is 1."""
        if text is None:
            counts = self._letters_of_all - self._letters.get(self._left_out or "", Counter())
        else:
            counts = _letter_counts(text)
        known = [counts[char] for char in self.alphabet]
        array = np.array([*known, counts.total() - sum(known)], float)
        if not counts:
            array[-1] = 1
        return array / array.sum()

    @property
    def why_no_words(self) -> str:
        """Why counts of words say nothing about the tales, or ""."""
        if not self.alphabet:
            return "the text has no letters"
        unspaced = sum(count for char, count in self._letters_of_all.items() if _UNSPACED.match(char))
        return "the text puts no spaces between words" if 2 * unspaced > self._letters_of_all.total() else ""


class _Index:
    """The items (words or n-grams) of each tale, and in how many tales each item occurs."""

    def __init__(self, tales: Mapping[str, Iterable[Hashable]]) -> None:
        self._by_tale = {name: frozenset(items) for name, items in tales.items()}
        self._tale_counts = Counter(chain.from_iterable(self._by_tale.values()))

    def has(self, item: Hashable, left_out: str | None) -> bool:
        return self._tale_counts[item] > (left_out in self._by_tale and item in self._by_tale[left_out])


def _letter_counts(text: str) -> Counter[str]:
    return Counter({char: count for char, count in Counter(text.lower()).items() if char.isalpha()})


def _letter_trigrams(word: str) -> list[str]:
    marked = f"^{word}$"
    return [marked[i : i + 3] for i in range(len(marked) - 2)]
