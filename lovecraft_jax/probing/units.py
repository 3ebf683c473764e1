"""Finds the single units that follow a feature of the text best (after Karpathy, Johnson and Fei-Fei 2015).

A unit's score is its concordance with the feature: of the pairs of positions that have the same character but differ in
the feature, the share in which the unit is higher where the feature is higher. The character alone gives nothing away,
so a unit without memory scores 1/2. A unit is selected on one held-out split and scored on another, because the best of
hundreds scores too high on the text that it was selected on.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lovecraft_jax.inference.forward_texts import Observe, forward_texts
from lovecraft_jax.model.lm import Carry, LanguageModel
from lovecraft_jax.run import Run
from lovecraft_jax.runtime.errors import UserError

PAIRS, DRAWS = 4000, 40_000
"""Pairs that are compared, and pairs drawn to get them: most have the same value of a rare feature."""
MIN_CHANGES = 10
"""A feature that changes less often in a text is left out."""
SHIFTS = 19
"""Copies of a feature shifted along the text. By chance, a score exceeds all of theirs once in twenty times."""
STEPS = 127
"""A unit's memory (Cell.memory: tanh(c) for the LSTM) from 0 to 1 is rounded to this many steps, to fit a byte."""
MAX_ACTIVATIONS = 2**27
"""Activations of a split that are kept, a byte each; with a larger model less text is used."""
EXCERPT = 400
"""Characters."""


class Activations(NamedTuple):
    """A text, the memory (Cell.memory) of each unit after each character in STEPS, and the id of each character.

    An activation is STEPS times the memory, rounded to int8. Units of all layers are on one axis: [N, layers * units].
    """

    text: str
    memory_NU: np.ndarray
    ids_N: np.ndarray


class BestUnit(NamedTuple):
    """The unit that follows a feature best.

    If `sign` is -1, the unit is lower where the feature is higher, and the score is that of the negated unit. `chance`
    is the highest score for the shifted copies of the feature, each with its own best unit.
    """

    feature: str
    unit: int
    sign: int
    score: float
    chance: float


@dataclasses.dataclass(frozen=True)
class UnitExcerpt:
    """A BestUnit with its layer, and its activations in the passage in which the feature varies most."""

    feature: str
    layer: int
    index: int
    sign: int
    score: float
    chance: float
    tale: str
    offset: int  # in characters of the cleaned tale
    text: str
    activations: np.ndarray  # the unit's memory after each character


def analyze(run: Run, tales: Mapping[str, Mapping[str, str]]) -> list[UnitExcerpt]:
    """Returns the best unit for each feature, the highest score first, from `tales` (split -> tale -> cleaned text).

    Units are selected on the valid split and scored on the test split. Raises UserError if tokens are not characters.
    """
    if run.tokenizer.level != "chars":
        raise UserError(f"data.level={run.tokenizer.level}: expected chars; units are shown character by character")
    texts = {split: _truncate(tales[split], run.model.layers * run.model.units) for split in ("valid", "test")}
    selected_on, scored_on = (_activations(run, list(texts[split].values())) for split in ("valid", "test"))
    values = features(scored_on.text)
    units = []
    for best in best_units(selected_on, scored_on):
        tale, offset, part = _most_varied_passage(texts["test"], values[best.feature])
        layer, index = divmod(best.unit, run.model.units)
        excerpt = scored_on.text[part], scored_on.memory_NU[part, best.unit] / STEPS
        units.append(UnitExcerpt(best.feature, layer, index, *best[2:], tale, offset, *excerpt))
    return units


def best_units(selected_on: Activations, scored_on: Activations, seed: int = 0) -> list[BestUnit]:
    """Returns the best unit for each feature, the highest score first, without features that change too seldom."""
    rng = np.random.default_rng(seed)
    values_to_score = features(scored_on.text)
    found = []
    for feature, values_N in features(selected_on.text).items():
        scored_N = values_to_score[feature]
        if min(_changes(values_N), _changes(scored_N)) < MIN_CHANGES:
            continue
        unit, sign, score = _select_and_score(selected_on, values_N, scored_on, scored_N, rng)
        shifted = [
            _select_and_score(selected_on, _shift(values_N, n), scored_on, _shift(scored_N, n), rng)
            for n in range(SHIFTS)
        ]
        found.append(BestUnit(feature, unit, sign, score, max(score for _, _, score in shifted)))
    return sorted(found, key=lambda unit: -unit.score)


def features(text: str) -> dict[str, np.ndarray]:
    """Returns the value of each feature at each character [N]; NaN where it does not apply.

    All but one depend only on the text up to the character: "last letter of the word" must be anticipated.
    """
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


def _changes(values_N: np.ndarray) -> int:
    applies = values_N[~np.isnan(values_N)]
    return int(np.count_nonzero(np.diff(applies)))


def _shift(values_N: np.ndarray, n: int) -> np.ndarray:
    """Rotates a feature along the text by (n + 1) / (SHIFTS + 1) of its length, which is never near a full turn."""
    return np.roll(values_N, len(values_N) * (n + 1) // (SHIFTS + 1))


def _select_and_score(
    selected_on: Activations,
    values_N: np.ndarray,
    scored_on: Activations,
    scored_values_N: np.ndarray,
    rng: np.random.Generator,
) -> tuple[int, int, float]:
    """The best unit on one text, its sign, and its score on the other text."""
    concordance_U = _concordance(selected_on, values_N, rng)
    unit = int(np.argmax(np.abs(concordance_U - 0.5)))
    sign = 1 if concordance_U[unit] >= 0.5 else -1
    alone = scored_on._replace(memory_NU=sign * scored_on.memory_NU[:, unit : unit + 1])
    return unit, sign, float(_concordance(alone, scored_values_N, rng)[0])


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
    return Activations(
        "".join(texts), np.concatenate([cell[1:] for cell in cells]), np.concatenate([n[1:] for n in ids])
    )


@functools.cache  # one function per model, since `forward_texts` compiles for each
def _observe_memory(model: LanguageModel) -> Observe:
    def observe(carry: Carry, logits_BV: jax.Array, y_B: jax.Array) -> jax.Array:
        del logits_BV, y_B
        return jnp.round(STEPS * model.memory(carry)).astype(jnp.int8)

    return observe


def _most_varied_passage(texts: Mapping[str, str], values_N: np.ndarray) -> tuple[str, int, slice]:
    """Of the consecutive passages of EXCERPT characters, the one in which the feature varies most.

    Returns its tale, its offset there, and where it lies in all texts together.
    """
    passages, first = [], 0
    for tale, text in texts.items():
        for offset in range(0, max(1, len(text) - EXCERPT), EXCERPT):
            passages.append((tale, offset, slice(first + offset, first + min(offset + EXCERPT, len(text)))))
        first += len(text)

    def std(passage: tuple[str, int, slice]) -> float:
        values = values_N[passage[2]]
        applies = values[~np.isnan(values)]
        return float(applies.std()) if len(applies) else 0.0

    return max(passages, key=std)
