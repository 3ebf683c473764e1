"""Long texts are worked on in pieces: with tiny pieces, the result is that of the whole."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lovecraft_jax.data import characters
from lovecraft_jax.data.characters import pieces, whole_lines
from lovecraft_jax.data.cleaning import make_cleaning
from lovecraft_jax.data.tokenizer import build_tokenizer

# Any text at all, and texts dense in what a cut could split: line ends, and marks that compose.
TEXTS = st.text() | st.text(st.sampled_from("ae\n\r \u0301\u0323\u00e9\u201c\u2026\u0434\U0001f419"))


@contextmanager
def _tiny_pieces() -> Iterator[None]:
    with mock.patch.object(characters, "PIECE", 3):
        yield


@settings(deadline=None)
@given(TEXTS)
def test_pieces_add_up_to_the_text(text: str) -> None:
    with _tiny_pieces():
        cut, lines = list(pieces(text)), list(whole_lines(text))
    assert "".join(cut) == "".join(lines) == text
    assert all(len(piece) == 3 for piece in cut[:-1])
    assert all(len(piece) > 3 and piece.endswith("\n") for piece in lines[:-1])


@settings(deadline=None)
@given(TEXTS)
@example("abc\n\u0301\u0323e\u0301")
@example("abcd\r\n\r\ne")
def test_cleaning_in_pieces_is_cleaning_the_whole(text: str) -> None:
    for cleaning in (make_cleaning("ascii"), make_cleaning("unicode")):
        whole = cleaning.apply(text)
        with _tiny_pieces():
            assert cleaning.apply(text) == whole


@settings(deadline=None)
@given(TEXTS, TEXTS)
def test_encoding_in_pieces_is_encoding_the_whole(train: str, text: str) -> None:
    tokenizer = build_tokenizer("chars", train, make_cleaning("unicode"))
    whole = tokenizer.encode(text)
    with _tiny_pieces():
        assert build_tokenizer("chars", train, make_cleaning("unicode")) == tokenizer
        cut = tokenizer.encode(text)
    np.testing.assert_array_equal(cut.ids, whole.ids, strict=True)
    assert (cut.n_chars, cut.extra_nats) == (whole.n_chars, whole.extra_nats)
    np.testing.assert_array_equal(whole.ids, [sorted(set(train)).index(c) + 1 if c in train else 0 for c in text])
