"""Rare words at their places: which are chosen, and what is told of each."""

import collections
import dataclasses
import math
import types
from pathlib import Path

import numpy as np
import pytest

from lovecraft_jax.data import dataset
from lovecraft_jax.probing.rare_words import LEAST, LONG, RARE, Guess, Letter, Place, find, rare_words, study
from lovecraft_jax.probing.word_search import Rank
from lovecraft_jax.run import Run, load_run
from lovecraft_jax.runtime.errors import UserError
from tests.helpers.untrained import read_slowly, untrained_run

TALES = {
    "train": {
        "one": "A pandemonium, a pandemoniums and Pandemonium.",
        "two": "The strident pandemonium; pandemonium.",
    },
    "test": {"three": "pandemonium"},
}


def test_the_article_s_place_comes_first_and_parts_of_words_are_none() -> None:
    found = [(place.split, place.tale, place.offset) for place in find(TALES, "pandemonium")]
    assert found == [("train", "two", 13), ("train", "one", 2), ("train", "two", 26), ("test", "three", 0)]


def test_rare_words_are_long_held_out_new_and_no_names_nor_parts_of_others() -> None:
    rare = "so cyclopean an eldritch thing, Cyclopean Eldritch Miskatonic; mist-haunted blasphemy's unusual2 fungous"
    trained = collections.Counter(eldritch=RARE, unusual=RARE, fungous=RARE + 1, cyclopean=0)
    tales = {"train": {"a": "gibbous"}, "valid": {"b": rare}, "test": {"c": "eldritch gambrel, unhallowed; noisome."}}
    words = [(place.tale, place.word) for place in rare_words(tales, trained, 10)]
    assert words == [("b", "cyclopean"), ("b", "eldritch"), ("c", "gambrel"), ("c", "unhallowed"), ("c", "noisome")]
    assert min(len(word) for _, word in words) == LONG
    for place in rare_words(tales, trained, 10):
        assert tales[place.split][place.tale][place.offset :].startswith(place.word)
    assert [place.word for place in rare_words(tales, trained, 2)] == ["cyclopean", "gambrel"]  # over all of them


def test_the_first_place_has_an_exact_rank_among_known_words(monkeypatch: pytest.MonkeyPatch) -> None:
    run = untrained_run("abcdefg. \n", scale=0.5)
    text = "a bad cab faced a decade. faded facade, bed egg gag added. fab face. baggage cage aged faced."
    exact = study(run, {"train": {"t": text}}, [], word="faced").word
    assert all(guess.of_known.least == guess.of_known.most for guess in exact)
    monkeypatch.setattr("lovecraft_jax.probing.rare_words.WIDTH", 1)
    first, second = study(run, {"train": {"t": text}}, [], word="faced").word
    assert first.of_known == exact[0].of_known
    assert second.of_known.least < second.of_known.most


def test_words_with_letters_that_training_never_had_are_left_out() -> None:
    run = untrained_run("abcdefg. \n", scale=0.5)
    tales = {"train": {"t": "bad. a faced."}, "test": {"u": "defaced effaced cabbage. xylophone"}}
    assert [guess.place.word for guess in study(run, tales, []).rare] == ["defaced", "effaced", "cabbage"]


def test_what_must_be_given_ends_with_the_last_letter_that_is_not_the_likeliest() -> None:
    def given(*likelier: int) -> int:
        letters = [Letter("x", 0.5, n, "y") for n in likelier]
        return Guess(Place("test", "a", 0, "x"), letters, [], Rank(1, 1, 1), Rank(1, 1, 1), 0, 0).given

    assert [given(0, 0, 0), given(3, 0, 0), given(0, 1, 0), given(1, 0, 2)] == [0, 1, 2, 3]


def test_a_word_is_told_letter_by_letter_as_a_loop_would() -> None:
    run = untrained_run("abcdefg. \n", scale=0.5)
    text = "bad. a faced."
    (guess,) = study(run, {"train": {"t": text}}, ["faced a faced, defaced"], word="faced").word
    *letters, end = guess.letters
    for n, letter in enumerate(letters):
        probs = np.exp(read_slowly(run, text[: 7 + n])[0])
        options = {char: probs[run.tokenizer.encode(char).ids[0]] for char in "abcdefg"} | {
            "": sum(probs[run.tokenizer.encode(char).ids[0]] for char in ". \n")
        }
        assert letter.text == "faced"[n]
        assert letter.prob == pytest.approx(options["faced"[n]], rel=1e-4)
        assert letter.likeliest == max(options, key=options.__getitem__)
        assert letter.likelier == sum(prob > options["faced"[n]] for prob in options.values())
    probs = np.exp(read_slowly(run, "bad. a faced")[0])
    assert end.text == ""
    assert end.prob == pytest.approx(sum(probs[run.tokenizer.encode(char).ids[0]] for char in ". \n"), rel=1e-4)
    assert guess.prob == pytest.approx(math.prod(letter.prob for letter in guess.letters))
    assert guess.bits_per_letter == pytest.approx(-math.log2(guess.prob) / 6)
    assert (guess.trained, guess.written) == (1, 2)
    assert guess.of_known.most <= 3  # bad, a, faced
    assert guess.of_known.least <= guess.of_known.value <= guess.of_known.most <= guess.of_all.most


@pytest.fixture(scope="module")
def run(trained: Path) -> Run:
    return load_run(str(trained))


def test_a_corpus_without_the_word_has_its_rare_words_all_the_same(run: Run) -> None:
    tales = dataset.prepare(run.config, run.corpus, run.tokenizer).splits.by_tale
    words = [place.word for place in rare_words(tales, collections.Counter(), 3)]
    found = study(run, tales, [f"The {words[0]} and {words[2].upper()}."], rare=6)
    assert found.word == []
    assert len(found.rare) == 6
    for guess in found.rare:
        assert tales[guess.place.split][guess.place.tale][guess.place.offset :].startswith(guess.place.word)
        assert guess.place.split != "train"
        assert len(guess.likeliest) > 0
        assert [prob for _, prob in guess.likeliest] == sorted((prob for _, prob in guess.likeliest), reverse=True)
        assert guess.of_known.least <= guess.of_known.value <= guess.of_known.most <= found.known
    assert 1 <= found.median_rank <= found.known
    assert 0 <= found.given <= 1


def test_the_same_study_twice_is_the_same(run: Run) -> None:
    tales = dataset.prepare(run.config, run.corpus, run.tokenizer).splits.by_tale
    assert study(run, tales, [], rare=3) == study(run, tales, [], rare=3)


def test_a_word_that_the_model_holds_impossible_has_a_rank_all_the_same() -> None:
    run = untrained_run("abc. \n", scale=40.0)
    (guess,) = study(run, {"train": {"t": "c. abcabcabcabcabc."}}, [], word="abcabcabcabcabc").word
    assert guess.prob == LEAST
    assert guess.of_known.least <= guess.of_known.value <= guess.of_known.most <= 2
    assert guess.of_all.least <= guess.of_all.value <= guess.of_all.most


def test_tales_without_any_such_word_are_no_error() -> None:
    found = study(untrained_run("ab \n"), {"train": {"t": "ab"}, "test": {"u": "ba b"}}, [])
    assert (found.word, found.rare, found.known, found.written) == ([], [], 3, [])


def test_words_as_tokens_are_refused(run: Run) -> None:
    words = dataclasses.replace(run, tokenizer=types.SimpleNamespace(level="words"))
    with pytest.raises(UserError, match=r"data\.level=words: .* chars only"):
        study(words, TALES, [])
