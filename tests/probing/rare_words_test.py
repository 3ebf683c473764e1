"""Rare words: which occurrences are chosen, and the probabilities and ranks of each."""

import collections
import math

import numpy as np
import pytest

from lovecraft_jax.probing import word_search
from lovecraft_jax.probing.rare_words import (
    MAX_COUNT,
    MAX_VOCABULARY,
    MIN_LETTERS,
    MIN_PROB,
    LetterPrediction,
    Occurrence,
    WordPrediction,
    analyze,
    find,
    rare_words,
)
from lovecraft_jax.probing.word_search import Rank
from lovecraft_jax.run import Run
from lovecraft_jax.runtime.errors import UserError
from tests.helpers.untrained import forward_float64, untrained_run

TALES = {
    "train": {"one": "A pandemonium, a pandemoniums and Pandemonium.", "two": "The strident pandemonium; pandemonium."},
    "test": {"three": "pandemonium"},
}


@pytest.fixture(scope="module")
def run() -> Run:
    return untrained_run("abcdefg. \n", scale=0.5)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_search, "BLOCK", 64)


def test_occurrences_are_whole_words_and_the_quoted_one_comes_first() -> None:
    found = [(place.split, place.tale, place.offset) for place in find(TALES, "pandemonium")]
    assert found == [("train", "two", 13), ("train", "one", 2), ("train", "two", 26), ("test", "three", 0)]


def test_rare_words_are_long_seldom_held_out_and_neither_names_nor_parts_of_compounds() -> None:
    rare = "so cyclopean an eldritch thing, Cyclopean Eldritch Miskatonic; mist-haunted blasphemy's unusual2 fungous"
    in_training = collections.Counter(eldritch=MAX_COUNT, unusual=MAX_COUNT, fungous=MAX_COUNT + 1, cyclopean=0)
    tales = {"train": {"a": "gibbous"}, "valid": {"b": rare}, "test": {"c": "eldritch gambrel, unhallowed; noisome."}}
    words = [(place.tale, place.word) for place in rare_words(tales, in_training, 10)]
    assert words == [("b", "cyclopean"), ("b", "eldritch"), ("c", "gambrel"), ("c", "unhallowed"), ("c", "noisome")]
    assert min(len(word) for _, word in words) == MIN_LETTERS
    for place in rare_words(tales, in_training, 10):
        assert tales[place.split][place.tale][place.offset :].startswith(place.word)
    spread = [place.word for place in rare_words(tales, in_training, 2)]  # over the tales
    assert spread == ["cyclopean", "gambrel"]


@pytest.mark.slow
def test_the_first_occurrence_has_an_exact_rank_among_known_words(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "a bad cab faced a decade. faded facade, bed egg gag added. fab face. baggage cage aged faced."
    exact = analyze(run, {"train": {"t": text}}, [], word="faced").article
    assert all(word.rank_of_known.least == word.rank_of_known.most for word in exact)
    monkeypatch.setattr("lovecraft_jax.probing.rare_words.WIDTH", 1)
    first, second = analyze(run, {"train": {"t": text}}, [], word="faced").article
    assert first.rank_of_known == exact[0].rank_of_known
    assert second.rank_of_known.least < second.rank_of_known.most


def test_rare_words_without_unseen_letters_are_analysed_without_the_articles_word(run: Run) -> None:
    tales = {
        "train": {"t": "bad. a faced."},
        "valid": {"v": "defaced effaced cabbage. xylophone"},
        "test": {"u": "gabbed baggage"},
    }
    found = analyze(run, tales, ["The effaced and BAGGAGE."], count=6)
    assert found.article == []
    assert [word.place.word for word in found.rare] == ["defaced", "effaced", "cabbage", "baggage"]
    assert found.in_samples == ["effaced", "baggage"]
    for word in found.rare:
        assert tales[word.place.split][word.place.tale][word.place.offset :].startswith(word.place.word)
        assert len(word.likeliest) > 0
        assert [prob for _, prob in word.likeliest] == sorted((prob for _, prob in word.likeliest), reverse=True)
        assert word.rank_of_known.least <= word.rank_of_known.value <= word.rank_of_known.most <= found.known
    assert 1 <= found.median_rank <= found.known
    assert 0 <= found.share_to_give <= 1
    assert analyze(run, tales, ["The effaced and BAGGAGE."], count=6) == found  # deterministic


def test_letters_to_give_end_with_the_last_one_that_is_not_the_most_probable() -> None:
    def given(*likelier: int) -> int:
        letters = [LetterPrediction("x", 0.5, n, "y") for n in likelier]
        return WordPrediction(
            Occurrence("test", "a", 0, "x"), letters, [], Rank(1, 1, 1), Rank(1, 1, 1), 0, 0
        ).letters_to_give

    assert [given(0, 0, 0), given(3, 0, 0), given(0, 1, 0), given(1, 0, 2)] == [0, 1, 2, 3]


def test_predictions_match_a_float64_loop(run: Run) -> None:
    text = "bad. a faced."
    (word,) = analyze(run, {"train": {"t": text}}, ["faced a faced, defaced"], word="faced").article
    *letters, end = word.letters
    for n, letter in enumerate(letters):
        probs = np.exp(forward_float64(run, text[: 7 + n])[0])
        options = {char: probs[run.tokenizer.encode(char).ids[0]] for char in "abcdefg"} | {
            "": sum(probs[run.tokenizer.encode(char).ids[0]] for char in ". \n")
        }
        assert letter.text == "faced"[n]
        assert letter.prob == pytest.approx(options["faced"[n]], rel=1e-4)
        assert letter.likeliest == max(options, key=options.__getitem__)
        assert letter.likelier == sum(prob > options["faced"[n]] for prob in options.values())
    probs = np.exp(forward_float64(run, "bad. a faced")[0])
    assert end.text == ""
    assert end.prob == pytest.approx(sum(probs[run.tokenizer.encode(char).ids[0]] for char in ". \n"), rel=1e-4)
    assert word.prob == pytest.approx(math.prod(letter.prob for letter in word.letters))
    assert word.bits_per_letter == pytest.approx(-math.log2(word.prob) / 6)
    assert (word.in_training, word.in_samples) == (1, 2)
    assert word.rank_of_known.most <= 3  # bad, a, faced
    assert word.rank_of_known.least <= word.rank_of_known.value <= word.rank_of_known.most <= word.rank_of_all.most


def test_a_word_of_vanishing_probability_has_a_rank() -> None:
    run = untrained_run("abc. \n", scale=40.0)
    (word,) = analyze(run, {"train": {"t": "c. abcabcabcabcabc."}}, [], word="abcabcabcabcabc").article
    assert word.prob == MIN_PROB
    assert word.rank_of_known.least <= word.rank_of_known.value <= word.rank_of_known.most <= 2
    assert word.rank_of_all.least <= word.rank_of_all.value <= word.rank_of_all.most


def test_tales_without_rare_words() -> None:
    found = analyze(untrained_run("ab \n"), {"train": {"t": "ab"}, "test": {"u": "ba b"}}, [])
    assert (found.article, found.rare, found.known, found.in_samples) == ([], [], 3, [])


def test_with_too_many_characters_words_are_not_spelt() -> None:
    run = untrained_run("".join(map(chr, range(0x4E00, 0x4E00 + MAX_VOCABULARY + 1))))
    with pytest.raises(UserError, match="different characters; words are spelt with at most 1,000"):
        analyze(run, TALES, [])
