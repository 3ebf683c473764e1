"""Words as tokens: lossless for every text and policy, rare words paid for, the same text written in any chunks."""

import dataclasses
import itertools
import json
import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lovecraft_jax.data import word_tokenizer
from lovecraft_jax.data.cleaning import make_cleaning
from lovecraft_jax.data.encoded import UNKNOWN_ID
from lovecraft_jax.data.pretokens import Pretokens
from lovecraft_jax.data.speller import Speller
from lovecraft_jax.data.tokenizer import load_tokenizer
from lovecraft_jax.data.word_classes import FORMS, classify, compose
from lovecraft_jax.data.word_tokenizer import WordTokenizer
from lovecraft_jax.runtime.errors import UserError

UNICODE = make_cleaning("unicode")
TRAIN = "The old house by the sea.\n\n\nThe house was dark, and nobody walked to the sea.\n\n\nA Ghost walked there.\n"
TEXTS = st.text() | st.lists(
    st.sampled_from(["the", " house", " sea", "\n\n\n", " walking", " Xy'z", ",", " 1928", " ", "é"])
).map("".join)
RARE = ("spell", "cluster", "class", "unk", "drop")
POLICIES = [(rare, 2) for rare in RARE] + [(rare, 1) for rare in ("spell", "cluster", "drop", "unk")]
BUILT = {policy: WordTokenizer.of(TRAIN, UNICODE, *policy, 1000) for policy in POLICIES}


@pytest.mark.parametrize("policy", POLICIES)
@settings(deadline=None, max_examples=40)
@given(text=TEXTS)
def test_every_text_survives_encoding_and_decoding_and_its_characters_are_counted(
    policy: tuple[str, int], text: str
) -> None:
    built = BUILT[policy]
    encoded = built.encode(text)
    assert built.decode(encoded.ids, encoded.spelled) == text
    assert encoded.n_chars == len(text)
    assert UNKNOWN_ID not in encoded.ids
    if len(encoded.ids):
        assert built.lengths(encoded).sum() == len(text)
        assert encoded.extra_nats_N.sum() == pytest.approx(encoded.extra_nats, abs=1e-9)
    assert encoded.extra_nats >= encoded.spelled.nats_R.sum() - 1e-9 >= -1e-9
    again = load_tokenizer(built.dumps()).encode(text)
    assert (again.ids.tolist(), again.extra_nats) == (encoded.ids.tolist(), encoded.extra_nats)


@pytest.mark.parametrize("form", FORMS)
def test_the_forms_are_names_of_distinct_classes(form: str) -> None:
    assert FORMS.count(form) == 1


@given(TEXTS.filter(bool))
def test_class_and_stem_together_are_the_word(word: str) -> None:
    assert compose(*classify(word)) == word


@pytest.mark.parametrize(
    ("word", "form", "stem"),
    [
        (" walking", " ing", "walk"),
        ("Ghost", "Capital", "Ghost"),
        (" NASA", " capitals", "NASA"),
        (" I", " Capital", "I"),
        (" 1928", " number", "1928"),
        (" --", " marks", "--"),
        ("it's", "apostrophe", "it's"),
        ("\n\n", "newlines", "\n\n"),
        (" ", "spaces", " "),
        (" ring", " word", "ring"),  # an ending needs a word before it
    ],
)
def test_a_class_is_the_form_of_a_word(word: str, form: str, stem: str) -> None:
    assert classify(word) == (FORMS.index(form), stem)


def test_words_with_ids_are_the_frequent_ones_and_a_newline_starts_a_text() -> None:
    built = BUILT["spell", 2]
    words = [built.decode(np.array([n])) for n in range(1 + len(FORMS), built.size)]
    assert set(words) == {".", "\n\n\n", " house", " sea", " the", " walked", "The"}
    assert built.decode(np.array([built.start_id])) == "\n\n\n"
    few = WordTokenizer.of(TRAIN, UNICODE, "unk", 2, 5)
    assert few.size == 5


def test_a_rare_word_is_cheaper_where_its_spelling_is_modelled() -> None:
    prices = {policy: BUILT[policy].encode(" ghosts talked").extra_nats for policy in POLICIES}
    assert prices["spell", 2] < prices["class", 2]
    assert prices["spell", 2] < prices["unk", 2]
    assert prices["cluster", 2] < prices["unk", 2]


@pytest.mark.parametrize(("rare", "min_count"), POLICIES)
def test_what_is_spelled_has_probabilities_that_sum_to_at_most_one_for_each_id(rare: str, min_count: int) -> None:
    """Over all words of a small alphabet with a space before them: from its id and its spelling a decoder knows it."""
    cleaning = dataclasses.replace(make_cleaning("ascii"), keep="ab \n")
    built = WordTokenizer.of("ab abab aba\nab aba bab\nab abba\nabab b a aab bab\n", cleaning, rare, min_count, 1000)
    every = [" " + "".join(letters) for n in range(1, 9) for letters in itertools.product("abz", repeat=n)]
    encoded = built.encode("".join(every))
    is_left_out = len(encoded.ids) < len(every)
    totals: defaultdict[int, float] = defaultdict(float)
    for at, word, nats in zip(encoded.spelled.at_R, encoded.spelled.texts, encoded.spelled.nats_R, strict=True):
        # "z" stands for any of the characters, at most all four, that no training word has.
        totals[UNKNOWN_ID if is_left_out else encoded.ids[at]] += math.exp(-nats) * 4 ** word.count("z")
    most = max(totals.values()) / (built.rare_share if is_left_out else 1)
    assert 0 < most <= 1 + 1e-9
    assert (rare, min_count) != ("spell", 2) or most > 0.8  # the rest: longer words, and those of other classes


def test_what_is_left_out_costs_its_share_of_the_training_text() -> None:
    """Good and Turing: of the tokens of the training text, those that occur once with min_count=1."""
    built = BUILT["drop", 1]
    once = sum(count == 1 for count in built.counts.values())
    share = once / sum(built.counts.values())
    assert built.rare_share == pytest.approx(share)
    known = built.encode("The house was old")
    assert known.extra_nats == pytest.approx(-4 * math.log1p(-share))
    rare = built.encode("The haunted house was old")
    assert len(rare.ids) == 4
    unigrams = Speller(list(built.counts), [0] * len(built.counts), 1, UNICODE.alphabet_size, letters=None)
    (spelling,) = unigrams.nats([" haunted"], [0])
    words = list(built.counts)  # all have ids: none is spelled
    spelling += math.log1p(-np.exp(-unigrams.nats(words, [0] * len(words))).sum())
    assert rare.extra_nats == pytest.approx(known.extra_nats - math.log(share) + spelling)


@pytest.mark.parametrize("rare", ["spell", "cluster", "class", "unk"])
def test_rare_words_are_generated_and_the_same_in_any_chunks(rare: str) -> None:
    built = BUILT[rare, 2]
    ids = built.encode("The walking Ghost by the 1928 sea of nobody").ids
    whole = built.generated_bytes(ids, (0, 1)).decode()
    assert "\N{REPLACEMENT CHARACTER}" not in whole
    assert len(Pretokens(whole).index_N) >= 5
    parts = ((ids[:4], 0), (ids[4:], 4))
    assert "".join(built.generated_bytes(part, (0, 1), start).decode() for part, start in parts) == whole
    assert len({built.generated_bytes(ids, (seed,)) for seed in range(5)}) > 1


@pytest.mark.parametrize("rare", ["spell", "class", "unk"])
def test_at_temperature_0_a_rare_word_is_always_the_likeliest(rare: str) -> None:
    built = WordTokenizer.of(" baked liked" * 3 + " talked" * 2, UNICODE, rare, 4, 1000)
    ids = built.encode(" baked liked").ids
    assert len({built.generated_bytes(ids, (seed,), temperature=0.0) for seed in range(20)}) == 1
    if rare == "class":
        assert built.generated_bytes(ids, (0,), temperature=0.0) == b" baked baked"


@pytest.mark.parametrize("rare", ["spell", "cluster"])
def test_a_word_that_has_an_id_is_not_spelled(rare: str) -> None:
    text = "ab abab aba\nab aba bab\nab abba\nabab b a aab bab\n"  # so few letters that many words would
    built = WordTokenizer.of(text, UNICODE, rare, 2, 1000)
    (of_class,) = built.encode(" abba").ids
    for seed in range(60):
        word = built.generated_bytes(np.array([of_class]), (seed,)).decode()
        assert built.encode(word).spelled.texts


@pytest.mark.parametrize("rare", ["spell", "cluster"])
def test_where_most_of_what_a_class_spells_has_ids_a_rare_training_word_is_taken(
    rare: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model of spelling mostly gives one of the other numbers from 100 to 999, which all have ids."""
    monkeypatch.setattr(word_tokenizer, "TRIES", 1)
    built = WordTokenizer.of(
        "".join(f" {n}" * (2 if n != 555 else 1) for n in range(100, 1000)), UNICODE, rare, 2, 1000
    )
    (of_class,) = built.encode(" 555").ids
    words = [built.generated_bytes(np.array([of_class]), (seed,)).decode() for seed in range(60)]
    assert not built._ids.keys() & set(words)
    assert words.count(" 555") > 20


def test_what_is_spelled_is_one_pretoken_although_words_and_marks_have_one_class(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(word_tokenizer, "CLUSTERS", 1)
    words = [
        "".join(letters) + "".join(marks) for letters in itertools.product("ab", repeat=2) for marks in (".", "!?")
    ]
    built = WordTokenizer.of("".join(words * 2) + "aba?.bab", UNICODE, "cluster", 2, 1000)
    for seed in range(60):
        assert len(Pretokens(built.generated_bytes(np.array([1]), (seed,)).decode()).index_N) == 1


@pytest.mark.parametrize("most", [3, 12])
def test_words_beyond_those_that_the_models_of_spelling_learn_from_are_classed_as_in_a_saved_run(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of seven words with ids and eleven without, so that either kind has more than the speller takes."""
    monkeypatch.setattr(word_tokenizer, "SPELLER_WORDS", most)
    built = WordTokenizer.of(TRAIN, UNICODE, "cluster", 2, 1000)
    again = load_tokenizer(built.dumps())
    assert len(built.clusters) == max(most, len(built._words)) < len(built.counts)
    for text in (TRAIN, TRAIN[::-1]):
        found, expected = again.encode(text), built.encode(text)
        np.testing.assert_array_equal(found.ids, expected.ids, strict=True)
        np.testing.assert_array_equal(found.spelled.nats_R, expected.spelled.nats_R, strict=True)
        assert built.decode(expected.ids, expected.spelled) == text


@pytest.mark.parametrize("rare", RARE)
def test_saved_ids_are_refused_where_the_code_has_another_number_of_classes(rare: str) -> None:
    saved = json.loads(BUILT[rare, 2].dumps())
    with pytest.raises(ValueError, match="it has 9 classes of rare words, this version of the package has"):
        load_tokenizer(json.dumps(saved | {"n_classes": 9}))
    del saved["n_classes"]  # as in earlier versions
    assert load_tokenizer(json.dumps(saved)).encode(TRAIN).ids.tolist() == BUILT[rare, 2].encode(TRAIN).ids.tolist()


def test_a_saved_run_keeps_the_context_that_its_rare_words_were_spelled_with() -> None:
    """Its scores contain their costs. Earlier versions did not save the context, which was five letters."""
    saved = json.loads(BUILT["spell", 2].dumps())
    five, six = (load_tokenizer(json.dumps(saved | {"letters": n})).encode(TRAIN).extra_nats for n in (5, 6))
    assert five != six == BUILT["spell", 2].encode(TRAIN).extra_nats
    del saved["letters"]
    assert load_tokenizer(json.dumps(saved)).encode(TRAIN).extra_nats == five


def test_clusters_are_learnt_from_contexts_and_known_by_the_spelling() -> None:
    """Two kinds of words, of different letters, each where the other never is."""
    random, first, second = np.random.default_rng(0), "aeioub", "lmnrst"
    lines = [
        f"the {''.join(random.choice(list(first), 3))} was {''.join(random.choice(list(second), 3))}"
        for _ in range(600)
    ]
    built = WordTokenizer.of("\n".join(lines), UNICODE, "cluster", 3, 1000)
    rare = {
        kind: {word for word, count in built.counts.items() if count < 3 and set(word) <= set(" " + kind)}
        for kind in (first, second)
    }
    classes = {kind: Counter(built.encode("".join(sorted(words))).ids.tolist()) for kind, words in rare.items()}
    new = {kind: built.encode(text).ids.tolist() for kind, text in ((first, " aeiouaeiou"), (second, " lmnrstlmn"))}
    assert min(map(len, rare.values())) > 20
    assert all(new[kind][0] in classes[kind] for kind in new)
    mixed = classes[first] & classes[second]
    assert mixed.total() < 0.2 * min(map(Counter.total, classes.values()))


def test_a_full_vocabulary_leaves_rare_words_to_train_the_classes() -> None:
    built = WordTokenizer.of(TRAIN, UNICODE, "spell", 1, len(FORMS) + 4)
    ids = built.encode(TRAIN).ids
    assert built.size == len(FORMS) + 4
    assert np.count_nonzero(ids <= len(FORMS)) > 5
    with pytest.raises(UserError, match=f"vocab_size={len(FORMS) + 1} with level='words': expected more than"):
        WordTokenizer.of(TRAIN, UNICODE, "spell", 1, len(FORMS) + 1)


def test_a_prompt_whose_last_word_may_go_on_can_become_any_word_that_begins_so() -> None:
    built = BUILT["spell", 2]
    complete, longer = built.encode_prompt("by the old ho").cuts
    first = [built.decode(np.array([n])) for n in np.flatnonzero(longer.allowed_V)]
    assert (first, longer.begun) == ([" house"], b" ho")
    assert complete.kept == longer.kept + 1 == len(built.encode_prompt("by the old ho").ids)
    (known,) = built.encode_prompt("by the old house").cuts
    assert np.flatnonzero(known.allowed_V).tolist() == built.encode(" house").ids.tolist()
    (rare,) = built.encode_prompt("by Xyz").cuts
    assert (rare.begun, np.count_nonzero(~rare.allowed_V)) == (b"", 1)
    assert BUILT["drop", 2].encode_prompt("nobody Xyz").cuts[0].kept == 1  # neither has an id
