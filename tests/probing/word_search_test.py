"""Word search against the probabilities of all words up to a length, from a float64 loop over their letters."""

import dataclasses
import itertools
import math

import numpy as np
import pytest

from lovecraft_jax.probing import word_search
from lovecraft_jax.probing.word_search import (
    CONTEXT,
    DecodingState,
    FoundWords,
    any_word,
    lexicon,
    search_words,
    state_after,
)
from lovecraft_jax.run import Run
from tests.helpers.untrained import forward_float64, untrained_run

LETTERS, OTHERS = "abc", " .\n"
MAX_LETTERS, MAX_SEARCHED = 5, word_search.MAX_LETTERS
PLACE = "cab a"


@pytest.fixture(scope="module")
def run() -> Run:
    return untrained_run(LETTERS + OTHERS, scale=0.5)


@pytest.fixture(scope="module")
def every(run: Run) -> dict[str, float]:
    """Every word of up to MAX_LETTERS letters and its probability after PLACE."""
    words = ["".join(word) for n in range(1, MAX_LETTERS + 1) for word in itertools.product(LETTERS, repeat=n)]
    following = {word: np.exp(forward_float64(run, PLACE + word)[0]) for word in ["", *words]}

    def next_is(before: str, chars: str) -> float:
        return sum(following[before][run.tokenizer.encode(char).ids[0]] for char in chars)

    letters = {word: math.prod(next_is(word[:n], word[n]) for n in range(len(word))) for word in words}
    return {word: letters[word] * next_is(word, OTHERS) for word in words}


@pytest.fixture
def place(run: Run, monkeypatch: pytest.MonkeyPatch) -> DecodingState:
    """The model after PLACE; no word is longer than MAX_LETTERS."""
    monkeypatch.setattr(word_search, "MAX_LETTERS", MAX_LETTERS)
    monkeypatch.setattr(word_search, "LISTED_PROB", 1.0)
    monkeypatch.setattr(word_search, "BLOCK", 64)
    return state_after(run, [PLACE])


def test_the_state_depends_on_the_last_tokens_of_the_context(run: Run) -> None:
    long = "".join(np.random.default_rng(0).choice(list(LETTERS + OTHERS), CONTEXT + 50))
    state = state_after(run, ["", PLACE, long])
    expected = [forward_float64(run, text)[0] for text in ("", PLACE)]
    np.testing.assert_allclose(state.log_probs_NV[:2], expected, rtol=1e-4)
    (last,) = state_after(run, [long[-CONTEXT:]]).log_probs_NV
    np.testing.assert_allclose(state.log_probs_NV[2], last, rtol=1e-4)


def test_an_exhaustive_search_is_complete(run: Run, place: DecodingState, every: dict[str, float]) -> None:
    expected = dict(sorted(every.items(), key=lambda word: -word[1])[: len(every) // 3])
    least = min(expected.values())
    (found,) = search_words(run, place, any_word(run), [least * 0.9999], width=10**6)
    assert found.texts == list(expected)
    np.testing.assert_allclose(found.probs, list(expected.values()), rtol=1e-4)
    np.testing.assert_array_equal(found.weights, 1)
    assert found.rank(least)[:2] == (len(expected), len(expected))
    (found,) = search_words(run, place, any_word(run), [least * 1.0001], width=10**6)
    assert found.texts == list(expected)[:-1]


@pytest.mark.parametrize("width", [1, 20])
def test_rank_estimates_are_unbiased(run: Run, place: DecodingState, every: dict[str, float], width: int) -> None:
    repeats = 200
    state = DecodingState([leaf.repeat(repeats, 0) for leaf in place.carry], place.log_probs_NV.repeat(repeats, 0))
    prob = sorted(every.values())[-60]
    found = search_words(run, state, lexicon(run, every), [prob * 0.9999] * repeats, width)
    ranks = [words.rank(prob) for words in found]
    assert all(rank.least <= 60 <= rank.most for rank in ranks)
    estimates = [1 + words.weights[words.probs > prob * 1.00001].sum() for words in found]
    assert np.std(estimates) > 0
    assert abs(np.mean(estimates) - 60) < 4 * np.std(estimates) / np.sqrt(repeats)


def test_texts_are_searched_independently(run: Run, place: DecodingState, every: dict[str, float]) -> None:
    both = state_after(run, [PLACE, "b.c"])
    probs = [sorted(every.values())[-30], 0.001]
    for n, found in enumerate(search_words(run, both, any_word(run), probs, width=10**6)):
        (alone,) = search_words(run, state_after(run, [[PLACE, "b.c"][n]]), any_word(run), [probs[n]], width=10**6)
        assert found.texts == alone.texts
        np.testing.assert_allclose(found.probs, alone.probs, rtol=1e-4)
        assert found.unseen == alone.unseen


def test_a_lexicon_accepts_its_words_only(run: Run, place: DecodingState, every: dict[str, float]) -> None:
    words = ["a", "abc", "ab", "cc", "abc", "bcz", "cabab"]
    automaton = lexicon(run, words)
    assert automaton.words_S[0] == np.count_nonzero(automaton.accepts_S) == 5  # without "bcz"
    (found,) = search_words(run, place, automaton, [1e-12], width=10**6)
    expected = sorted(set(words) - {"bcz"}, key=lambda word: -every[word])
    assert (found.texts, found.unseen) == (expected, 0)
    np.testing.assert_allclose(found.probs, [every[word] for word in expected], rtol=1e-4)


def test_the_size_of_a_lexicon_is_that_of_its_words_whatever_the_vocabulary() -> None:
    run = untrained_run("".join(map(chr, range(32, 127))))
    words = ["".join(word) for word in itertools.product("abcdefgh", repeat=4)] + ["a" * 10**6]
    automaton = lexicon(run, words)
    states = sum(8**n for n in range(5)) + MAX_SEARCHED - 4 + 1  # a longer word is cut
    assert len(automaton.accepts_S) == states
    assert sum(leaf.nbytes for leaf in automaton) < 40 * states


def test_words_of_the_listed_probability_are_found_whatever_is_asked_for(
    run: Run, place: DecodingState, every: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(word_search, "LISTED_PROB", 0.01)
    (found,) = search_words(run, place, any_word(run), [0.5], width=10**6)
    assert set(found.texts) == {word for word, prob in every.items() if prob >= 0.01}


def test_equally_probable_words_share_a_rank() -> None:
    words = FoundWords(["a", "b", "c"], np.array([0.2, 0.1 * (1 + 1e-7), 0.1]), np.ones(3), unseen=0)
    assert words.rank(0.1) == (2, 2, 2)
    assert dataclasses.replace(words, weights=np.array([3.0, 1, 1]), unseen=7).rank(0.1) == (4, 2, 9)
