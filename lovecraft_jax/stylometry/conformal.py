"""A conformal test of whether a piece could be one of the author's: one p-value from all its features together."""

import math

import numpy as np

SHRINKAGE = 0.5  # of correlations towards 0: some fifty tales are too few to estimate four hundred of them
MIN_SCALE = 0.01  # added to standard deviations, so that a feature that is constant in the author's pieces still counts


class Conformal:
    """Hierarchical jackknife+ over tales (Lee, Barber and Willett 2023; Barber et al. 2021).

    `features_NF` are the features of the author's pieces, `tales` [N] the tale that each piece comes from. For each
    tale a Mahalanobis distance is fitted to the other tales, and the new piece is ranked by it among the pieces of
    that tale. So no piece is judged by a distance that it was fitted to, and every tale has the same weight, however
    many pieces it has.

    For a piece of a new tale by the same author, P(p <= a) is at most a, up to the effect of one tale on the fit; the
    theorem guarantees 2a for any distribution. It can be lower than a by up to 1 / (tales + 1), the resolution of p.
    """

    def __init__(self, features_NF: np.ndarray, tales: np.ndarray) -> None:
        self._fits = []
        weights = tale_weights(tales)
        for tale in np.unique(tales):
            others = tales != tale
            distance = _Mahalanobis(features_NF[others], weights[others])
            self._fits.append((distance, np.sort(distance(features_NF[~others]))))

    def p_values(self, features_MF: np.ndarray) -> np.ndarray:
        """Returns the p-value of each new piece [M]; the smallest possible is 1 / (tales + 1)."""
        further = np.ones(len(features_MF))
        for distance, own in self._fits:
            further += 1 - np.searchsorted(own, distance(features_MF)) / len(own)
        return further / (len(self._fits) + 1)


def combine_p_values(p_values: np.ndarray) -> float:
    """Returns one p-value from those of the k pieces of a text, which may depend on each other in any way: k / m times
    the m-th smallest (Rueger 1978; Vovk and Wang 2020). m is half of k, rounded up, so that a few pieces cannot decide;
    a single piece keeps its p-value."""
    middle = math.ceil(len(p_values) / 2)
    return min(1.0, len(p_values) / middle * float(np.sort(p_values)[middle - 1]))


def tale_weights(tales: np.ndarray) -> np.ndarray:
    """Returns a weight for each piece [N]: all tales have the same total, and all weights add up to 1."""
    _, inverse, counts = np.unique(tales, return_inverse=True, return_counts=True)
    return 1 / (counts[inverse] * len(counts))


class _Mahalanobis:
    """The squared Mahalanobis distance from a weighted mean, with shrunk correlations."""

    def __init__(self, features_NF: np.ndarray, weights: np.ndarray) -> None:
        weights = weights / weights.sum()
        self._mean = weights @ features_NF
        centred = features_NF - self._mean
        covariance = centred.T @ (centred * weights[:, None])
        self._scale = np.sqrt(np.diag(covariance)) + MIN_SCALE
        correlation = covariance / np.outer(self._scale, self._scale)
        shrunk = (1 - SHRINKAGE) * correlation + SHRINKAGE * np.eye(len(correlation))
        self._inverse = np.linalg.inv(shrunk)

    def __call__(self, features_MF: np.ndarray) -> np.ndarray:
        z = (features_MF - self._mean) / self._scale
        return ((z @ self._inverse) * z).sum(axis=1)
