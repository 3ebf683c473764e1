"""The verdict on synthetic authors: each has words, habits and tales that differ, and writes new ones at will."""

import random

import numpy as np
import pytest

from lovecraft_jax.stylometry import authorship
from lovecraft_jax.stylometry.authorship import ENOUGH, Author, Comparison, cut
from lovecraft_jax.stylometry.features import FIGURES, measure

LENGTH = 2000


class Writer:
    """Sentences of words that follow each other by habit; every tale has subjects and names of its own."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.words = [self._word() for _ in range(600)]
        self.follow = {word: self.rng.choices(self.words, self._zipf(), k=4) for word in self.words}

    def tale(self, length: int) -> str:
        weights = [weight * self.rng.lognormvariate(0, 0.3) for weight in self._zipf()]
        names = [self._word().title() for _ in range(5)]
        typical, new = self.rng.uniform(8, 16), self.rng.uniform(0.01, 0.05)
        parts: list[str] = []
        while sum(map(len, parts)) < length:
            sentence = self.rng.choices(self.words, weights)
            for _ in range(max(2, round(self.rng.gauss(typical, 4)))):
                habit = self.rng.random() < 0.7 and sentence[-1] in self.follow
                drawn = (
                    self.rng.choice(self.follow[sentence[-1]]) if habit else self.rng.choices(self.words, weights)[0]
                )
                sentence.append(self.rng.choice(names) if self.rng.random() < new else drawn)
            parts.append(" ".join([sentence[0].title(), *sentence[1:]]) + ". ")
        return "".join(parts)[:length]

    def _word(self) -> str:
        return "".join(self.rng.choice("bdklmnrst") + self.rng.choice("aeiou") for _ in range(self.rng.randint(1, 4)))

    def _zipf(self) -> list[float]:
        return [1 / (rank + 3) for rank in range(600)]


Written = tuple[Writer, dict[str, str], Author]
HELD_OUT = ("tale3", "tale4", "tale5")


@pytest.fixture(scope="module", params=range(2))
def written(request: pytest.FixtureRequest) -> Written:
    writer = Writer(request.param)
    tales = {f"tale{i}": writer.tale(writer.rng.choice((2100, 4100, 6100))) for i in range(50)}
    return writer, tales, Author(tales, HELD_OUT)


def test_new_tales_are_accepted_as_often_as_promised_and_imitations_never(written: Written) -> None:
    writer, tales, author = written
    new = [writer.tale(LENGTH) for _ in range(40)]
    everything = " ".join(tales.values()).split()
    shuffled = ["".join(writer.rng.sample(text, len(text))) for text in new[:10]]
    unigrams = [" ".join(writer.rng.choices(everything, k=LENGTH))[:LENGTH] for _ in range(10)]
    accepted = [sum(bool(author.compare(text).accepted) for text in texts) for texts in (new, shuffled, unigrams)]
    assert accepted[0] >= 34  # 38 are to be expected; fewer than 34 with one author in fifty
    assert accepted[1:] == [0, 0]


def test_a_figure_stands_beside_those_of_the_authors_pieces_each_measured_against_the_other_tales(
    written: Written,
) -> None:
    writer, tales, author = written
    text = writer.tale(2 * LENGTH)
    found = author.compare(text)
    pieces = [(name, piece) for name, tale in tales.items() for piece in cut(tale, LENGTH)]
    assert (found.length, found.tales, found.pieces, len(found.p_values)) == (LENGTH, 50, len(pieces), 2)
    theirs = [measure(piece, author.reference.without(name)) for name, piece in pieces]
    weights = np.array([1 / 50 / len(cut(tales[name], LENGTH)) for name, _ in pieces])
    mine = [measure(piece, author.reference) for piece in cut(text, LENGTH)]
    for figure, row in zip(FIGURES, found.rows, strict=True):
        assert row.figure == figure
        assert row.value == pytest.approx(np.mean([figures[figure.key] for figures in mine]))
        values = np.array([figures[figure.key] for figures in theirs])
        for bound, share in ((row.low, 0.025), (row.median, 0.5), (row.high, 0.975)):
            assert weights[values < bound].sum() <= share + 1e-9
            assert weights[values <= bound].sum() >= share - 1e-9
            assert bound in values
        assert row.inside == (row.low <= row.value <= row.high)


def test_shares_are_judged_on_a_scale_on_which_they_spread_alike_at_both_ends() -> None:
    """And sizes by their ratios; so that a share of 1 in 100 words is not lost beside one of 50."""
    places = [figure.key for figure in FIGURES]
    low, high, half, size = (places.index(key) for key in ("pronouns", "real", "prepositions", "word_length"))
    figures = np.zeros((2, len(FIGURES)))
    figures[:, [low, high, half, size]] = [[0, 99, 50, 4], [1, 100, 51, 9]]
    moved = np.diff(authorship._even(figures), axis=0)[0]
    assert moved[low] == pytest.approx(moved[high])
    assert moved[low] > 5 * moved[half]
    assert moved[size] == pytest.approx(np.log(2))


def test_curves_have_the_texts_values_and_the_authors_band(written: Written) -> None:
    writer, _, author = written
    found = author.compare(writer.tale(LENGTH)).curves
    for key, curve in found.items():
        assert len({np.shape(values) for values in (curve.x, curve.value, curve.low, curve.median, curve.high)}) == 1
        there = ~np.isnan(curve.high)
        assert there[:2].all(), key
        assert (curve.low <= curve.median)[there].all()
        assert (curve.median <= curve.high)[there].all()
        assert curve.low[there].max() < curve.high[there].max()


def test_words_that_no_tale_has_are_listed_by_how_often_they_occur() -> None:
    found = Author({"one": "Shining and", "two": "fish"}, ["two"]).compare("A fishing xqx; zzz, fish Xqx: shing.")
    assert found.plausible == ("fishing", "shing")
    assert found.implausible == ("xqx", "a", "zzz")


def test_without_tales_or_text_enough_there_is_no_verdict_and_it_says_why(written: Written) -> None:
    writer, tales, author = written
    few = Author(dict(list(tales.items())[: ENOUGH - 1]), HELD_OUT)
    for found, why in (
        (author.compare(writer.tale(LENGTH - 1)), "the text has 1,999 characters; a verdict needs 2,000"),
        (few.compare(writer.tale(LENGTH)), "38 tales have 2,000 characters; a verdict needs 39 of them"),
        (Author({}, ()).compare(""), "0 tales have 2,000 characters; a verdict needs 39 of them"),
    ):
        assert found.reason == why
        assert found.p_value is found.accepted is found.accepted_share is None
        assert (found.p_values, found.tales, found.pieces) == ((), 0, 0)
        assert all(np.isnan([row.low, row.median, row.high]).all() and not np.isnan(row.value) for row in found.rows)


def test_pieces_are_as_long_as_the_text_and_enough_tales_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authorship, "LENGTHS", (100, 50, 20))
    tales = {f"tale{i}": "a b c. " * (8 if i < ENOUGH else 3) for i in range(ENOUGH + 5)}
    lengths = [Author(tales, ["tale0"]).compare("a b c. " * count).length for count in (3, 7, 8, 20)]
    assert lengths == [20, 20, 50, 50]
    tales["tale1"] = tales["tale40"]
    assert Author(tales, ["tale0"]).compare("a b c. " * 20).length == 20


def test_a_text_of_several_pieces_has_one_p_value_and_the_share_of_those_accepted() -> None:
    found = Comparison(2000, 50, 99, (), {}, (), (), (0.02, 0.4, 0.04, 0.06), "")
    assert found.p_value == pytest.approx(0.08)
    assert found.accepted
    assert found.accepted_share == 0.5


def test_pieces_are_cut_one_after_the_other_between_words() -> None:
    text = "\n".join(f"word{i} of" for i in range(1000))
    pieces = cut(text, 1000)
    assert len(pieces) == len(text) // 1000
    place = 0
    for number, piece in enumerate(pieces):
        assert 980 <= len(piece) <= 998
        place = text.index(piece, place)
        assert number * 1000 < place
        assert place + len(piece) < number * 1000 + 1000
        assert set(piece.split()) <= set(text.split())
    assert cut("a" * 25, 10) == ["a" * 10] * 2
    assert cut("a b", 10) == []
