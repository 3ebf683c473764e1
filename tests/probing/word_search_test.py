"""What a model might write next: against every word up to a length, each read by a loop over its letters."""

import dataclasses
import itertools
import math

import numpy as np
import pytest

from lovecraft_jax.probing import word_search
from lovecraft_jax.probing.word_search import CONTEXT, State, Words, after, any_word, lexicon, search, spell
from lovecraft_jax.run import Run
from tests.helpers.untrained import read_slowly, untrained_run

LETTERS, OTHERS = "abc", " .\n"
LONGEST = 5
PLACE = "cab a"


@pytest.fixture(scope="module")
def run() -> Run:
    return untrained_run(LETTERS + OTHERS, scale=0.5)


@pytest.fixture(scope="module")
def every(run: Run) -> dict[str, float]:
    """Every word of up to LONGEST letters and its probability after PLACE."""
    words = ["".join(word) for n in range(1, LONGEST + 1) for word in itertools.product(LETTERS, repeat=n)]
    following = {word: np.exp(read_slowly(run, PLACE + word)[0]) for word in ["", *words]}

    def next_is(before: str, chars: str) -> float:
        return sum(following[before][run.tokenizer.encode(char).ids[0]] for char in chars)

    letters = {word: math.prod(next_is(word[:n], word[n]) for n in range(len(word))) for word in words}
    return {word: letters[word] * next_is(word, OTHERS) for word in words}


@pytest.fixture
def place(run: Run, monkeypatch: pytest.MonkeyPatch) -> State:
    """The model after PLACE; no word is longer than LONGEST."""
    monkeypatch.setattr(word_search, "LONGEST", LONGEST)
    monkeypatch.setattr(word_search, "LISTED", 1.0)
    monkeypatch.setattr(word_search, "BLOCK", 64)
    return after(run, [PLACE])


def test_a_place_is_read_from_its_beginning_or_from_so_far_back(run: Run) -> None:
    long = "".join(np.random.default_rng(0).choice(list(LETTERS + OTHERS), CONTEXT + 50))
    state = after(run, ["", PLACE, long])
    expected = [read_slowly(run, text)[0] for text in ("", PLACE)]
    np.testing.assert_allclose(state.log_probs_NV[:2], expected, rtol=1e-4)
    (last,) = after(run, [long[-CONTEXT:]]).log_probs_NV
    np.testing.assert_allclose(state.log_probs_NV[2], last, rtol=1e-4)


def test_letters_are_spelt_as_the_model_reads_them(run: Run) -> None:
    words = {"cab a": "bca", ".\n": "a"}
    for (text, word), log_probs in zip(words.items(), spell(run, after(run, list(words)), words.values()), strict=True):
        expected = [read_slowly(run, text + word[:n])[0] for n in range(len(word) + 1)]
        np.testing.assert_allclose(log_probs, expected, rtol=1e-4)


@pytest.mark.parametrize("share", [0.02, 0.3])
def test_a_search_that_sees_all_finds_every_word_so_likely(
    run: Run, place: State, every: dict[str, float], share: float
) -> None:
    expected = dict(sorted(every.items(), key=lambda word: -word[1])[: int(share * len(every))])
    least = min(expected.values())
    (found,) = search(run, place, any_word(run), [least * 0.9999], width=10**6)
    assert found.texts == list(expected)
    np.testing.assert_allclose(found.probs, list(expected.values()), rtol=1e-4)
    np.testing.assert_array_equal(found.weights, 1)
    assert found.rank(least)[:2] == (len(expected), len(expected))
    (found,) = search(run, place, any_word(run), [least * 1.0001], width=10**6)
    assert found.texts == list(expected)[:-1]


def test_a_word_so_likely_that_no_longer_one_can_be_has_an_exact_rank(
    run: Run, place: State, every: dict[str, float]
) -> None:
    likeliest = sorted(every.values())[-1]
    (found,) = search(run, place, any_word(run), [likeliest * 0.9999], width=10**6)
    assert found.rank(likeliest) == (1, 1, 1)


@pytest.mark.parametrize("width", [1, 4, 20])
def test_bounds_hold_and_estimates_are_right_on_average(
    run: Run, place: State, every: dict[str, float], width: int
) -> None:
    repeats = 400
    state = State([leaf.repeat(repeats, 0) for leaf in place.carry], place.log_probs_NV.repeat(repeats, 0))
    prob = sorted(every.values())[-60]
    found = search(run, state, lexicon(run, every), [prob * 0.9999] * repeats, width)
    ranks = [words.rank(prob) for words in found]
    assert all(rank.least <= 60 <= rank.most for rank in ranks)
    estimates = [1 + words.weights[words.probs > prob * 1.00001].sum() for words in found]
    assert np.std(estimates) > 0
    assert abs(np.mean(estimates) - 60) < 4 * np.std(estimates) / np.sqrt(repeats)


def test_texts_are_searched_apart(run: Run, place: State, every: dict[str, float]) -> None:
    both = after(run, [PLACE, "b.c"])
    probs = [sorted(every.values())[-30], 0.001]
    for n, found in enumerate(search(run, both, any_word(run), probs, width=10**6)):
        (alone,) = search(run, after(run, [[PLACE, "b.c"][n]]), any_word(run), [probs[n]], width=10**6)
        assert found.texts == alone.texts
        np.testing.assert_allclose(found.probs, alone.probs, rtol=1e-4)
        assert found.unseen == alone.unseen


def test_a_lexicon_has_its_words_alone(run: Run, place: State, every: dict[str, float]) -> None:
    words = ["a", "abc", "ab", "cc", "abc", "bcz", "cabab"]
    language = lexicon(run, words)
    assert language.words_S[0] == np.count_nonzero(language.ends_S) == 5  # no z
    (found,) = search(run, place, language, [1e-12], width=10**6)
    expected = sorted(set(words) - {"bcz"}, key=lambda word: -every[word])
    assert (found.texts, found.unseen) == (expected, 0)
    np.testing.assert_allclose(found.probs, [every[word] for word in expected], rtol=1e-4)


def test_likely_words_are_listed_though_a_likelier_one_was_asked_for(
    run: Run, place: State, every: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(word_search, "LISTED", 0.01)
    (found,) = search(run, place, any_word(run), [0.5], width=10**6)
    assert set(found.texts) == {word for word, prob in every.items() if prob >= 0.01}


def test_equally_likely_words_share_a_rank() -> None:
    words = Words(["a", "b", "c"], np.array([0.2, 0.1 * (1 + 1e-7), 0.1]), np.ones(3), unseen=0)
    assert words.rank(0.1) == (2, 2, 2)
    assert dataclasses.replace(words, weights=np.array([3.0, 1, 1]), unseen=7).rank(0.1) == (4, 2, 9)
