import numpy as np
import pytest

from lovecraft_jax.stylometry.conformal import MIN_SCALE, SHRINKAGE, Conformal, combine_p_values, tale_weights


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
    for tale in range(TALES):
        others = tales != tale
        weights = tale_weights(tales[others])
        covariance = np.cov(features[others].T, aweights=weights, ddof=0)
        scale = np.sqrt(np.diag(covariance)) + MIN_SCALE
        shrunk = covariance * (1 - SHRINKAGE) + SHRINKAGE * np.diag(scale**2)
        centre = np.average(features[others], axis=0, weights=weights)
        distances = [(row - centre) @ np.linalg.solve(shrunk, row - centre) for row in (*new, *features[~others])]
        expected += [np.mean([own >= one for own in distances[20:]]) for one in distances[:20]]
    np.testing.assert_allclose(Conformal(features, tales).p_values(new), expected / (TALES + 1))


@pytest.mark.parametrize("tail", ["normal", "heavy"])
def test_pieces_of_new_tales_are_rejected_at_the_nominal_rate(tail: str) -> None:
    rng = np.random.default_rng(2)
    p_values = []
    for _ in range(150):
        features, tales = _author(rng, tail, count=TALES + 3)
        old = tales < TALES
        first = [np.flatnonzero(tales == tale)[0] for tale in range(TALES, TALES + 3)]
        p_values += list(Conformal(features[old], tales[old]).p_values(features[first]))
    for level in (0.05, 0.2, 0.5):  # 0.02 for chance; below it, as p-values are multiples of 1 / (TALES + 1)
        assert 0.5 * level < np.mean(np.array(p_values) <= level) < level + 0.02


def test_outliers_have_the_smallest_p_value_even_in_a_feature_that_never_varies_in_the_author() -> None:
    features, tales = _author(np.random.default_rng(3))
    features[:, 1] = 0.5
    conformal = Conformal(features, tales)
    assert conformal.p_values(np.array([[9.0, 0.5, 0], [0, 0.7, 0]])) == pytest.approx(1 / (TALES + 1))
    assert conformal.p_values(np.array([[0.0, 0.5, 0]])) > 0.2


@pytest.mark.parametrize(
    ("p_values", "expected"),
    [([0.3], 0.3), ([0.5, 0.01], 0.02), ([0.02, 0.9, 0.001], 0.03), ([0.9, 0.001, 0.95, 0.02], 0.04), ([0.9, 0.8], 1)],
)
def test_p_values_are_combined_by_their_lower_median(p_values: list[float], expected: float) -> None:
    assert combine_p_values(np.array(p_values)) == pytest.approx(expected)


TALES = 39


def _author(rng: np.random.Generator, tail: str = "normal", count: int = TALES) -> tuple[np.ndarray, np.ndarray]:
    """Correlated features [N, 3] of tales that differ, with 1 to 6 pieces each; and the tale of each piece [N]."""
    tales = np.repeat(np.arange(count), rng.integers(1, 7, count))
    spread = 1 if tail == "normal" else 1 / np.sqrt(rng.chisquare(2, (count, 1)) / 2)
    by_tale = rng.normal(0, 1, (count, 3)) * spread
    mixed = (by_tale[tales] + rng.normal(0, 1, (len(tales), 3))) @ np.array([[1, 0.8, 0], [0, 0.6, 0.5], [0, 0, 1]])
    return mixed, tales
