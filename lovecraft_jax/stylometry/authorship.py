"""Could a text be one of the author's pieces? Its figures beside theirs, and one p-value for all figures together.

The author's pieces are cut from all tales, those that were trained on and those held out, and each is measured against
the other tales. The text is measured against all of them, as one more tale would be. So both are asked the same: how
does this look beside the author's other writing? That a model has read most of that gives it nothing an author lacks,
and may tell against it: every tale of an author's has words that no other tale has, and a model that only repeats its
training has none; nor has a copy, and most copies are refused for it. To judge a text out of one of the tales, leave
that tale out of the author.
"""

import dataclasses
import itertools
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping

import numpy as np

from lovecraft_jax.stylometry.conformal import Conformal, combined, tale_weights
from lovecraft_jax.stylometry.distributions import axes, curves
from lovecraft_jax.stylometry.features import FIGURES, Figure, measure
from lovecraft_jax.stylometry.reference import Reference
from lovecraft_jax.stylometry.text import words

LENGTHS = (10_000, 5_000, 2_000)
"""Characters of a piece: the most of these that the text has, and enough tales."""
ENOUGH = 39
"""Tales, so that twice the least p-value there can be, 1 / (tales + 1), reaches the level."""
LEVEL = 0.05
INTERVAL = (0.025, 0.5, 0.975)

_WHOLE_WORDS = re.compile(r"(?<=\s)\S.*\S(?=\s)", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Row:
    """A figure: the mean of the text's pieces; and of the author's, each by itself, 95 % interval and median."""

    figure: Figure
    value: float
    low: float
    median: float
    high: float

    @property
    def inside(self) -> bool:
        return self.low <= self.value <= self.high


@dataclasses.dataclass(frozen=True)
class Curve:
    """The same at every place of an axis. NaN where not every piece reaches."""

    x: np.ndarray
    value: np.ndarray
    low: np.ndarray
    median: np.ndarray
    high: np.ndarray


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A text beside the author. Where there is no verdict `reason` says why: no `p_values`, and intervals of NaN.

    `length` is a piece's, in characters; `tales` and `pieces` are the author's. `curves` has those of curves.py, and
    `plausible` and `implausible` the words that no tale has, the most frequent first.
    """

    length: int
    tales: int
    pieces: int
    rows: tuple[Row, ...]
    curves: dict[str, Curve]
    plausible: tuple[str, ...]
    implausible: tuple[str, ...]
    p_values: tuple[float, ...]
    reason: str

    @property
    def p_value(self) -> float | None:
        """One for all pieces of the text together."""
        return combined(np.array(self.p_values)) if self.p_values else None

    @property
    def accepted(self) -> bool | None:
        """Whether the text could be the author's, at LEVEL."""
        return None if self.p_value is None else self.p_value > LEVEL

    @property
    def accepted_share(self) -> float | None:
        """Of the text's pieces; of an author's own 1 - LEVEL are to be expected."""
        return float(np.mean(np.array(self.p_values) > LEVEL)) if self.p_values else None


class Author:
    """All tales of an author, name -> text, and which of them no training saw."""

    def __init__(self, tales: Mapping[str, str], held_out: Collection[str]) -> None:
        self._tales = dict(tales)
        self.reference = Reference(
            {name: text for name, text in tales.items() if name not in held_out},
            {name: text for name, text in tales.items() if name in held_out},
        )
        self._own: dict[int, _Own] = {}

    def compare(self, text: str) -> Comparison:
        """Measures a text, cleaned as the tales are, piece by piece, and judges each where that can be done.

        What is left over after the last whole piece is not judged. The first text of a length waits until the author's
        pieces of that length are measured: some seconds for three million characters.
        """
        length, reason = self._length_for(text)
        own = None if reason else self._own_of(length)
        figures_MF, curves_MX = _measure((piece, self.reference) for piece in cut(text, length) or [text])
        figures_3F = own.figures_3F if own else np.full((3, len(FIGURES)), np.nan)
        by_count = Counter(word.lower() for word in words(text)).most_common()
        invented = [word for word, _ in by_count if not self.reference.has(word)]
        return Comparison(
            length=length,
            tales=own.tales if own else 0,
            pieces=own.pieces if own else 0,
            rows=tuple(map(Row, FIGURES, figures_MF.mean(0).tolist(), *figures_3F.tolist())),
            curves={
                key: Curve(x, curves_MX[key].mean(0), *(own.curves_3X[key] if own else np.full((3, len(x)), np.nan)))
                for key, x in axes(self.reference).items()
            },
            plausible=tuple(filter(self.reference.is_plausible, invented)),
            implausible=tuple(itertools.filterfalse(self.reference.is_plausible, invented)),
            p_values=tuple(own.conformal.p_values(_even(figures_MF)).tolist()) if own else (),
            reason=reason,
        )

    def _own_of(self, length: int) -> "_Own":
        if length not in self._own:
            self._own[length] = _Own(self._tales, self.reference, length)
        return self._own[length]

    def _length_for(self, text: str) -> tuple[int, str]:
        """The characters of a piece, and why there can be no verdict, or ""."""
        least = LENGTHS[-1]
        tales_of = {length: sum(len(tale) >= length for tale in self._tales.values()) for length in LENGTHS}
        if tales_of[least] < ENOUGH:
            return least, f"{tales_of[least]} tales have {least:,} characters; a verdict needs {ENOUGH} of them"
        if len(text) < least:
            return least, f"the text has {len(text):,} characters; a verdict needs {least:,}"
        return next(length for length in LENGTHS if len(text) >= length and tales_of[length] >= ENOUGH), ""


def cut(text: str, length: int) -> list[str]:
    """Pieces of so many characters, one after the other, less the words that a cut may have gone through."""
    pieces = (text[start : start + length] for start in range(0, len(text) - length + 1, length))
    return [found.group() if (found := _WHOLE_WORDS.search(piece)) else piece for piece in pieces]


class _Own:
    """The author's pieces of a length: low, median and high of their figures and curves, and what judges by them."""

    def __init__(self, tales: Mapping[str, str], reference: Reference, length: int) -> None:
        pieces = [(name, piece) for name, text in tales.items() for piece in cut(text, length)]
        tale_of = np.array([name for name, _ in pieces])
        figures_NF, curves_NX = _measure((piece, reference.without(name)) for name, piece in pieces)
        weights = tale_weights(tale_of)

        def band(values_NX: np.ndarray) -> np.ndarray:
            return np.quantile(values_NX, INTERVAL, axis=0, weights=weights, method="inverted_cdf")

        self.tales, self.pieces = len(set(tale_of)), len(pieces)
        self.figures_3F = band(figures_NF)
        self.curves_3X = {key: band(values_NX) for key, values_NX in curves_NX.items()}
        self.conformal = Conformal(_even(figures_NF), tale_of)


def _measure(pieces: Iterable[tuple[str, Reference]]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Figures [N, F] in the order of FIGURES, and curves [N, X] by name."""
    figures, lines = [], []
    for text, reference in pieces:
        measured = measure(text, reference)
        figures.append([measured[figure.key] for figure in FIGURES])
        lines.append(curves(text, reference))
    return np.array(figures), {key: np.stack([line[key] for line in lines]) for key in lines[0]}


def _even(figures_NF: np.ndarray) -> np.ndarray:
    """Figures on scales on which they spread alike high and low: arcsine for shares, logarithm for sizes."""
    wholes = [figure.whole for figure in FIGURES]
    columns = [
        np.log1p(column) if whole is None else np.arcsin(np.sqrt(np.clip(column / whole, 0, 1)))
        for column, whole in zip(figures_NF.T, wholes, strict=True)
    ]
    return np.stack(columns, axis=1)
