import itertools
import random
import time
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lovecraft_jax.data import corpus
from lovecraft_jax.stylometry.overlap import Overlap, Span

TEXTS = st.one_of(
    st.text("ab", max_size=40), st.text("abc", max_size=40), st.text("a\n\u00e9\u4e2d\U0001f980", max_size=30)
)
TALES = st.dictionaries(st.sampled_from("zyxw"), TEXTS, max_size=4)


@pytest.fixture(scope="module")
def tales() -> dict[str, str]:
    return {tale.name: tale.text for tale in corpus.load("bundled").tales}


@settings(deadline=None, max_examples=150)
@given(TALES, TEXTS, st.integers(1, 6))
@example({"z": "ab", "y": "ba"}, "abba", 1)  # one span ends where the next begins
@example({"z": "ab", "y": "xab"}, "ab", 2)  # in two tales: the first by name, not the first given
@example({"z": "aaaaa"}, "a" * 12, 3)
@example({"z": "ab" * 13}, "ab" * 12 + "c", 3)
def test_spans_match_an_exhaustive_search(tales: dict[str, str], text: str, min_length: int) -> None:
    overlap, expected = Overlap(tales), _all_spans(tales, text)
    assert overlap.spans(text, min_length) == [span for span in expected if span.length >= min_length]
    longest = max(expected, key=lambda span: span.length, default=None)
    assert overlap.longest(text) == longest
    lengths = min_length, 2 * min_length
    assert overlap.shares(text, lengths) == {length: _share(expected, text, length) for length in lengths}
    shares = {f"copied_{length}": 100 * _share(expected, text, length) for length in (20, 50, 100)}
    assert overlap.measure(text) == {"copied_longest": longest.length if longest else 0} | shares


def test_a_planted_span_is_found_with_its_tale_and_offset(tales: dict[str, str]) -> None:
    names = sorted(tales)
    held_out, source = names[:3], names[20]
    overlap = Overlap({name: tales[name] for name in names[3:]})
    own = "\n\n".join(tales[name] for name in held_out)
    planted = tales[source][1234 : 1234 + 137]
    # Between characters that occur in no tale, so that the span cannot be longer.
    text = f"{own[:5000]}#{planted}#{own[5000:]}"
    assert [span for span in overlap.spans(text) if span.length > 100] == [Span(5001, 5138, source, 1234)]
    assert overlap.longest(text) == Span(5001, 5138, source, 1234)


def test_quantiles_over_pieces_of_one_length() -> None:
    overlap = Overlap({"tale": "the quick brown fox jumps over the lazy dog"})
    shared = "the quick brown fox jum"
    quantiles = overlap.quantiles([shared + "#" * 23, "#" * 50], len(shared))  # four pieces, the first in the tale
    assert quantiles["copied_longest"] == pytest.approx((0, 0, 0.925 * 23))  # of 23, 0, 0, 0
    assert quantiles["copied_20"] == pytest.approx((0, 0, 92.5))
    assert quantiles["copied_50"] == (0, 0, 0)
    assert overlap.quantiles([shared], 1000)["copied_longest"] == (23, 23, 23)  # shorter than a piece


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda overlap: overlap.spans("text", 0), "min_length=0: expected a whole number of at least 1"),
        (lambda overlap: overlap.shares("text", [20, -1]), "lengths=-1: expected a whole number of at least 1"),
        (lambda overlap: overlap.shares("text", []), "lengths: none given"),
        (lambda overlap: overlap.quantiles(["text"], 0), "length=0: expected a whole number of at least 1"),
        (lambda overlap: overlap.quantiles([], 10), "texts: none given"),
    ],
)
def test_wrong_arguments_are_named(call: Callable[[Overlap], object], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        call(Overlap({"tale": "text"}))


@pytest.mark.slow
def test_search_time_is_not_quadratic(tales: dict[str, str]) -> None:
    long = "".join(random.Random(0).choices("eta ", k=100_000))
    overlap = Overlap(tales | {"long": long})
    for text in (long, long[50_000:] + long[:50_000], "a" * 20_000):
        began = time.process_time()
        overlap.longest(text)
        assert time.process_time() - began < 3  # a tenth of a second; minutes if quadratic


def _all_spans(tales: dict[str, str], text: str) -> list[Span]:
    """All maximal spans, by trying every start and end in every tale."""

    def holds(start: int, end: int) -> bool:
        return start >= 0 and end <= len(text) and any(text[start:end] in tale for tale in tales.values())

    places = itertools.combinations(range(len(text) + 1), 2)
    maximal = [at for at in places if holds(*at) and not holds(at[0] - 1, at[1]) and not holds(at[0], at[1] + 1)]
    spans = []
    for start, end in maximal:
        tale = next(name for name in sorted(tales) if text[start:end] in tales[name])
        spans.append(Span(start, end, tale, tales[tale].find(text[start:end])))
    return spans


def _share(spans: list[Span], text: str, min_length: int) -> float:
    inside = {at for span in spans if span.length >= min_length for at in range(span.start, span.end)}
    return len(inside) / max(1, len(text))
