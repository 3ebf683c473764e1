"""The authorship decision: could a text be by the author? All features are weighed together in one p-value.

The author's tales, both those of the training text and those held out, are cut into pieces. Each piece is measured
against all tales but its own, and a new text against all tales. So both answer the same question: how does this look
beside the author's other tales?

A model gains nothing by having read those tales. It can even lose by repeating them: a piece of a tale has words that
occur in no other tale, but a copied passage has none that occur in no tale at all, and most copied passages are
rejected for that. To test a passage of one of the tales, leave that tale out of the author's.
"""

import dataclasses
import functools
import itertools
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping

import numpy as np

from lovecraft_jax.stylometry.conformal import Conformal, combine_p_values, tale_weights
from lovecraft_jax.stylometry.distributions import axes, distributions
from lovecraft_jax.stylometry.features import FEATURES, Feature, measure
from lovecraft_jax.stylometry.reference import Reference
from lovecraft_jax.stylometry.text import words

PIECE_LENGTHS = (10_000, 5_000, 2_000)  # in characters: the longest that the text and at least MIN_TALES tales reach
MIN_TALES = 39  # with fewer nothing could be rejected: the p-value of several pieces is at least about 2 / (tales + 1)
SIGNIFICANCE_LEVEL = 0.05
QUANTILES = (0.025, 0.5, 0.975)

_WHOLE_WORDS = re.compile(r"(?<=\s)\S.*\S(?=\s)", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class FeatureComparison:
    """The mean of a feature over a text's pieces, beside the 95 % interval and the median of the author's pieces."""

    feature: Feature
    value: float
    low: float
    median: float
    high: float


@dataclasses.dataclass(frozen=True)
class DistributionComparison:
    """The mean of a distribution, the author's interval and median, at each x; NaN where a piece is too short."""

    x: np.ndarray
    value: np.ndarray
    low: np.ndarray
    median: np.ndarray
    high: np.ndarray


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A text beside the author's pieces, and the authorship decision."""

    length: int  # of a piece in characters
    tales: int  # of the author's
    pieces: int  # of the author's
    features: tuple[FeatureComparison, ...]
    distributions: dict[str, DistributionComparison]
    plausible: tuple[str, ...]  # invented words (those that occur in no tale), the most frequent first
    implausible: tuple[str, ...]
    p_values: tuple[float, ...]  # of the text's pieces
    reason: str  # why no decision is possible, or "": with a reason there are no p-values, and all intervals are NaN

    @property
    def p_value(self) -> float | None:
        return combine_p_values(np.array(self.p_values)) if self.p_values else None

    @property
    def accepted(self) -> bool | None:
        """Whether the text could be by the author, at SIGNIFICANCE_LEVEL."""
        return None if self.p_value is None else self.p_value > SIGNIFICANCE_LEVEL

    @property
    def accepted_share(self) -> float | None:
        """The share of the text's pieces that are accepted; about 1 - SIGNIFICANCE_LEVEL for a text by the author."""
        return float(np.mean(np.array(self.p_values) > SIGNIFICANCE_LEVEL)) if self.p_values else None


class Author:
    """All tales of an author (name -> text), of which those named in `held_out` are not in the training text."""

    def __init__(self, tales: Mapping[str, str], held_out: Collection[str]) -> None:
        """Raises ValueError where `held_out` has a name that is not of one of the tales."""
        if missing := sorted(set(held_out) - set(tales)):
            raise ValueError(f"held_out={missing}: expected names of the author's tales")
        self._tales = dict(tales)
        self.reference = Reference(
            {name: text for name, text in tales.items() if name not in held_out},
            {name: text for name, text in tales.items() if name in held_out},
        )
        self._author_pieces = functools.cache(functools.partial(_AuthorPieces, self._tales, self.reference))

    def compare(self, text: str) -> Comparison:
        """Cuts a text, cleaned as the tales are, into pieces, measures each, and decides about each if that is
        possible: not for a text of less than 2,000 characters, for which `reason` says so, and `p_value` and `accepted`
        are None. Characters after the last whole piece are ignored. The first call for a piece length also measures the
        author's pieces, which takes some seconds for three million characters."""
        length, reason = self._piece_length(text)
        author = None if reason else self._author_pieces(length)
        pieces = cut_pieces(text, length) or [text]
        features_MF, distributions_MX = _measure((piece, self.reference) for piece in pieces)
        intervals_3F = author.features_3F if author else np.full((3, len(FEATURES)), np.nan)
        by_count = Counter(word.lower() for word in words(text)).most_common()
        invented = [word for word, _ in by_count if not self.reference.is_real_word(word)]
        return Comparison(
            length=length,
            tales=author.tales if author else 0,
            pieces=author.pieces if author else 0,
            features=tuple(map(FeatureComparison, FEATURES, features_MF.mean(0).tolist(), *intervals_3F.tolist())),
            distributions={
                key: DistributionComparison(
                    x,
                    distributions_MX[key].mean(0),
                    *(author.distributions_3X[key] if author else np.full((3, len(x)), np.nan)),
                )
                for key, x in axes(self.reference).items()
            },
            plausible=tuple(filter(self.reference.is_plausible_word, invented)),
            implausible=tuple(itertools.filterfalse(self.reference.is_plausible_word, invented)),
            p_values=tuple(author.conformal.p_values(_stabilize_variance(features_MF)).tolist()) if author else (),
            reason=reason,
        )

    def _piece_length(self, text: str) -> tuple[int, str]:
        """The length of a piece in characters, and the reason why no decision is possible, or ""."""
        shortest = PIECE_LENGTHS[-1]
        tales_of = {length: sum(len(tale) >= length for tale in self._tales.values()) for length in PIECE_LENGTHS}
        if tales_of[shortest] < MIN_TALES:
            return shortest, f"{tales_of[shortest]} tales have {shortest:,} characters; a decision needs {MIN_TALES}"
        if len(text) < shortest:
            return shortest, f"the text has {len(text):,} characters; a decision needs {shortest:,}"
        return next(length for length in PIECE_LENGTHS if len(text) >= length and tales_of[length] >= MIN_TALES), ""


def cut_pieces(text: str, length: int) -> list[str]:
    """Cuts a text every `length` characters, and drops the first and last word of each piece, which may be cut off."""
    pieces = (text[start : start + length] for start in range(0, len(text) - length + 1, length))
    return [found.group() if (found := _WHOLE_WORDS.search(piece)) else piece for piece in pieces]


class _AuthorPieces:
    """The author's pieces of one length: the quantiles of what was measured on them, and the test fitted to them."""

    def __init__(self, tales: Mapping[str, str], reference: Reference, length: int) -> None:
        pieces = [(name, piece) for name, text in tales.items() for piece in cut_pieces(text, length)]
        tale_N = np.array([name for name, _ in pieces])
        features_NF, distributions_NX = _measure((piece, reference.without(name)) for name, piece in pieces)
        weights_N = tale_weights(tale_N)

        def quantiles(values_NX: np.ndarray) -> np.ndarray:
            return np.quantile(values_NX, QUANTILES, axis=0, weights=weights_N, method="inverted_cdf")

        self.tales, self.pieces = len(set(tale_N)), len(pieces)
        self.features_3F = quantiles(features_NF)
        self.distributions_3X = {key: quantiles(values_NX) for key, values_NX in distributions_NX.items()}
        self.conformal = Conformal(_stabilize_variance(features_NF), tale_N)


def _measure(pieces: Iterable[tuple[str, Reference]]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The pieces' features in the order of FEATURES [N, F], and their distributions by name [N, X]."""
    features, by_piece = [], []
    for text, reference in pieces:
        measured = measure(text, reference)
        features.append([measured[feature.key] for feature in FEATURES])
        by_piece.append(distributions(text, reference))
    return np.array(features), {key: np.stack([piece[key] for piece in by_piece]) for key in by_piece[0]}


def _stabilize_variance(features_NF: np.ndarray) -> np.ndarray:
    """Makes the variance of features depend less on their mean: arcsine of the root of shares, log(1 + x) of sizes."""
    columns = [
        np.log1p(column) if feature.out_of is None else np.arcsin(np.sqrt(np.clip(column / feature.out_of, 0, 1)))
        for column, feature in zip(features_NF.T, FEATURES, strict=True)
    ]
    return np.stack(columns, axis=1)
