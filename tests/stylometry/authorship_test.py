"""The authorship decision on synthetic authors, who have their own vocabulary and bigrams, and tales that differ."""

import random
import re

import numpy as np
import pytest

from lovecraft_jax.stylometry import authorship
from lovecraft_jax.stylometry.authorship import MIN_TALES, Author, Comparison, cut_pieces
from lovecraft_jax.stylometry.conformal import MIN_SCALE, SHRINKAGE, Conformal, tale_weights
from lovecraft_jax.stylometry.features import FEATURES, measure

LENGTH = 2000


class SyntheticAuthor:
    """Generates tales from preferred bigrams; every tale has word frequencies and names of its own."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.words = [self._word() for _ in range(600)]
        self.followers = {word: self.rng.choices(self.words, self._zipf(), k=4) for word in self.words}

    def tale(self, length: int) -> str:
        weights = [weight * self.rng.lognormvariate(0, 0.3) for weight in self._zipf()]
        names = [self._word().title() for _ in range(5)]
        typical, new = self.rng.uniform(8, 16), self.rng.uniform(0.01, 0.05)
        parts: list[str] = []
        while sum(map(len, parts)) < length:
            sentence = self.rng.choices(self.words, weights)
            for _ in range(max(2, round(self.rng.gauss(typical, 4)))):
                drawn = self.rng.choices(self.words, weights)[0]
                if self.rng.random() < 0.7 and sentence[-1] in self.followers:
                    drawn = self.rng.choice(self.followers[sentence[-1]])
                sentence.append(self.rng.choice(names) if self.rng.random() < new else drawn)
            parts.append(" ".join([sentence[0].title(), *sentence[1:]]) + ". ")
        return "".join(parts)[:length]

    def _word(self) -> str:
        return "".join(self.rng.choice("bdklmnrst") + self.rng.choice("aeiou") for _ in range(self.rng.randint(1, 4)))

    def _zipf(self) -> list[float]:
        return [1 / (rank + 3) for rank in range(600)]


Case = tuple[SyntheticAuthor, dict[str, str], Author]
HELD_OUT = ("tale3", "tale4", "tale5")


@pytest.fixture(scope="module")
def case() -> Case:
    writer = SyntheticAuthor(seed=0)
    tales = {f"tale{i}": writer.tale(writer.rng.choice((2100, 4100, 6100))) for i in range(50)}
    return writer, tales, Author(tales, HELD_OUT)


@pytest.mark.slow
def test_new_tales_are_accepted_at_the_nominal_rate_and_imitations_never(case: Case) -> None:
    writer, tales, author = case
    new = [writer.tale(LENGTH) for _ in range(40)]
    everything = " ".join(tales.values()).split()
    shuffled = ["".join(writer.rng.sample(text, len(text))) for text in new[:10]]
    unigrams = [" ".join(writer.rng.choices(everything, k=LENGTH))[:LENGTH] for _ in range(10)]
    accepted = [sum(bool(author.compare(text).accepted) for text in texts) for texts in (new, shuffled, unigrams)]
    assert accepted[0] >= 34  # 38 are expected; fewer than 34 for one author in fifty
    assert accepted[1:] == [0, 0]


@pytest.mark.slow
def test_intervals_are_quantiles_of_pieces_measured_without_their_own_tale(case: Case) -> None:
    writer, tales, author = case
    text = writer.tale(2 * LENGTH)
    found = author.compare(text)
    pieces = [(name, piece) for name, tale in tales.items() for piece in cut_pieces(tale, LENGTH)]
    assert (found.length, found.tales, found.pieces, len(found.p_values)) == (LENGTH, 50, len(pieces), 2)
    theirs = [measure(piece, author.reference.without(name)) for name, piece in pieces]
    weights = np.array([1 / 50 / len(cut_pieces(tales[name], LENGTH)) for name, _ in pieces])
    mine = [measure(piece, author.reference) for piece in cut_pieces(text, LENGTH)]
    for feature, row in zip(FEATURES, found.features, strict=True):
        assert row.feature == feature
        assert row.value == pytest.approx(np.mean([values[feature.key] for values in mine]))
        piece_values = np.array([values[feature.key] for values in theirs])
        for bound, share in ((row.low, 0.025), (row.median, 0.5), (row.high, 0.975)):
            assert weights[piece_values < bound].sum() <= share + 1e-9
            assert weights[piece_values <= bound].sum() >= share - 1e-9
            assert bound in piece_values
    for key, curve in found.distributions.items():
        assert curve.x.shape == curve.value.shape == curve.low.shape == curve.median.shape == curve.high.shape
        known = ~np.isnan(curve.high)
        assert known[:2].all(), key
        assert (curve.low <= curve.median)[known].all()
        assert (curve.median <= curve.high)[known].all()
        assert curve.low[known].max() < curve.high[known].max()


def test_the_transform_spreads_shares_near_0_and_1_and_takes_ratios_of_sizes() -> None:
    keys = [feature.key for feature in FEATURES]
    low, high, half, size = (keys.index(key) for key in ("pronouns", "real", "prepositions", "word_length"))
    features = np.zeros((2, len(FEATURES)))
    features[:, [low, high, half, size]] = [[0, 99, 50, 4], [1, 100, 51, 9]]
    moved = np.diff(authorship._stabilize_variance(features), axis=0)[0]
    assert moved[low] == pytest.approx(moved[high])
    assert moved[low] > 5 * moved[half]
    assert moved[size] == pytest.approx(np.log(2))


def test_invented_words_are_sorted_by_frequency() -> None:
    found = Author({"one": "Shining and", "two": "fish"}, ["two"]).compare("A fishing xqx; zzz, fish Xqx: shing.")
    assert found.plausible == ("fishing", "shing")
    assert found.implausible == ("xqx", "a", "zzz")


def test_without_enough_tales_or_text_there_is_no_decision_but_a_reason(case: Case) -> None:
    writer, tales, author = case
    few = Author(dict(list(tales.items())[-MIN_TALES + 1 :]), ())
    for found, reason in (
        (author.compare(writer.tale(LENGTH - 1)), "the text has 1,999 characters; a decision needs 2,000"),
        (few.compare(writer.tale(LENGTH)), "38 tales have 2,000 characters; a decision needs 39"),
        (Author({}, ()).compare(""), "0 tales have 2,000 characters; a decision needs 39"),
    ):
        assert found.reason == reason
        assert found.p_value is found.accepted is found.accepted_share is None
        assert (found.p_values, found.tales, found.pieces) == ((), 0, 0)
        assert all(
            np.isnan([row.low, row.median, row.high]).all() and not np.isnan(row.value) for row in found.features
        )


def test_a_held_out_tale_must_be_one_of_the_tales() -> None:
    with pytest.raises(ValueError, match=re.escape("held_out=['tow']: expected names of the author's tales")):
        Author({"one": "Shining and", "two": "fish"}, ["one", "tow"])


def test_piece_length_is_the_longest_that_the_text_and_enough_tales_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authorship, "PIECE_LENGTHS", (100, 50, 20))
    tales = {f"tale{i}": "a b c. " * (8 if i < MIN_TALES else 3) for i in range(MIN_TALES + 5)}
    lengths = [Author(tales, ["tale0"]).compare("a b c. " * count).length for count in (3, 7, 8, 20)]
    assert lengths == [20, 20, 50, 50]
    tales["tale1"] = tales["tale40"]
    assert Author(tales, ["tale0"]).compare("a b c. " * 20).length == 20


@pytest.mark.parametrize(
    ("p_values", "combined"),
    [([0.3], 0.3), ([0.5, 0.01], 0.02), ([0.02, 0.9, 0.001], 0.03), ([0.02, 0.4, 0.04, 0.06], 0.08), ([0.9, 0.8], 1)],
)
def test_the_decision_about_several_pieces_combines_their_p_values_by_the_lower_median(
    p_values: list[float], combined: float
) -> None:
    found = Comparison(2000, 50, 99, (), {}, (), (), tuple(p_values), "")
    assert found.p_value == pytest.approx(combined)
    assert found.accepted == (combined > 0.05)
    assert found.accepted_share == np.mean(np.array(p_values) > 0.05)


def test_pieces_are_consecutive_and_cut_between_words() -> None:
    text = "\n".join(f"word{i} of" for i in range(1000))
    pieces = cut_pieces(text, 1000)
    assert len(pieces) == len(text) // 1000
    place = 0
    for number, piece in enumerate(pieces):
        assert 980 <= len(piece) <= 998
        place = text.index(piece, place)
        assert number * 1000 < place
        assert place + len(piece) < number * 1000 + 1000
        assert set(piece.split()) <= set(text.split())
    assert cut_pieces("a" * 25, 10) == ["a" * 10] * 2
    assert cut_pieces("a b", 10) == []


def test_all_tales_have_the_same_weight_however_many_pieces_they_have() -> None:
    np.testing.assert_array_equal(tale_weights(np.array(["b", "a", "b", "b", "b"])), [0.125, 0.5, 0.125, 0.125, 0.125])
    features, tales, new = *_author(np.random.default_rng(0)), np.random.default_rng(1).normal(0, 3, (20, 3))
    repeated = np.concatenate([features, features[tales == 0], features[tales == 0]])
    again = Conformal(repeated, np.concatenate([tales, *[tales[tales == 0]] * 2]))
    np.testing.assert_allclose(again.p_values(new), Conformal(features, tales).p_values(new))


def test_p_values_match_a_direct_computation() -> None:
    rng = np.random.default_rng(0)
    features, tales = _author(rng)
    new = rng.normal(0, 2, (20, 3))
    expected = np.ones(20)
    for tale in range(MIN_TALES):
        others = tales != tale
        weights = tale_weights(tales[others])
        covariance = np.cov(features[others].T, aweights=weights, ddof=0)
        scale = np.sqrt(np.diag(covariance)) + MIN_SCALE
        shrunk = covariance * (1 - SHRINKAGE) + SHRINKAGE * np.diag(scale**2)
        centre = np.average(features[others], axis=0, weights=weights)
        distances = [(row - centre) @ np.linalg.solve(shrunk, row - centre) for row in (*new, *features[~others])]
        expected += [np.mean([own >= one for own in distances[20:]]) for one in distances[:20]]
    np.testing.assert_allclose(Conformal(features, tales).p_values(new), expected / (MIN_TALES + 1))


def test_outliers_have_the_smallest_p_value_even_in_a_feature_that_never_varies_in_the_author() -> None:
    features, tales = _author(np.random.default_rng(3))
    features[:, 1] = 0.5
    conformal = Conformal(features, tales)
    assert conformal.p_values(np.array([[9.0, 0.5, 0], [0, 0.7, 0]])) == pytest.approx(1 / (MIN_TALES + 1))
    assert conformal.p_values(np.array([[0.0, 0.5, 0]])) > 0.2


def _author(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Correlated features [N, 3] of tales that differ, with 1 to 6 pieces each; and the tale of each piece [N]."""
    tales = np.repeat(np.arange(MIN_TALES), rng.integers(1, 7, MIN_TALES))
    by_tale = rng.normal(0, 1, (MIN_TALES, 3))
    mixed = (by_tale[tales] + rng.normal(0, 1, (len(tales), 3))) @ np.array([[1, 0.8, 0], [0, 0.6, 0.5], [0, 0, 1]])
    return mixed, tales
