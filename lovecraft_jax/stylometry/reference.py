"""What a text's style is measured against: the author's tales, any one of which can be left out."""

import copy
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from itertools import chain
from typing import Self

import numpy as np

from lovecraft_jax.stylometry.text import runs, words

OVERLAPS = (2, 3)
"""Words in the runs that are looked for in the held-out text."""


class Reference:
    """Tales as a text is measured against them. Words are known in any case of their letters.

    `train` and `held_out` are tale name -> text. A piece of one of the tales is measured against the others:
    `reference.without(tale)`, which costs nothing.
    """

    def __init__(self, train: Mapping[str, str], held_out: Mapping[str, str]) -> None:
        tales = {**train, **held_out}
        lower = {name: [word.lower() for word in words(text)] for name, text in tales.items()}
        self._left_out: str | None = None
        self._train = _Seen({name: lower[name] for name in train})
        self._held_out = _Seen({name: lower[name] for name in held_out})
        self._trigrams = _Seen({name: chain.from_iterable(map(_trigrams, set(lower[name]))) for name in tales})
        self._runs = {n: _Seen({name: runs(lower[name], n) for name in held_out}) for n in OVERLAPS}
        counts = {name: _letters(text) for name, text in tales.items()}
        self.alphabet = "".join(sorted(set().union(*counts.values())))
        self._letters = {name: np.array([count[char] for char in self.alphabet]) for name, count in counts.items()}

    def without(self, tale: str) -> Self:
        """The same tales but one."""
        rest = copy.copy(self)
        rest._left_out = tale
        return rest

    def in_train(self, word: str) -> bool:
        return self._train.has(word, self._left_out)

    def in_held_out(self, word: str) -> bool:
        return self._held_out.has(word, self._left_out)

    def has(self, word: str) -> bool:
        """Whether it is a real word: in the training text or the held-out text."""
        return self.in_train(word) or self.in_held_out(word)

    def is_plausible(self, word: str) -> bool:
        """Whether words of the tales have every three letters in a row of it, its edges taken for letters."""
        return all(self._trigrams.has(trigram, self._left_out) for trigram in _trigrams(word))

    def holds_out(self, run: tuple[str, ...]) -> bool:
        """Whether the held-out text has a run of words, of a length of OVERLAPS."""
        return self._runs[len(run)].has(run, self._left_out)

    def letters(self, text: str | None = None) -> np.ndarray:
        """[A + 1] The share of each letter of `alphabet`, and of all others together, in a text; else in the tales.

        Where there is no letter all are others.
        """
        if text is None:
            tales = [count for name, count in self._letters.items() if name != self._left_out]
            counts = np.append(sum(tales, start=np.zeros(len(self.alphabet))), 0)
        else:
            given = _letters(text)
            counts = np.array([*(given.pop(char, 0) for char in self.alphabet), given.total()])
        if not counts.any():
            counts[-1] = 1
        return counts / counts.sum()


class _Seen:
    """Things, and the tales that have them."""

    def __init__(self, tales: Mapping[str, Iterable[Hashable]]) -> None:
        self._by_tale = {name: frozenset(things) for name, things in tales.items()}
        self._tales_with = Counter(chain.from_iterable(self._by_tale.values()))

    def has(self, thing: Hashable, left_out: str | None) -> bool:
        """Whether a tale other than `left_out` has it."""
        return self._tales_with[thing] > (left_out in self._by_tale and thing in self._by_tale[left_out])


def _letters(text: str) -> Counter[str]:
    return Counter({char: times for char, times in Counter(text.lower()).items() if char.isalpha()})


def _trigrams(word: str) -> list[str]:
    edged = f"^{word}$"
    return [edged[i : i + 3] for i in range(len(edged) - 2)]
