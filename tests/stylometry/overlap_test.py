import itertools
import random
import time

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


@settings(deadline=None, max_examples=300)
@given(TALES, TEXTS, st.integers(1, 6))
@example({"z": "ab", "y": "ba"}, "abba", 1)  # one span ends where the next begins
@example({"z": "ab", "y": "xab"}, "ab", 2)  # in two tales: the first by name, not the first given
@example({"z": "aaaaa"}, "a" * 12, 3)
def test_spans_match_an_exhaustive_search(tales: dict[str, str], text: str, min_length: int) -> None:
    overlap, expected = Overlap(tales), _all_spans(tales, text)
    assert overlap.spans(text, min_length) == [span for span in expected if span.length >= min_length]
    longest = max(expected, key=lambda span: span.length, default=None)
    assert overlap.longest(text) == longest
    lengths = min_length, 2 * min_length
    assert overlap.shares(text, lengths) == {length: _share(expected, text, length) for length in lengths}


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
    assert overlap.shares(text, (100,)) == {100: 137 / len(text)}
    assert overlap.longest(own).length < 50  # type: ignore[union-attr]


def test_empty_or_disjoint_texts_share_no_span() -> None:
    for tales, text in (({}, "text"), ({"empty": ""}, "text"), ({"tale": "abc"}, ""), ({"tale": "abc"}, "xyz")):
        overlap = Overlap(tales)
        assert overlap.spans(text, 1) == []
        assert overlap.longest(text) is None
        assert overlap.measure(text) == {"copied_longest": 0, "copied_20": 0, "copied_50": 0, "copied_100": 0}


def test_quantiles_over_pieces_of_one_length() -> None:
    overlap = Overlap({"tale": "the quick brown fox jumps over the lazy dog"})
    own = [
        "the quick brown fox jum" + "#" * 23,
        "#" * 50,
    ]  # pieces of 23: the first the first is in the tale, the others are not
    quantiles = overlap.quantiles(own, 23)
    assert quantiles["copied_longest"] == pytest.approx((0, 0, 0.925 * 23))  # of 23, 0, 0, 0
    assert quantiles["copied_20"] == pytest.approx((0, 0, 92.5))
    assert quantiles["copied_50"] == (0, 0, 0)
    assert overlap.quantiles(["the quick brown fox jum"], 1000)["copied_longest"] == (
        23,
        23,
        23,
    )  # shorter than a piece


@pytest.mark.slow
def test_search_time_is_not_quadratic(tales: dict[str, str]) -> None:
    long = "".join(random.Random(0).choices("eta ", k=400_000))
    overlap = Overlap(tales | {"long": long})
    texts = {
        "the longest tale": long,
        "its halves swapped": long[200_000:] + long[:200_000],
        "one letter": "a" * 20_000,
        "random": "".join(random.Random(1).choices("eta ", k=20_000)),
    }
    for name, text in texts.items():
        began = time.process_time()
        overlap.longest(text)
        assert time.process_time() - began < 5, name  # half a second at most; minutes if quadratic


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
