import numpy as np
import pytest

from lovecraft_jax.stylometry.conformal import LEAST_SCALE, SHRINKAGE, Conformal, combined, tale_weights


def test_tales_weigh_alike_however_many_their_pieces() -> None:
    np.testing.assert_array_equal(tale_weights(np.array(["b", "a", "b", "b", "b"])), [0.125, 0.5, 0.125, 0.125, 0.125])
    figures, tales, new = *_author(np.random.default_rng(0)), np.random.default_rng(1).normal(0, 3, (20, 3))
    often = np.concatenate([figures, figures[tales == 0], figures[tales == 0]])
    again = Conformal(often, np.concatenate([tales, *[tales[tales == 0]] * 2]))
    np.testing.assert_allclose(again.p_values(new), Conformal(figures, tales).p_values(new))


def test_p_values_are_what_the_plainest_count_says() -> None:
    rng = np.random.default_rng(0)
    figures, tales = _author(rng)
    new = rng.normal(0, 2, (20, 3))
    plain = np.ones(20)
    for tale in range(TALES):
        others = tales != tale
        weights = tale_weights(tales[others])
        covariance = np.cov(figures[others].T, aweights=weights, ddof=0)
        scale = np.sqrt(np.diag(covariance)) + LEAST_SCALE
        shrunk = covariance * (1 - SHRINKAGE) + SHRINKAGE * np.diag(scale**2)
        centre = np.average(figures[others], axis=0, weights=weights)
        far = [(row - centre) @ np.linalg.solve(shrunk, row - centre) for row in (*new, *figures[~others])]
        plain += [np.mean([own >= one for own in far[20:]]) for one in far[:20]]
    np.testing.assert_allclose(Conformal(figures, tales).p_values(new), plain / (TALES + 1))


@pytest.mark.parametrize("tail", ["normal", "heavy"])
def test_a_piece_of_a_new_tale_falls_below_a_level_as_often_as_the_level_says(tail: str) -> None:
    rng = np.random.default_rng(2)
    p_values = []
    for _ in range(150):
        figures, tales = _author(rng, tail, count=TALES + 3)
        old = tales < TALES
        first = [np.flatnonzero(tales == tale)[0] for tale in range(TALES, TALES + 3)]
        p_values += list(Conformal(figures[old], tales[old]).p_values(figures[first]))
    for level in (0.05, 0.2, 0.5):  # 0.02 is what chance allows; under the level is what the p-values' steps cost
        assert 0.5 * level < np.mean(np.array(p_values) <= level) < level + 0.02


def test_what_is_far_out_has_the_least_p_value_and_so_has_what_moves_where_the_author_never_does() -> None:
    figures, tales = _author(np.random.default_rng(3))
    figures[:, 1] = 0.5
    judge = Conformal(figures, tales)
    assert judge.p_values(np.array([[9.0, 0.5, 0], [0, 0.7, 0]])) == pytest.approx(1 / (TALES + 1))
    assert judge.p_values(np.array([[0.0, 0.5, 0]])) > 0.2


@pytest.mark.parametrize(
    ("p_values", "together"),
    [([0.3], 0.3), ([0.5, 0.01], 0.02), ([0.02, 0.9, 0.001], 0.03), ([0.9, 0.001, 0.95, 0.02], 0.04), ([0.9, 0.8], 1)],
)
def test_p_values_of_a_text_are_combined_by_their_lower_middle_one(p_values: list[float], together: float) -> None:
    assert combined(np.array(p_values)) == pytest.approx(together)


TALES = 39


def _author(rng: np.random.Generator, tail: str = "normal", count: int = TALES) -> tuple[np.ndarray, np.ndarray]:
    """Figures [N, 3] that go together, of tales that differ, with 1 to 6 pieces each; and the tale of each piece."""
    tales = np.repeat(np.arange(count), rng.integers(1, 7, count))
    spread = 1 if tail == "normal" else 1 / np.sqrt(rng.chisquare(2, (count, 1)) / 2)
    by_tale = rng.normal(0, 1, (count, 3)) * spread
    mixed = (by_tale[tales] + rng.normal(0, 1, (len(tales), 3))) @ np.array([[1, 0.8, 0], [0, 0.6, 0.5], [0, 0, 1]])
    return mixed, tales
