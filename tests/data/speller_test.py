"""The model of spelling: an independent implementation agrees, probabilities sum to one, new words are like the old."""

import itertools
import math
from collections import Counter, defaultdict

import numpy as np
import pytest

from lovecraft_jax.data import speller
from lovecraft_jax.data.kneser_ney import discounts
from lovecraft_jax.data.speller import LETTERS, Speller

WORDS = ["house", "houses", "mouse", "Mouse", "morning", "moaning", "sea", "seas", "season", "a"]
CLASSES = [0, 1, 0, 2, 0, 0, 0, 1, 0, 0]
ALPHABET = 96


@pytest.mark.parametrize("letters", [LETTERS, 2, None])
@pytest.mark.parametrize(("word", "number"), [("house", 0), ("mouses", 1), ("sea", 2), ("a", 3), ("sz-n", 0)])
def test_a_word_costs_what_the_formula_says(word: str, number: int, letters: int | None) -> None:
    (nats,) = Speller(WORDS, CLASSES, 4, ALPHABET, letters).nats([word], [number])
    assert nats == pytest.approx(_nats(word, number, 0 if letters is None else letters + 1), rel=1e-12)


def test_the_probabilities_of_all_words_up_to_a_length_sum_to_one_less_what_is_longer() -> None:
    """Of an alphabet of two letters, words up to nine: what a decoder would read is a code."""
    words = ["ab", "abab", "b", "aab"]
    built = Speller(words, [0, 0, 1, 1], 2, 2)
    every = ["".join(letters) for n in range(1, 10) for letters in itertools.product("ab?", repeat=n)]
    # "?" stands for any of an alphabet of 2 characters that no word has: its price is shared out among them.
    nats = built.nats(every, [0] * len(every))
    price = np.array([word.count("?") * math.log(2) for word in every])
    total = float(np.exp(-nats + price).sum())
    assert 0.97 < total <= 1 + 1e-9


def test_words_are_generated_with_the_probability_that_their_cost_says() -> None:
    """OTHER is not generated: the words without it have its probability too."""
    built, draws = Speller(["a", "ab", "b"], [0, 0, 0], 1, ALPHABET), 20_000
    rng = np.random.default_rng(0)
    generated = Counter(built.generate(0, rng, 8) for _ in range(draws))
    every = ["".join(letters) for n in range(1, 10) for letters in itertools.product("ab", repeat=n)]
    probs = np.exp(-built.nats(every, [0] * len(every)))
    assert probs.sum() < 0.99
    for word, prob in zip(every[:6], probs / probs.sum(), strict=False):
        assert generated[word] / draws == pytest.approx(prob, rel=0.15)


def test_letters_are_drawn_at_the_temperature() -> None:
    """Of a first letter's probability p a temperature of 1/2 makes p squared; 0 leaves the likeliest word alone."""
    built, draws = Speller(["a"] * 9 + ["b"] * 3, [0] * 12, 1, ALPHABET), 4000

    def share(temperature: float) -> float:
        rng = np.random.default_rng(0)
        return sum(built.generate(0, rng, 1, temperature) == "a" for _ in range(draws)) / draws

    odds = share(1.0) / (1 - share(1.0))
    assert share(0.5) == pytest.approx(odds**2 / (1 + odds**2), abs=0.02)
    assert {built.generate(0, np.random.default_rng(seed), 8, 0.0) for seed in range(20)} == {"a"}


@pytest.mark.parametrize("chunk", [1, 3])
def test_costs_and_classes_are_the_same_however_many_words_are_computed_at_once(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = Speller(WORDS, CLASSES, 4, ALPHABET)
    nats, classes = built.nats(WORDS, CLASSES), built.likeliest_classes(WORDS)
    monkeypatch.setattr(speller, "CHUNK", chunk)
    np.testing.assert_array_equal(built.nats(WORDS, CLASSES), nats, strict=True)
    assert built.likeliest_classes(WORDS) == classes
    assert len(set(classes)) > 1
    assert (built.nats([], []).shape, built.likeliest_classes([])) == ((0,), [])


def _nats(word: str, number: int, longest: int) -> float:
    """The price by dictionaries of tuples: a context is (class, then characters), its nearest character last."""
    occurrences: dict[int, Counter] = {n: Counter() for n in range(longest + 1)}
    preceded: dict[int, dict] = {n: defaultdict(set) for n in range(longest + 1)}
    for other, other_class in zip(WORDS, CLASSES, strict=True):
        for context, symbol in _positions(other, other_class, longest):
            for n in range(len(context) + 1):
                gram = (context[len(context) - n :], symbol)
                occurrences[n][gram] += 1
                if n < len(context):
                    preceded[n][gram].add(context[len(context) - n - 1])
    counts = {n: {gram: len(preceded[n][gram]) or count for gram, count in occurrences[n].items()} for n in occurrences}
    letters = sorted(set("".join(WORDS)))

    def prob(context: tuple, symbol: str) -> float:
        known = symbol == "end" or symbol in letters
        found = 1 / (2 + len(letters))
        for n in range(len(context) + 1):
            here = context[len(context) - n :]
            discount = [0.0, *discounts(np.array(list(counts[n].values())))]
            rows = {c: count for (h, c), count in counts[n].items() if h == here}
            if rows:
                count = rows.get(symbol, 0) if known else 0
                left = sum(discount[min(row, 3)] for row in rows.values())
                found = (count - discount[min(count, 3)] + left * found) / sum(rows.values())
        return found if known else found / ALPHABET

    positions = _positions(word, number, longest)
    no_end = 1 - prob(positions[0][0], "end")  # no word is empty
    return math.log(no_end) - sum(math.log(prob(context, symbol)) for context, symbol in positions)


def _positions(word: str, number: int, longest: int) -> list[tuple[tuple, str]]:
    """Each symbol of a word with its context."""
    symbols = [*word, "end"]
    found = []
    for n, symbol in enumerate(symbols):
        letters = ["begin", *symbols[:n]][1 - longest :]
        found.append(((number, *letters) if longest else (), symbol))
    return found
