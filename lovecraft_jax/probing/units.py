"""Finds the single units that follow a feature of the text best (after Karpathy, Johnson and Fei-Fei 2015).

A unit's score is its concordance with the feature: of the pairs of positions that have the same character but differ in
the feature, the share in which the unit is higher where the feature is higher. The character alone gives nothing away,
so a unit without memory scores 1/2. A unit is selected on one held-out split and scored on another, because the best of
hundreds scores too high on the text that it was selected on.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lovecraft_jax.model.lm import Carry, LanguageModel
from lovecraft_jax.probing.forward_texts import Observe, forward_texts
from lovecraft_jax.run import Run
from lovecraft_jax.runtime.errors import UserError

PAIRS, DRAWS = 4000, 40_000  # compared, and drawn to get them: most have the same value of a rare feature
MIN_CHANGES = 10  # a feature that changes less often in a text is left out
SHIFTS = 19  # copies of a feature shifted along the text: by chance, a score exceeds all of theirs once in twenty times
STEPS = 127  # to so many a unit's memory (Cell.memory: tanh(c) for the LSTM) from 0 to 1 is rounded, to fit a byte
MAX_ACTIVATIONS = 2**27  # of a split that are kept, a byte each; with a larger model less text is used
EXCERPT = 400  # characters


class Activations(NamedTuple):
    """A text with the memory of each unit. Units of all layers are on one axis: [N, layers * units]."""

    text: str
    memory_NU: np.ndarray  # int8: Cell.memory after each character, times STEPS
    ids_N: np.ndarray  # of the characters


@dataclasses.dataclass(frozen=True)
class BestUnit:
    """The unit that follows a feature best."""

    feature: str
    unit: int  # of all layers together
    sign: int  # -1: it is lower where the feature is higher, and the score is that of the negated unit
    score: float
    chance: float  # the highest score for the shifted copies of the feature, each with its own best unit


@dataclasses.dataclass(frozen=True)
class UnitExcerpt(BestUnit):
    """A BestUnit with its place in its layer, and its activations in the passage in which the feature varies most."""

    layer: int
    index: int
    tale: str
    offset: int  # in characters of the cleaned tale
    text: str
    activations: np.ndarray  # the unit's memory after each character


def analyze(run: Run, tales: Mapping[str, Mapping[str, str]], words: bool = True) -> list[UnitExcerpt]:
    """Returns the best unit for each feature, the highest score first, selected on the valid and scored on the test
    split of `tales` (split -> tale -> cleaned text). Without `words` the features of words are left out. Tokens must be
    characters."""
    if not isinstance(run.model, LanguageModel):
        raise UserError("expected a run of one model: the units of an ensemble are those of each of its members")
    texts = {split: _truncate(tales[split], run.model.layers * run.model.units) for split in ("valid", "test")}
    selected_on, scored_on = (_activations(run, list(texts[split].values())) for split in ("valid", "test"))
    values = features(scored_on.text)
    units = []
    for best in best_units(selected_on, scored_on):
        if "word" in best.feature and not words:
            continue
        tale, offset, part = _most_varied_passage(texts["test"], values[best.feature])
        found = best.feature, best.unit, best.sign, best.score, best.chance, *divmod(best.unit, run.model.units)
        activations = scored_on.memory_NU[part, best.unit] / STEPS
        units.append(UnitExcerpt(*found, tale, offset, scored_on.text[part], activations))
    return units


def best_units(selected_on: Activations, scored_on: Activations) -> list[BestUnit]:
    """Returns the best unit for each feature, the highest score first, without features that change too seldom."""
    rng = np.random.default_rng(0)
    halves = selected_on, scored_on
    features_by_half = [features(half.text) for half in halves]
    found = []
    for feature in features_by_half[0]:
        values = [by_feature[feature] for by_feature in features_by_half]
        if min(np.count_nonzero(np.diff(values_N[~np.isnan(values_N)])) for values_N in values) < MIN_CHANGES:
            continue
        unit, sign, score = _select_and_score(halves, values, rng)
        by_chance = []
        for n in range(1, SHIFTS + 1):
            # Rotated along the text by n / (SHIFTS + 1) of its length, which is never near a full turn.
            shifted = [np.roll(values_N, len(values_N) * n // (SHIFTS + 1)) for values_N in values]
            by_chance.append(_select_and_score(halves, shifted, rng)[2])
        found.append(BestUnit(feature, unit, sign, score, max(by_chance)))
    return sorted(found, key=lambda unit: -unit.score)


def features(text: str) -> dict[str, np.ndarray]:
    """Returns the value of each feature at each character [N]; NaN where it does not apply. All but one depend only on
    the text up to the character: "last letter of the word" must be anticipated."""
    chars = np.array(list(text))
    letter, capital = (np.array([check(char) for char in text]) for check in (str.isalpha, str.isupper))
    paragraph, sentence = chars == "\n", np.isin(chars, list(".!?\n"))
    quotes = np.cumsum(chars == '"')
    quoted = (quotes - _at_last_mark(quotes, paragraph)) % 2
    bracketed = _since_last_mark(chars == "(") < _since_last_mark(np.isin(chars, list(")\n")))
    word = _since_last_mark(~letter)
    last_letter = ~np.append(letter[1:], False)
    return {
        "inside quotation marks": quoted.astype(float),
        "inside brackets": bracketed.astype(float),
        "length of the paragraph so far": _since_last_mark(paragraph),
        "length of the sentence so far": _since_last_mark(sentence),
        "length of the clause so far": _since_last_mark(sentence | np.isin(chars, list(",;:"))),
        "length of the word so far": np.where(letter, word, np.nan),
        "last letter of the word": np.where(letter, last_letter, np.nan),
        "in a capitalised word": np.where(letter & ~capital, _at_last_mark(capital, word == 1), np.nan),
    }


def _at_last_mark(values_N: np.ndarray, mark_N: np.ndarray) -> np.ndarray:
    """The value at the last mark up to each position; 0 before the first mark."""
    at = np.maximum.accumulate(np.where(mark_N, np.arange(len(mark_N)), -1))
    return np.where(at < 0, 0, values_N[at])


def _since_last_mark(mark_N: np.ndarray) -> np.ndarray:
    """The distance from the last mark, 0 at a mark; before the first, the distance from just before the text."""
    position = np.arange(1, len(mark_N) + 1)
    return (position - _at_last_mark(position, mark_N)).astype(float)


def _select_and_score(
    halves: Sequence[Activations], values: Sequence[np.ndarray], rng: np.random.Generator
) -> tuple[int, int, float]:
    """The best unit on the first half, its sign, and its score on the second; each half has its values [N]."""
    concordance_U = _concordance(halves[0], values[0], rng)
    unit = int(np.argmax(np.abs(concordance_U - 0.5)))
    sign = 1 if concordance_U[unit] >= 0.5 else -1
    alone = halves[1]._replace(memory_NU=sign * halves[1].memory_NU[:, unit : unit + 1])
    return unit, sign, float(_concordance(alone, values[1], rng)[0])


def _concordance(activations: Activations, values_N: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The share of pairs that each unit orders as the values do [U]; a pair of equal activations counts as half."""
    positions = np.flatnonzero(~np.isnan(values_N))
    ids = activations.ids_N[positions]
    by_id, count = np.argsort(ids, kind="stable"), np.bincount(ids)
    first = np.cumsum(count) - count
    one = rng.integers(len(positions), size=DRAWS)
    positions, ids = positions[by_id], ids[by_id][one]
    # A random position, and a random position with the same character.
    a, b = positions[one], positions[first[ids] + rng.integers(count[ids])]
    differ = np.flatnonzero(values_N[a] != values_N[b])[:PAIRS]
    a_higher = values_N[a[differ]] > values_N[b[differ]]
    higher, lower = np.where(a_higher, a[differ], b[differ]), np.where(a_higher, b[differ], a[differ])
    higher_PU, lower_PU = activations.memory_NU[higher], activations.memory_NU[lower]
    right_U, wrong_U = np.count_nonzero(higher_PU > lower_PU, axis=0), np.count_nonzero(higher_PU < lower_PU, axis=0)
    return 0.5 + (right_U - wrong_U) / max(1, len(differ)) / 2


def _truncate(tales: Mapping[str, str], units: int) -> dict[str, str]:
    """Cuts all tales to the same share of their length, to keep to MAX_ACTIVATIONS, and ends each with a newline."""
    share = min(1.0, MAX_ACTIVATIONS / units / sum(map(len, tales.values())))
    return {tale: text[: int(share * len(text))] + "\n" for tale, text in tales.items()}


def _activations(run: Run, texts: list[str]) -> Activations:
    ids = [np.insert(run.tokenizer.encode(text).ids, 0, run.tokenizer.start_id) for text in texts]
    cells = forward_texts(run.model, run.variables, ids, ids, _observe_memory(run.model))
    memory_NU, ids_N = (np.concatenate([rows[1:] for rows in by_text]) for by_text in (cells, ids))
    return Activations("".join(texts), memory_NU, ids_N)


@functools.cache  # one function per model, since `forward_texts` compiles for each
def _observe_memory(model: LanguageModel) -> Observe:
    def observe(carry: Carry, logits_BV: jax.Array, y_B: jax.Array) -> jax.Array:
        del logits_BV, y_B
        return jnp.round(STEPS * model.memory(carry)).astype(jnp.int8)

    return observe


def _most_varied_passage(texts: Mapping[str, str], values_N: np.ndarray) -> tuple[str, int, slice]:
    """The passage of EXCERPT characters in which the feature varies most: tale, offset there, place in all texts."""
    passages, spreads, first = [], [], 0
    for tale, text in texts.items():
        for offset in range(0, max(1, len(text) - EXCERPT), EXCERPT):
            part = slice(first + offset, first + min(offset + EXCERPT, len(text)))
            applies = values_N[part][~np.isnan(values_N[part])]
            passages.append((tale, offset, part))
            spreads.append(applies.std() if len(applies) else 0.0)
        first += len(text)
    return passages[int(np.argmax(spreads))]
