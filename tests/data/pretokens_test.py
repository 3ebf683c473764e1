"""Pretokens are words, numbers and marks with the space before them, and together the text."""

from unittest import mock

import numpy as np
import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from lovecraft_jax.data import characters
from lovecraft_jax.data import pretokens as pretokens_module
from lovecraft_jax.data.pretokens import PATTERN, Pretokens, expand, split, split_prompt, split_short

TEXTS = st.text() | st.text(st.sampled_from("ab' \n\t1²Ⅷ_-—é\u0301\u093f\u0915\u00a0\x1c\x85\u2028.٣\U0001f419"))


def pretokens(text: str) -> list[str]:
    return [token for piece in split(text) for token in piece]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The old house, it's", ["The", " old", " house", ",", " it's"]),
        ("'tis of '98:  two", ["'", "tis", " of", " '", "98", ":", " ", " two"]),
        ('end."\n\n\n"I am', ["end", '."', "\n\n\n", '"', "I", " am"]),
        ("a --b_c-d", ["a", " --", "b", "_", "c", "-", "d"]),
        ("नमस्ते दुनिया", ["नमस्ते", " दुनिया"]),  # combining marks belong to their word
        ("Ångström 12½", ["Ångström", " 12", "½"]),
        (" \n ", [" ", "\n", " "]),
    ],
)
def test_a_pretoken_is_a_word_a_number_or_marks_with_the_space_before_it(text: str, expected: list[str]) -> None:
    assert pretokens(text) == expected


@settings(deadline=None)
@given(TEXTS)
@example("\n\na\n\n\nb")
def test_pretokens_together_are_the_text_and_where_it_is_cut_does_not_matter(text: str) -> None:
    found = Pretokens(text)
    assert "".join(found.types[n] for n in found.index_N) == text
    assert len(set(found.types)) == len(found.types)
    with mock.patch.object(characters, "PIECE", 3):
        cut = Pretokens(text)
    assert cut.types == found.types
    assert split_short(text) == pretokens(text)
    np.testing.assert_array_equal(cut.index_N, found.index_N)


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=("Cs", "Cn"))) | TEXTS.filter(str.isascii))  # Cn: of newer Unicode
def test_other_runtimes_find_the_same_pretokens_by_the_saved_pattern(text: str) -> None:
    library = pre_tokenizers.Split(tokenizers.Regex(PATTERN), "isolated")
    assert [token for token, _ in library.pre_tokenize_str(text)] == pretokens(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I don'", ["I", " don'"]),
        ("two  ", ["two", " ", " "]),
        ("end.", ["end", "."]),
        ("a hou", ["a", " hou"]),
        ("12", ["12"]),
        ("", []),
    ],
)
def test_the_last_pretoken_of_a_prompt_may_go_on(text: str, expected: list[str]) -> None:
    assert split_prompt(text) == expected


@pytest.mark.parametrize("at_once", [3, 100])
def test_the_ids_of_pretokens_are_put_together_in_order(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretokens_module, "AT_ONCE", at_once)
    ids = expand([[7], [], [1, 2, 3]], np.array([2, 0, 1, 0, 2]), np.dtype(np.uint8))
    assert (ids.tolist(), ids.dtype) == ([1, 2, 3, 7, 7, 1, 2, 3], np.uint8)
    assert expand([], np.zeros(0, int), np.dtype(np.uint8)).tolist() == []
