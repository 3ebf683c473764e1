"""The clearest single units: which cell follows which feature of the text (after Karpathy, Johnson and Fei-Fei 2015).

A unit is judged by pairs of places that show the same character and differ in the feature: how often it is higher where
the feature is. So what the character itself gives away counts for nothing, and without a memory a unit gets 1/2. It is
chosen on one held-out split and judged on another: where the best of hundreds was chosen, its score is flattered.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lovecraft_jax.inference.forward_texts import read
from lovecraft_jax.model.lm import Carry
from lovecraft_jax.run import Run
from lovecraft_jax.runtime.errors import UserError

PAIRS, DRAWS = 4000, 40_000
"""Pairs that are compared, and at most drawn for them: most are alike in a feature that is rare."""
CHANGES = 10
"""A feature that changes less often in a text is not judged by it."""
SHIFTS = 19
"""The highest of so many scores by chance is exceeded, by chance, once in twenty times."""
STEPS = 127
"""Of tanh(c) from 0 to 1: what differs by less is the same to the model, which reads no more of c than this."""
ROOM = 2**27
"""Activations of a split that are kept, a byte each; of larger models less text is read."""
EXCERPT = 400
"""Characters."""


class Cells(NamedTuple):
    """What a model's cells held over a text: tanh(c) after each character, in STEPS [N, layers * units], int8; and by
    small numbers which characters are the same."""

    text: str
    held_NU: np.ndarray
    kind_N: np.ndarray


class Follower(NamedTuple):
    """The unit that follows a feature best.

    `score` is the share of pairs that it orders as the feature does, or against it where `sign` is -1; `chance` is what
    the best unit reaches after the same feature, shifted along the text.
    """

    feature: str
    unit: int
    sign: int
    score: float
    chance: float


@dataclasses.dataclass(frozen=True)
class Unit:
    """A follower in its layer, and the passage in which the feature varies most."""

    feature: str
    layer: int
    index: int
    sign: int
    score: float
    chance: float
    tale: str
    offset: int  # in characters of the cleaned tale
    text: str
    activations: np.ndarray  # tanh(c) after each character


def study(run: Run, tales: Mapping[str, Mapping[str, str]]) -> list[Unit]:
    """For each feature the unit that follows it best, the clearest first: chosen on the cleaned tales of the valid
    split, judged on those of the test split.

    Raises UserError where tokens are not characters.
    """
    if run.tokenizer.level != "chars":
        raise UserError(f"data.level={run.tokenizer.level}: units are shown by character, of models of chars only")
    texts = {split: _beginnings(tales[split], run.model.layers * run.model.units) for split in ("valid", "test")}
    chosen_on, judged_on = (_cells(run, list(texts[split].values())) for split in ("valid", "test"))
    values = features(judged_on.text)
    units = []
    for follower in clearest(chosen_on, judged_on):
        tale, offset, part = _passage(texts["test"], values[follower.feature])
        layer, index = divmod(follower.unit, run.model.units)
        shown = judged_on.text[part], judged_on.held_NU[part, follower.unit] / STEPS
        units.append(Unit(follower.feature, layer, index, *follower[2:], tale, offset, *shown))
    return units


def clearest(chosen_on: Cells, judged_on: Cells, seed: int = 0) -> list[Follower]:
    """For each feature the unit that follows it best, the clearest first, but for features that change too seldom."""
    rng = np.random.default_rng(seed)
    judged_by = features(judged_on.text)
    found = []
    for feature, values_N in features(chosen_on.text).items():
        if min(_changes(values_N), _changes(judged_by[feature])) < CHANGES:
            continue
        unit, sign, score = _best(chosen_on, values_N, judged_on, judged_by[feature], rng)
        shifted = [
            _best(chosen_on, _shift(values_N, n), judged_on, _shift(judged_by[feature], n), rng) for n in range(SHIFTS)
        ]
        found.append(Follower(feature, unit, sign, score, max(score for _, _, score in shifted)))
    return sorted(found, key=lambda follower: -follower.score)


def features(text: str) -> dict[str, np.ndarray]:
    """What a unit could follow, at each character [N]; NaN where it does not apply.

    All is told by the text up to the character, but the last letter of a word, which must be foreseen.
    """
    chars = np.array(list(text))
    letter, capital = (np.array([is_so(char) for char in text]) for is_so in (str.isalpha, str.isupper))
    paragraph, sentence = chars == "\n", np.isin(chars, list(".!?\n"))
    quotes = np.cumsum(chars == '"')
    quoted = (quotes - _last(quotes, paragraph)) % 2
    bracketed = _since(chars == "(") < _since(np.isin(chars, list(")\n")))
    word = _since(~letter)
    last_letter = ~np.append(letter[1:], False)
    return {
        "inside quotation marks": quoted.astype(float),
        "inside brackets": bracketed.astype(float),
        "length of the paragraph so far": _since(paragraph),
        "length of the sentence so far": _since(sentence),
        "length of the clause so far": _since(sentence | np.isin(chars, list(",;:"))),
        "length of the word so far": np.where(letter, word, np.nan),
        "last letter of the word": np.where(letter, last_letter, np.nan),
        "in a capitalised word": np.where(letter & ~capital, _last(capital, word == 1), np.nan),
    }


def _last(values_N: np.ndarray, mark_N: np.ndarray) -> np.ndarray:
    """The value at the last mark up to each place; 0 before the first."""
    at = np.maximum.accumulate(np.where(mark_N, np.arange(len(mark_N)), -1))
    return np.where(at < 0, 0, values_N[at])


def _since(mark_N: np.ndarray) -> np.ndarray:
    """Places since the last mark, 0 at it; the text's start counts from one."""
    place = np.arange(1, len(mark_N) + 1)
    return (place - _last(place, mark_N)).astype(float)


def _changes(values_N: np.ndarray) -> int:
    applies = values_N[~np.isnan(values_N)]
    return int(np.count_nonzero(np.diff(applies)))


def _shift(values_N: np.ndarray, n: int) -> np.ndarray:
    """Along the text, by a share of it: other in each of SHIFTS, never near none."""
    return np.roll(values_N, len(values_N) * (n + 1) // (SHIFTS + 1))


def _best(
    chosen_on: Cells, values_N: np.ndarray, judged_on: Cells, judged_by_N: np.ndarray, rng: np.random.Generator
) -> tuple[int, int, float]:
    """The unit, its sign, and its score on the text that it was not chosen on."""
    ordered_U = _ordered(chosen_on, values_N, rng)
    unit = int(np.argmax(np.abs(ordered_U - 0.5)))
    sign = 1 if ordered_U[unit] >= 0.5 else -1
    judged = judged_on._replace(held_NU=sign * judged_on.held_NU[:, unit : unit + 1])
    return unit, sign, float(_ordered(judged, judged_by_N, rng)[0])


def _ordered(cells: Cells, values_N: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The share of pairs that each unit orders as the values do [U]; equal activations are half of one."""
    places = np.flatnonzero(~np.isnan(values_N))
    kind = cells.kind_N[places]
    order, count = np.argsort(kind, kind="stable"), np.bincount(kind)
    first = np.cumsum(count) - count
    one = rng.integers(len(places), size=DRAWS)
    places, kind = places[order], kind[order][one]
    a, b = places[one], places[first[kind] + rng.integers(count[kind])]
    differ = np.flatnonzero(values_N[a] != values_N[b])[:PAIRS]
    rises = values_N[a[differ]] > values_N[b[differ]]
    higher, lower = np.where(rises, a[differ], b[differ]), np.where(rises, b[differ], a[differ])
    higher_PU, lower_PU = cells.held_NU[higher], cells.held_NU[lower]
    right_U, wrong_U = (np.count_nonzero(of_PU, axis=0) for of_PU in (higher_PU > lower_PU, higher_PU < lower_PU))
    return 0.5 + (right_U - wrong_U) / max(1, len(differ)) / 2


def _beginnings(tales: Mapping[str, str], units: int) -> dict[str, str]:
    """As much of each tale, by the same share, as there is room for, and a newline."""
    share = min(1.0, ROOM / units / sum(map(len, tales.values())))
    return {tale: text[: int(share * len(text))] + "\n" for tale, text in tales.items()}


def _cells(run: Run, texts: list[str]) -> Cells:
    ids = [np.insert(run.tokenizer.encode(text).ids, 0, run.tokenizer.start_id) for text in texts]
    cells = read(run.model, run.variables, ids, ids, _held)
    return Cells("".join(texts), np.concatenate([cell[1:] for cell in cells]), np.concatenate([n[1:] for n in ids]))


def _held(carry: Carry, logits_BV: jax.Array, y_B: jax.Array) -> jax.Array:
    del logits_BV, y_B
    return jnp.round(STEPS * jnp.tanh(jnp.concatenate([c_BH for c_BH, _ in carry], axis=-1))).astype(jnp.int8)


def _passage(texts: Mapping[str, str], values_N: np.ndarray) -> tuple[str, int, slice]:
    """Of the passages of EXCERPT characters, one after the other, that where the feature varies most: its tale, its
    offset there, and where it lies in all texts."""
    passages, first = [], 0
    for tale, text in texts.items():
        for offset in range(0, max(1, len(text) - EXCERPT), EXCERPT):
            passages.append((tale, offset, slice(first + offset, first + min(offset + EXCERPT, len(text)))))
        first += len(text)

    def spread(passage: tuple[str, int, slice]) -> float:
        values = values_N[passage[2]]
        applies = values[~np.isnan(values)]
        return float(applies.std()) if len(applies) else 0.0

    return max(passages, key=spread)
