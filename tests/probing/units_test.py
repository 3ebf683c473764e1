"""Units that follow features: a planted unit is found; a unit that only reflects the character scores 1/2."""

import numpy as np
import pytest

from lovecraft_jax.probing import units
from lovecraft_jax.probing.units import EXCERPT, STEPS, Activations, analyze, best_units, features
from tests.helpers.untrained import forward_float64, untrained_run

ALPHABET = np.array(list('abcdeABC""() .,\n'))
U = 30


def text_of(seed: int, length: int = 6000) -> str:
    return "".join(np.random.default_rng(seed).choice(ALPHABET, length))


def noise(text: str, seed: int) -> Activations:
    """Random activations."""
    memory_NU = np.random.default_rng(seed).integers(-STEPS, STEPS + 1, (len(text), U)).astype(np.int8)
    return Activations(text, memory_NU, np.array([ord(char) for char in text], np.uint8))


def test_features_by_hand() -> None:
    found = features('"Go, (a) Tom." It\nno "a')
    _ = np.nan
    expected = {
        "inside quotation marks": [1] * 13 + [0] * 8 + [1, 1],
        "inside brackets": [0, 0, 0, 0, 0, 1, 1] + [0] * 16,
        "length of the paragraph so far": [*range(1, 18), *range(6)],
        "length of the sentence so far": [*range(1, 13), *range(5), 0, 1, 2, 3, 4, 5],
        "length of the clause so far": [1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5],
        "length of the word so far": [_, 1, 2, _, _, _, 1, _, _, 1, 2, 3, _, _, _, 1, 2, _, 1, 2, _, _, 1],
        "last letter of the word": [_, 0, 1, _, _, _, 1, _, _, 0, 0, 1, _, _, _, 0, 1, _, 0, 1, _, _, 1],
        "in a capitalised word": [_, _, 1, _, _, _, 0, _, _, _, 1, 1, _, _, _, _, 1, _, 0, 0, _, _, 0],
    }
    assert list(found) == list(expected)
    for feature, values in expected.items():
        np.testing.assert_array_equal(found[feature], values, err_msg=feature)


@pytest.mark.slow
def test_planted_units_are_found_and_scored_on_another_text_than_they_were_selected_on() -> None:
    halves = [noise(text_of(seed), seed) for seed in (1, 2)]
    planted = {
        "inside quotation marks": (17, 1),
        "length of the sentence so far": (18, -1),
        "last letter of the word": (19, -1),
    }
    for half in halves:
        for feature, (unit, sign) in planted.items():
            half.memory_NU[:, unit] = sign * np.clip(np.nan_to_num(features(half.text)[feature]) * 3, 0, STEPS)
    halves[0].memory_NU[:, 3] = features(halves[0].text)["inside brackets"]  # on the first text only
    found = {unit.feature: unit for unit in best_units(*halves)}
    for feature, expected in planted.items():
        assert (found[feature].unit, found[feature].sign) == expected
        assert found[feature].score > 0.98
        assert found[feature].chance < 0.6
    assert found["inside brackets"].unit == 3
    assert abs(found["inside brackets"].score - 0.5) < 0.05


@pytest.mark.slow
def test_random_units_and_those_that_depend_on_the_character_alone_score_a_half() -> None:
    halves = [noise(text_of(seed), seed) for seed in (1, 2)]
    for unit in best_units(*halves):
        assert abs(unit.score - 0.5) < 0.05, unit
        assert 0.5 < unit.chance < 0.55, unit
    for half in halves:
        half.memory_NU[:] = half.ids_N.astype(np.int8)[:, None]
    assert {unit.score for unit in best_units(*halves)} == {0.5}


def test_features_that_change_too_seldom_are_left_out() -> None:
    plain = text_of(2).replace("(", "")
    found = {unit.feature for unit in best_units(noise(text_of(1), 1), noise(plain, 2))}
    assert "inside brackets" not in found
    assert "inside quotation marks" in found
    assert best_units(noise("a", 1), noise("b", 2)) == []


@pytest.mark.slow
def test_activations_match_a_float64_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    run = untrained_run("".join(ALPHABET))
    tales = {"valid": {"a": text_of(1, 900)}, "test": {"b": text_of(2, 1300), "c": text_of(3, 900), "d": "short"}}
    tales = {split: {name: text.strip() for name, text in of.items()} for split, of in tales.items()}
    found = analyze(run, tales)
    assert {unit.feature for unit in found} == set(features("a"))
    assert [unit.score for unit in found] == sorted((unit.score for unit in found), reverse=True)
    assert len({(unit.tale, unit.offset) for unit in found}) > 1
    assert {unit.tale for unit in found} == {"b", "c"}
    for unit in {unit.tale: unit for unit in found}.values():
        tale = tales["test"][unit.tale]
        assert tale[unit.offset :].startswith(unit.text)
        assert len(unit.text) == len(unit.activations) == EXCERPT
        for n in (0, 57, EXCERPT - 1):
            _, tanh_c = forward_float64(run, tale[: unit.offset + n + 1])
            expected = tanh_c.reshape(run.model.layers, run.model.units)[unit.layer, unit.index]
            assert unit.activations[n] == pytest.approx(expected, abs=0.6 / STEPS)
    # With a lower limit the beginning of each tale is used.
    monkeypatch.setattr(units, "MAX_ACTIVATIONS", 750 * run.model.layers * run.model.units)
    assert {unit.offset for unit in analyze(run, tales)} == {0}
