"""The discounts of modified Kneser-Ney smoothing: Stanley Chen and Joshua Goodman, An Empirical Study of Smoothing
Techniques for Language Modeling (1998), section 4.1.6."""

import numpy as np

DISCOUNTS = (0.5, 1.0, 1.5)
"""For counts of 1, 2 and more, where a text is too small to estimate them from; as in KenLM."""


def discounts(counts: np.ndarray) -> tuple[float, float, float]:
    """Returns the discounts for counts of 1, 2 and more, estimated from how many n-grams have a count of 1, 2, 3 and 4
    (equation 26 of Chen and Goodman): DISCOUNTS where none has one of these, or the estimate is not above 0."""
    n = np.bincount(np.minimum(counts, 5), minlength=6).tolist()
    if not all(n[1:5]):
        return DISCOUNTS
    y = n[1] / (n[1] + 2 * n[2])
    estimated = 1 - 2 * y * n[2] / n[1], 2 - 3 * y * n[3] / n[2], 3 - 4 * y * n[4] / n[3]
    return estimated if min(estimated) > 0 else DISCOUNTS
