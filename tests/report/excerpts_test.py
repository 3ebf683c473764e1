"""Texts in pieces: nothing is lost or added, and each piece is what it says."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lovecraft_jax.report.excerpts import BITS, copied, held, shortened, surprising
from lovecraft_jax.stylometry.overlap import Overlap, Span

WORDS = "the old house by the sea had no door "


def test_a_planted_span_is_one_piece_that_names_its_tale() -> None:
    tale = "".join(chr(97 + (i * i) % 26) for i in range(300))
    planted = tale[40:177]
    text = f"QQQ{planted}ZZZ"
    pieces = copied(text, Overlap({"dagon": tale}).spans(text))
    assert [piece.text for piece in pieces] == ["QQQ", planted, "ZZZ"]
    assert [piece.span and (piece.span.tale, piece.span.length) for piece in pieces] == [None, ("dagon", 137), None]


def test_where_spans_overlap_the_longer_is_shown_whole() -> None:
    short, long = Span(0, 4, "a", 0), Span(2, 8, "b", 0)
    assert [(piece.text, piece.span) for piece in copied("0123456789", [short, long])] == [
        ("01", short),
        ("234567", long),
        ("89", None),
    ]


@given(st.text("ab", max_size=40), st.lists(st.tuples(st.integers(0, 60), st.integers(1, 30))), st.integers(0, 50))
def test_the_pieces_of_a_cut_text_are_the_text(text: str, places: list[tuple[int, int]], length: int) -> None:
    spans = [Span(start, start + size, "tale", 0) for start, size in places]  # some begin or end behind the cut
    shown = shortened(text, length)
    assert "".join(piece.text for piece in copied(shown, spans)) == shown
    assert text.startswith(shown)


def test_a_long_text_is_cut_between_words() -> None:
    assert shortened(WORDS, 12) == "the old"
    assert shortened(WORDS, 1000) == WORDS


def test_words_cost_the_sum_of_their_tokens_whatever_a_token_is() -> None:
    chars = surprising(list("oh no"), np.array([1.0, 2.0, 3.0, 4.0, 0.5]))
    assert [(word.text, word.bits) for word in chars] == [("oh", 3.0), (" no", 7.5)]
    assert [word.text for word in surprising(list("a\n\nb"), np.zeros(4))] == ["a", "\n\nb"]
    tokens = surprising(["oh", " ", "no"], np.array([1.0, 2.0, 4.0]))
    assert [(word.text, word.bits) for word in tokens] == [("oh", 1.0), (" no", 6.0)]


@given(st.lists(st.tuples(st.sampled_from("ab \n"), st.floats(0, 20)), min_size=1))
def test_a_heat_map_loses_no_character_and_no_bit(tokens: list[tuple[str, float]]) -> None:
    chars, bits = [char for char, _ in tokens], np.array([cost for _, cost in tokens])
    words = surprising(chars, bits)
    assert "".join(word.text for word in words) == "".join(chars)
    np.testing.assert_allclose(sum(word.bits for word in words), bits.sum())
    levels = [level for word in words for text, level in word.pieces for _ in text]
    assert levels == [sum(cost >= least for least in BITS) for cost in bits]


def test_what_a_cell_holds_is_shown_from_its_lowest_to_its_highest() -> None:
    assert held("abcd", np.array([-1.0, -1.0, 0.0, 1.0])) == [("ab", 0), ("c", 2), ("d", 4)]
    assert held("ab", np.array([0.7, 0.7])) == [("ab", 0)]
