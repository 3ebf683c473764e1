import math
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lovecraft_jax.data import characters
from lovecraft_jax.data.char_tokenizer import CharTokenizer
from lovecraft_jax.data.cleaning import make_cleaning
from lovecraft_jax.data.encoded import UNKNOWN_ID
from lovecraft_jax.data.tokenizer import load_tokenizer

ASCII, UNICODE = make_cleaning("ascii"), make_cleaning("unicode")
TEXTS = st.text() | st.text(st.sampled_from("ae\n\r\u0301\u00e9\u2026\U0001f419"))


@settings(deadline=None)
@given(TEXTS, TEXTS)
def test_ids_follow_code_points_with_0_for_unknown_in_long_texts_too(train: str, text: str) -> None:
    expected = [sorted(set(train)).index(char) + 1 if char in train else 0 for char in text]
    whole = CharTokenizer.of(train, UNICODE)
    with mock.patch.object(characters, "PIECE", 3):
        pieces = CharTokenizer.of(train, UNICODE)
        cut = pieces.encode(text)
    assert load_tokenizer(whole.dumps()) == pieces == whole
    for encoded in (cut, whole.encode(text)):
        np.testing.assert_array_equal(encoded.ids, expected)
        assert encoded.n_chars == len(text)
        assert encoded.extra_nats == pytest.approx(expected.count(0) * math.log(0x110000 - 0x800))
    assert whole.decode(np.array(expected, int)) == "".join(char if char in train else "\ufffd" for char in text)


@pytest.mark.parametrize(
    ("characters", "smallest"), [(255, np.uint8), (256, np.uint16), (65_535, np.uint16), (65_536, np.uint32)]
)
def test_ids_have_the_smallest_dtype_that_holds_them(characters: int, smallest: type) -> None:
    text = "".join(map(chr, range(0x10000, 0x10000 + characters)))
    ids = CharTokenizer.of(text, UNICODE).encode(text).ids
    assert ids.dtype == smallest
    np.testing.assert_array_equal(ids, np.arange(1, characters + 1))


def test_unseen_lists_each_unknown_character_once_in_order() -> None:
    built = CharTokenizer.of("abc", ASCII)
    assert built.unseen("zazbyc!y") == ["z", "y", "!"]
    assert built.unseen("cab") == []


def test_the_start_id_is_a_newline() -> None:
    built = CharTokenizer.of("a\nb\t", UNICODE)
    assert built.decode(np.array([built.start_id])) == "\n"
    assert CharTokenizer.of("ab", ASCII).start_id == UNKNOWN_ID  # where the training text has none


def test_a_saved_tokenizer_of_an_unknown_level_is_refused() -> None:
    saved = CharTokenizer.of("ab", ASCII).dumps().replace('"chars",', '"syllables",', 1)
    with pytest.raises(ValueError, match="syllables"):
        load_tokenizer(saved)
