"""Byte-pair encoding: lossless for every text, the same each time, readable by the library that others use."""

import json
from unittest import mock

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from lovecraft_jax.data import bpe_tokenizer
from lovecraft_jax.data.bpe_tokenizer import BpeTokenizer
from lovecraft_jax.data.cleaning import make_cleaning
from lovecraft_jax.data.encoded import UNKNOWN_ID
from lovecraft_jax.data.tokenizer import load_tokenizer
from lovecraft_jax.runtime.errors import UserError

ASCII, UNICODE = make_cleaning("ascii"), make_cleaning("unicode")
TRAIN = "the house by the sea, the old house\n\nthen the others thought of the house\n" * 20
BUILT = BpeTokenizer.of(TRAIN, UNICODE, 300)
TEXTS = st.text() | st.text(st.sampled_from("theous \n\u00e9\u2026\U0001f419")) | st.just("a <unused> token")


@settings(deadline=None)
@given(TEXTS)
def test_every_text_survives_encoding_and_decoding_and_its_characters_are_counted(text: str) -> None:
    encoded = BUILT.encode(text)
    assert BUILT.decode(encoded.ids) == text
    assert BUILT.generated_bytes(encoded.ids) == text.encode()
    assert encoded.n_chars == len(text) == BUILT.lengths(encoded).sum()
    assert encoded.extra_nats == 0
    assert UNKNOWN_ID not in encoded.ids


@settings(deadline=None)
@given(TEXTS)
def test_the_saved_json_is_the_librarys_own_and_gives_the_same_ids(text: str) -> None:
    saved = BUILT.dumps()
    library = tokenizers.Tokenizer.from_str(json.dumps(json.loads(saved)["tokenizer"]))
    assert library.encode(text).ids == BUILT.encode(text).ids.tolist()
    with mock.patch.object(bpe_tokenizer, "AT_ONCE", 2):
        assert library.encode(text).ids == BUILT.encode(text).ids.tolist()
        assert BUILT.decode(BUILT.encode(text).ids) == text
    assert library.decode(BUILT.encode(text).ids.tolist()) == text
    assert load_tokenizer(saved).encode(text).ids.tolist() == BUILT.encode(text).ids.tolist()


def test_frequent_pieces_of_words_are_tokens_and_the_same_text_gives_the_same_tokens() -> None:
    tokens = [BUILT.decode(np.array([n])) for n in BUILT.encode("the house").ids]
    assert tokens == ["the", " house"]
    again = BpeTokenizer.of(TRAIN, UNICODE, 300)
    assert again == BUILT
    assert load_tokenizer(BUILT.dumps()).dumps() == again.dumps()


def test_the_vocabulary_has_the_bytes_that_a_text_may_have_and_at_most_the_size_that_is_asked() -> None:
    assert BUILT.size <= 300
    ascii_only = BpeTokenizer.of("abc", ASCII, 100)
    assert ascii_only.size == 1 + 96  # an unused id, a newline and 95 characters: nothing occurs twice
    assert ascii_only.decode(ascii_only.encode("~z\n").ids) == "~z\n"
    with pytest.raises(UserError, match="vocab_size=96 with level='bpe': expected at least 97"):
        BpeTokenizer.of("ab", ASCII, 96)


def test_a_prompt_has_a_cut_wherever_a_token_can_complete_its_last_word() -> None:
    prompt, cut_before = BUILT.encode_prompt("the ho"), set()
    assert BUILT.decode(prompt.ids) == "\nthe ho"
    for cut in prompt.cuts:
        assert BUILT.decode(prompt.ids[: cut.kept]) + cut.begun.decode() == "\nthe ho"
        tokens = {BUILT.decode(np.array([n])) for n in range(BUILT.size)}
        first = {BUILT.decode(np.array([n])) for n in np.flatnonzero(cut.allowed_V)}
        assert first == {token for token in tokens if token.startswith(cut.begun.decode())}
        cut_before |= first
    assert {" house", "o"} <= cut_before


@pytest.mark.parametrize("text", ["the others'", "the  ", "the house,", "th\u00e9", "the\n"])
def test_ids_of_a_prompt_up_to_a_cut_and_what_it_has_begun_are_the_prompt(text: str) -> None:
    prompt = BUILT.encode_prompt(text)
    assert BUILT.generated_bytes(prompt.ids) == b"\n" + text.encode()
    assert prompt.cuts
    for cut in prompt.cuts:
        assert BUILT.generated_bytes(prompt.ids[: cut.kept]) + cut.begun == b"\n" + text.encode()


def test_a_prompt_cannot_have_bytes_that_are_no_characters() -> None:
    assert BUILT.unseen("the \udcff house \udcff") == ["\udcff"]


def test_an_empty_prompt_is_a_newline() -> None:
    prompt = BUILT.encode_prompt("")
    assert (prompt.ids.tolist(), prompt.cuts) == ([BUILT.start_id], ())
    assert BUILT.decode(prompt.ids) == "\n"
