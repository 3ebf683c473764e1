import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lovecraft_jax.data.cleaning import Cleaning, make_cleaning
from lovecraft_jax.data.tokenizer import UNKNOWN_ID, build_tokenizer, load_tokenizer

ASCII, UNICODE = make_cleaning("ascii"), make_cleaning("unicode")


@settings(deadline=None, max_examples=50)
@given(st.text())
def test_decoding_inverts_encoding_and_a_saved_tokenizer_loads_as_the_same(text: str) -> None:
    for cleaning in (ASCII, UNICODE):
        built = build_tokenizer("chars", text, cleaning)
        loaded = load_tokenizer(built.dumps())
        assert loaded == built
        assert loaded.dumps() == built.dumps()
    encoded = built.encode(text)
    assert built.decode(encoded.ids) == text
    assert encoded.ids.shape == (len(text),)
    assert UNKNOWN_ID not in encoded.ids
    assert encoded.n_chars == len(text)
    assert encoded.extra_nats == 0


def test_ids_follow_code_points_and_0_is_unknown() -> None:
    built = build_tokenizer("chars", "ba\nab", ASCII)
    assert built.size == 4
    np.testing.assert_array_equal(built.encode("\nabz").ids, [1, 2, 3, 0])
    assert built.decode(np.array([0, 3], np.uint8)) == "\N{REPLACEMENT CHARACTER}b"


@pytest.mark.parametrize(("cleaning", "alphabet"), [(ASCII, 96), (UNICODE, 0x110000 - 0x800)], ids=["ascii", "unicode"])
def test_unknown_characters_cost_their_spelling(cleaning: Cleaning, alphabet: int) -> None:
    encoded = build_tokenizer("chars", "ab", cleaning).encode("azbzy")  # three unknown characters
    np.testing.assert_array_equal(encoded.ids, [1, 0, 2, 0, 0])
    assert encoded.extra_nats == pytest.approx(3 * math.log(alphabet), rel=1e-12)
    assert encoded.n_chars == 5


@pytest.mark.parametrize(
    ("characters", "smallest"),
    [(255, np.uint8), (256, np.uint16), (65_535, np.uint16), (65_536, np.uint32)],
)
def test_ids_have_the_smallest_dtype_that_holds_them(characters: int, smallest: type) -> None:
    text = "".join(map(chr, range(0x10000, 0x10000 + characters)))
    ids = build_tokenizer("chars", text, UNICODE).encode(text).ids
    assert ids.dtype == smallest
    np.testing.assert_array_equal(ids, np.arange(1, characters + 1))


def test_unseen_lists_each_unknown_character_once_in_order() -> None:
    built = build_tokenizer("chars", "abc", ASCII)
    assert built.unseen("zazbyc!y") == ["z", "y", "!"]
    assert built.unseen("cab") == []


def test_the_start_id_is_a_newline() -> None:
    built = build_tokenizer("chars", "a\nb\t", UNICODE)
    assert built.decode(np.array([built.start_id])) == "\n"
    assert build_tokenizer("chars", "ab", ASCII).start_id == UNKNOWN_ID  # where the training text has none


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="syllables"):
        build_tokenizer("syllables", "ab", ASCII)
    saved = build_tokenizer("chars", "ab", ASCII).dumps().replace('"chars",', '"syllables",', 1)
    with pytest.raises(ValueError, match="syllables"):
        load_tokenizer(saved)
