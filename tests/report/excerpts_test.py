"""Texts split into pieces: nothing is lost or added, and the pieces are right."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lovecraft_jax.report.excerpts import BITS, mark_spans, shorten, split_activations, split_words
from lovecraft_jax.stylometry.overlap import Span

WORDS = "the old house by the sea had no door "


def test_of_overlapping_spans_the_longer_is_marked() -> None:
    short, long = Span(0, 4, "a", 0), Span(2, 8, "b", 0)
    assert mark_spans("0123456789", [short, long]) == [
        ("01", short),
        ("234567", long),
        ("89", None),
    ]


@given(st.text("ab", max_size=40), st.lists(st.tuples(st.integers(0, 60), st.integers(1, 30))), st.integers(0, 50))
def test_the_pieces_of_a_shortened_text_join_to_it(text: str, places: list[tuple[int, int]], length: int) -> None:
    spans = [Span(start, start + size, "tale", 0) for start, size in places]  # some start or end beyond the cut
    shown = shorten(text, length)
    assert "".join(piece for piece, _ in mark_spans(shown, spans)) == shown
    assert text.startswith(shown)


def test_a_text_is_shortened_between_words() -> None:
    assert shorten(WORDS, 12) == "the old"
    assert shorten(WORDS, 1000) == WORDS
    without_spaces = "\u591c\n\n" + "\u5f7c\u306f\u6b69" * 100
    assert shorten(without_spaces, 90) == without_spaces[:90]


def test_the_surprisal_of_a_word_is_the_sum_over_its_tokens() -> None:
    chars = split_words(list("oh no"), np.array([1.0, 2.0, 3.0, 4.0, 0.5]))
    assert [(word.text, word.bits) for word in chars] == [("oh", 3.0), (" no", 7.5)]
    assert [word.text for word in split_words(list("a\n\nb"), np.zeros(4))] == ["a", "\n\nb"]
    tokens = split_words(["oh", " ", "no"], np.array([1.0, 2.0, 4.0]))
    assert [(word.text, word.bits) for word in tokens] == [("oh", 1.0), (" no", 6.0)]


@given(st.lists(st.tuples(st.sampled_from("ab \n"), st.floats(0, 20)), min_size=1))
def test_words_keep_all_characters_bits_and_levels(tokens: list[tuple[str, float]]) -> None:
    chars, bits = [char for char, _ in tokens], np.array([cost for _, cost in tokens])
    words = split_words(chars, bits)
    assert "".join(word.text for word in words) == "".join(chars)
    np.testing.assert_allclose(sum(word.bits for word in words), bits.sum())
    levels = [level for word in words for text, level in word.pieces for _ in text]
    assert levels == [sum(cost >= least for least in BITS) for cost in bits]


def test_activation_levels_range_from_the_lowest_to_the_highest() -> None:
    assert split_activations("abcd", np.array([-1.0, -1.0, 0.0, 1.0])) == [("ab", 0), ("c", 2), ("d", 4)]
    assert split_activations("ab", np.array([0.7, 0.7])) == [("ab", 0)]
