"""Features against a direct implementation on random texts; words, sentences and distributions by hand."""

import math
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lovecraft_jax.stylometry.distributions import axes, distributions
from lovecraft_jax.stylometry.features import FEATURES, measure
from lovecraft_jax.stylometry.reference import Reference
from lovecraft_jax.stylometry.text import PREPOSITIONS, PRONOUNS, sentences, words


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The half-mad man--he--didn't!", ["The", "half", "mad", "man", "he", "didn't"]),
        ("'Tis Danforth's\nR'lyeh; o'er 3rd '28", ["Tis", "Danforth's", "R'lyeh", "o'er", "rd"]),
        ("the hounds' _x_", ["the", "hounds", "x"]),
        ("\u0426\u0430\u0440\u044c, na\u00efve; don\u2019t", ["\u0426\u0430\u0440\u044c", "na\u00efve", "don\u2019t"]),
        (" \n1,2. --", []),
    ],
)  # fmt: skip
def test_words_are_sequences_of_letters_with_apostrophes_inside(text: str, found: list[str]) -> None:
    assert words(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("It came. It went!", ["It came.", "It went!"]),
        ("It came. it went... and stayed", ["It came. it went... and stayed"]),
        ('"Who?" he cried. "You!" (So.) -1 was it.', ['"Who?" he cried.', '"You!"', "(So.)", "-1 was it."]),
        ("Dr. West met Mr. H. P. Hale. No. 3 was his", ["Dr. West met Mr. H. P. Hale.", "No. 3 was his"]),
        ("A TITLE\n\nIt came\nin.\n\n\n* * *\n\nEnd", ["A TITLE", "It came\nin.", "End"]),
        ("At 2.30 I.", ["At 2.30 I."]),
        ("...", []),
    ],
)
def test_sentences_end_at_stops_and_blank_lines_but_not_after_titles_and_initials(text: str, found: list[str]) -> None:
    assert sentences(text) == found


TOKENS = ("the", "The", "sea", "Nation", "stations", "x'ed", "Going", "he", "upon", "QQ", "fisher", "\u0436")
TEXTS = st.lists(st.tuples(st.sampled_from(TOKENS), st.sampled_from((" ", " ", "-", ". ", "! ", "\n\n"))), max_size=40)
PROSE = TEXTS.map(lambda pairs: "".join(map("".join, pairs)))
TALES = st.dictionaries(st.sampled_from("abcd"), PROSE, min_size=1)


@settings(deadline=None, max_examples=60)
@given(PROSE, TALES, TALES, st.sampled_from("abcdABCD"))
@example(
    'The sea! The sea and the sea. "Nation to nation," he cried, fishing at\nthe stationed ZKauba.',
    {"a": "The nation cried at sea.", "b": "Shining sea"},
    {"c": "He stationed the sea to fish and the sea"},
    "d",
)
@example(" ".join((*TOKENS * 11, *"abcdefghij" * 2)), {}, {}, "d")  # longer than the window of distinct words
def test_features_match_a_direct_count(text: str, train: dict[str, str], held: dict[str, str], out: str) -> None:
    train, held_out = {**train, "always": "The sea"}, {name.upper(): tale for name, tale in held.items()}
    left = [{name: tale for name, tale in tales.items() if name != out} for tales in (train, held_out)]
    found = measure(text, Reference(train, held_out).without(out))
    assert list(found) == [feature.key for feature in FEATURES]
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
