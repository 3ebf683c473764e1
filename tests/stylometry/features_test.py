"""Features against values counted by hand, and against a direct implementation on random texts."""

import math
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lovecraft_jax.stylometry.distributions import axes, distributions
from lovecraft_jax.stylometry.features import (
    FEATURES,
    letter_distances,
    longest_repetition,
    mean_distinct_words,
    measure,
    zipf_exponent,
)
from lovecraft_jax.stylometry.reference import Reference
from lovecraft_jax.stylometry.text import PREPOSITIONS, PRONOUNS, sentences, words

TRAIN = {"first": "The nation cried at sea.", "second": "Shining sea"}
HELD_OUT = {"third": "He stationed the sea to fish and the sea"}
TEXT = 'The sea! The sea and the sea. "Nation to nation," he cried, fishing at\nthe stationed ZKauba.'
PER_10_000, PER_CENT = 1e4 / 17, 100 / 17


def test_all_features_of_a_small_text_by_hand() -> None:
    found = measure(TEXT, Reference(TRAIN, HELD_OUT))
    assert list(found) == [feature.key for feature in FEATURES]
    del found["letters_tv"], found["letters_js"]  # below
    assert found == pytest.approx(
        {
            "word_length": 69 / 17,
            "capitals": 80,  # the K of ZKauba is inside
            "the": 4 * PER_10_000,
            "tion_end": 2 * PER_10_000,
            "tion_inside": PER_10_000,
            "ing": PER_10_000,
            "ed": 2 * PER_10_000,
            "pronouns": PER_CENT,  # he
            "prepositions": 2 * PER_CENT,  # to, at
            "once_distinct": 100 * 8 / 11,
            "once_running": 8 * PER_CENT,
            "word_spread": math.sqrt(347 / 17 - (69 / 17) ** 2),
            "sentence_length": 17 / 3,  # 2, 5, 10
            "sentence_spread": math.sqrt((4 + 25 + 100) / 3 - (17 / 3) ** 2),
            "real_train": 11 * PER_CENT,
            "real_held_out": 11 * PER_CENT,
            "real": 15 * PER_CENT,
            "invented_plausible": PER_10_000,  # fishing, of fish and shining
            "invented_other": PER_10_000,
            "distinct_in_100": 11,
            "zipf": -np.polyfit(np.log([1, 2, 3]), np.log([4, 3, 2]), 1)[0],
            "distinct_1": 11 * PER_CENT,
            "distinct_2": 100 * 14 / 16,
            "distinct_3": 100,
            "repetition": 2,  # the sea the sea
            "overlap_2": 100 * 4 / 16,  # the sea, three times, and: and the
            "overlap_3": 100 / 15,  # and the sea
        }
    )


def test_letter_distances_by_hand() -> None:
    assert letter_distances(np.array([0.5, 0.5, 0]), np.array([0.5, 0, 0.5])) == pytest.approx((0.5, math.sqrt(0.5)))
    assert letter_distances(np.array([1, 0]), np.array([0, 1])) == (1, 1)
    found = measure("Aab! cq", Reference({"first": "AC"}, {"second": "ac"}))  # 2/5 a, 1/5 c, 2/5 others; halves
    assert found["letters_tv"] == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("text", "longest"),
    [
        ("the the the", 1),
        ("the the the the", 2),
        ("and the sea and the sea", 3),
        ("the sea and the sea", 0),
        ("the sea the bay the", 0),
        ("", 0),
    ],
)
def test_longest_repetition_by_hand(text: str, longest: int) -> None:
    assert longest_repetition(text.split()) == longest


TOKENS = ("the", "The", "sea", "Nation", "stations", "x'ed", "Going", "he", "upon", "QQ", "fisher", "\u0436")
TEXTS = st.lists(st.tuples(st.sampled_from(TOKENS), st.sampled_from((" ", " ", "-", ". ", "! ", "\n\n"))), max_size=40)
PROSE = TEXTS.map(lambda pairs: "".join(map("".join, pairs)))
TALES = st.dictionaries(st.sampled_from("abcd"), PROSE, min_size=1)


@settings(deadline=None, max_examples=60)
@given(PROSE, TALES, TALES, st.sampled_from("abcdABCD"))
def test_features_match_a_direct_count(text: str, train: dict[str, str], held: dict[str, str], out: str) -> None:
    train, held_out = {**train, "always": "The sea"}, {name.upper(): tale for name, tale in held.items()}
    left = [{name: tale for name, tale in tales.items() if name != out} for tales in (train, held_out)]
    found = measure(text, Reference(train, held_out).without(out))
    assert found == pytest.approx(_directly(text, *left), abs=1e-7)


def _directly(text: str, train: Mapping[str, str], held_out: Mapping[str, str]) -> dict[str, float]:
    as_written = words(text)
    lower = [word.lower() for word in as_written]
    total = len(lower)
    in_train = [word.lower() for tale in train.values() for word in words(tale)]
    in_held_out = [word.lower() for tale in held_out.values() for word in words(tale)]
    real = in_train + in_held_out
    invented = [word for word in lower if word not in real]
    plausible = [
        word for word in invented
        if all(any(f"<{word}>"[i : i + 3] in f"<{other}>" for other in real) for i in range(len(word)))
    ]  # fmt: skip
    lengths, by_sentence = [len(word) for word in as_written], [len(words(part)) for part in sentences(text)]
    once = [word for word in lower if lower.count(word) == 1]
    repeated = sorted((lower.count(word) for word in set(lower) if lower.count(word) > 1), reverse=True)
    windows = [lower[i : i + 100] for i in range(max(1, total - 99))]
    everything = "".join([*train.values(), *held_out.values()]).lower()
    letters, theirs = ([char for char in part if char.isalpha()] or ["none"] for part in (text.lower(), everything))
    p, q = ({char: part.count(char) / len(part) for char in letters + theirs} for part in (letters, theirs))
    divergence = sum(x * math.log2(2 * x / (p[char] + q[char])) / 2 for part in (p, q) for char, x in part.items() if x)

    def grams(tokens: list[str], n: int) -> list[tuple[str, ...]]:
        return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]

    def overlap(n: int) -> list[tuple[str, ...]]:
        known = [gram for tale in held_out.values() for gram in grams([word.lower() for word in words(tale)], n)]
        return [gram for gram in grams(lower, n) if gram in known]

    def per(part: int, whole: int, of: float = 100) -> float:
        return of * part / whole if whole else 0

    return {
        "word_length": np.mean(lengths) if lengths else 0,
        "capitals": per(sum(word[0].isupper() for word in as_written), sum(char.isupper() for char in text)),
        "the": per(lower.count("the"), total, 1e4),
        "tion_end": per(sum(word[-4:] == "tion" for word in lower), total, 1e4),
        "tion_inside": per(sum(word.find("tion") not in (-1, len(word) - 4) for word in lower), total, 1e4),
        "ing": per(sum(word[-3:] == "ing" for word in lower), total, 1e4),
        "ed": per(sum(word[-2:] == "ed" for word in lower), total, 1e4),
        "pronouns": per(sum(word in PRONOUNS for word in lower), total),
        "prepositions": per(sum(word in PREPOSITIONS for word in lower), total),
        "once_distinct": per(len(once), len(set(lower))),
        "once_running": per(len(once), total),
        "letters_tv": sum(abs(p[char] - q[char]) for char in p) / 2,
        "letters_js": math.sqrt(max(0, divergence)),
        "word_spread": np.std(lengths) if lengths else 0,
        "sentence_length": np.mean(by_sentence) if by_sentence else 0,
        "sentence_spread": np.std(by_sentence) if by_sentence else 0,
        "real_train": per(sum(word in in_train for word in lower), total),
        "real_held_out": per(sum(word in in_held_out for word in lower), total),
        "real": per(total - len(invented), total),
        "invented_plausible": per(len(plausible), total, 1e4),
        "invented_other": per(len(invented) - len(plausible), total, 1e4),
        "distinct_in_100": np.mean([len(set(window)) for window in windows]),
        "zipf": -np.polyfit(np.log(range(1, len(repeated) + 1)), np.log(repeated), 1)[0] if len(repeated) > 1 else 0,
        **{f"distinct_{n}": per(len(set(grams(lower, n))), len(grams(lower, n))) for n in (1, 2, 3)},
        "repetition": max(n for n in range(total + 1) if any(gram[:n] == gram[n:] for gram in grams(lower, 2 * n))),
        **{f"overlap_{n}": per(len(overlap(n)), len(grams(lower, n))) for n in (2, 3)},
    }  # fmt: skip


@given(st.lists(st.sampled_from("abc"), max_size=30), st.integers(1, 8))
def test_mean_distinct_words_averages_over_all_windows(tokens: list[str], window: int) -> None:
    windows = [tokens[i : i + window] for i in range(max(1, len(tokens) - window + 1))]
    assert mean_distinct_words(tokens, window) == pytest.approx(np.mean([len(set(part)) for part in windows]))


def test_zipf_exponent_recovers_the_exponent_of_the_counts() -> None:
    assert zipf_exponent([round(1e6 / rank**1.1) for rank in range(1, 1000)]) == pytest.approx(1.1, abs=1e-3)
    assert zipf_exponent([7, 1, 1]) == zipf_exponent([]) == 0


def test_distributions_of_a_small_text_by_hand() -> None:
    reference = Reference({"first": "ab"}, {"second": "BC"})
    sentence = "Abc" + " cq" * 5 + ". "
    found = distributions(sentence * 20 + "A.", reference)
    places = axes(reference)
    assert {key: value.shape for key, value in found.items()} == {key: x.shape for key, x in places.items()}
    assert "".join(places["letters"]) == "abc"
    np.testing.assert_allclose(found["letters"], np.array([21, 20, 120]) / 261)  # the other hundred letters are q
    np.testing.assert_allclose(found["word_lengths"][:4], np.array([1, 100, 20, 0]) / 121)
    np.testing.assert_allclose(found["sentence_lengths"][:3], np.array([1, 20, 0]) / 21)
    np.testing.assert_allclose(found["zipf"][:4], np.array([100 / 121, 20 / 121, 1 / 121, np.nan]))
    np.testing.assert_allclose(found["type_token"][:2], [2, np.nan])


def test_the_last_bin_counts_all_longer_words_and_sentences() -> None:
    found = distributions("b" * 50 + " b" * 300, Reference({"first": "b"}, {}))
    assert [len(found[key]) for key in ("word_lengths", "sentence_lengths")] == [20, 20]
    assert found["word_lengths"][-1] == pytest.approx(1 / 301)
    assert found["sentence_lengths"][-1] == 1
    assert all(found[key].sum() == pytest.approx(1) for key in ("letters", "word_lengths", "sentence_lengths"))
