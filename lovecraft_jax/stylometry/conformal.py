"""Whether a piece could be one of an author's: one p-value from all its figures, calibrated on whole tales."""

import math

import numpy as np

SHRINKAGE = 0.5
"""Of the correlations towards none: some fifty tales say too little about four hundred of them."""
LEAST_SCALE = 0.01
"""Added to every deviation, so that a figure which never moved in the author still counts where it moves."""


class Conformal:
    """Hierarchical jackknife+ over tales (Lee, Barber and Willett 2023; Barber et al. 2021).

    `figures_NF` are those of the author's pieces, `tales` [N] the tale that each is cut from. A piece is as far out as
    its Mahalanobis distance. Every tale's pieces are ranked with the new one by a distance that the other tales fitted:
    none is judged by what it fitted itself, and each counts as one, however many its pieces.

    For a piece of a new tale P(p <= a) is at most a, but for what one tale more or less moves the fit by; their theorem
    is 2a, however the figures are distributed. It falls short of a by up to the step of p, 1 / (tales + 1).
    """

    def __init__(self, figures_NF: np.ndarray, tales: np.ndarray) -> None:
        self._fits = []
        weights = tale_weights(tales)
        for tale in np.unique(tales):
            others = tales != tale
            fit = _Mahalanobis(figures_NF[others], weights[others])
            self._fits.append((fit, np.sort(fit(figures_NF[~others]))))

    def p_values(self, figures_MF: np.ndarray) -> np.ndarray:
        """[M] For each new piece; the least there can be is 1 / (tales + 1)."""
        further = np.ones(len(figures_MF))
        for fit, own in self._fits:
            further += 1 - np.searchsorted(own, fit(figures_MF)) / len(own)
        return further / (len(self._fits) + 1)


def combined(p_values: np.ndarray) -> float:
    """One p-value from those of a text's k pieces, which may depend in any way: k / m times the m-th least of them.

    Rueger 1978; Vovk and Wang 2020. m is half the pieces, so that no few of them decide; one piece keeps its own.
    """
    middle = math.ceil(len(p_values) / 2)
    return min(1.0, len(p_values) / middle * float(np.sort(p_values)[middle - 1]))


def tale_weights(tales: np.ndarray) -> np.ndarray:
    """[N] A weight for each piece: its share of its tale, the tales alike; they add up to 1."""
    _, inverse, counts = np.unique(tales, return_inverse=True, return_counts=True)
    return 1 / (counts[inverse] * len(counts))


class _Mahalanobis:
    """Squared distance from a weighted mean, by the covariance whose correlations are shrunk."""

    def __init__(self, figures_NF: np.ndarray, weights: np.ndarray) -> None:
        weights = weights / weights.sum()
        self._mean = weights @ figures_NF
        centred = figures_NF - self._mean
        covariance = centred.T @ (centred * weights[:, None])
        self._scale = np.sqrt(np.diag(covariance)) + LEAST_SCALE
        correlation = covariance / np.outer(self._scale, self._scale)
        shrunk = (1 - SHRINKAGE) * correlation + SHRINKAGE * np.eye(len(correlation))
        self._inverse = np.linalg.inv(shrunk)

    def __call__(self, figures_MF: np.ndarray) -> np.ndarray:
        z = (figures_MF - self._mean) / self._scale
        return ((z @ self._inverse) * z).sum(axis=1)
