"""Classes learnt from contexts: no move of a word makes the text likelier, and classes that made a text are found."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from lovecraft_jax.data import clusters
from lovecraft_jax.data.clusters import exchange


def test_no_word_can_be_moved_so_that_the_text_becomes_likelier(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "ITERATIONS", 100)  # until no word moves
    random = np.random.default_rng(0)
    words = np.minimum(random.geometric(0.15, 400) - 1, 12)  # the last is more words in one, which keeps its class
    words[100:110] = 3  # a word that follows itself
    found = [*exchange(words, 12, 4).tolist(), 4]
    best = _log_likelihood(words.tolist(), found)
    for word in range(12):
        for other in range(4):
            moved = [*found[:word], other, *found[word + 1 :]]
            assert _log_likelihood(words.tolist(), moved) <= best + 1e-6
    assert best > _log_likelihood(words.tolist(), [*(n % 4 for n in range(12)), 4]) + 1


def test_the_classes_that_made_a_text_are_found() -> None:
    random, text = np.random.default_rng(1), [0]
    following = np.array([[0.1, 0.8, 0.1], [0.1, 0.1, 0.8], [0.7, 0.2, 0.1]])
    for _ in range(20_000):
        follows = random.choice(3, p=following[text[-1] // 10])
        text.append(10 * int(follows) + int(random.integers(10)))
    found = exchange(np.array(text), 30, 3).reshape(3, 10)
    assert [len(set(row)) for row in found.tolist()] == [1, 1, 1]
    assert len(set(found[:, 0].tolist())) == 3


@pytest.mark.parametrize("words", [[], [0], [0, 0, 0], [1, 0, 1, 5]])
def test_texts_of_few_words_have_classes(words: list[int]) -> None:
    assert exchange(np.array(words, int), 2, 16).shape == (2,)


def _log_likelihood(words: Sequence[int], classes: Sequence[int]) -> float:
    """The log-likelihood of a circular text: each word's class after that of the word before, then the word."""
    of_words = [classes[word] for word in words]
    pairs, counts, occurs = (
        Counter(zip(of_words, of_words[1:] + of_words[:1], strict=True)),
        Counter(of_words),
        Counter(words),
    )
    return sum(
        math.log(pairs[before, here] / counts[before]) + math.log(occurs[word] / counts[here])
        for word, here, before in zip(words, of_words, of_words[-1:] + of_words[:-1], strict=True)
    )
