"""Single units: a planted one is found, a character's own is not taken for memory, and chance is told as such."""

import dataclasses
import types

import numpy as np
import pytest

from lovecraft_jax.probing import units
from lovecraft_jax.probing.units import EXCERPT, STEPS, Cells, clearest, features, study
from lovecraft_jax.runtime.errors import UserError
from tests.helpers.untrained import read_slowly, untrained_run

ALPHABET = np.array(list('abcdeABC""() .,\n'))
U = 30


def text_of(seed: int, length: int = 6000) -> str:
    return "".join(np.random.default_rng(seed).choice(ALPHABET, length))


def noise(text: str, seed: int) -> Cells:
    """Units that follow nothing."""
    held_NU = np.random.default_rng(seed).integers(-STEPS, STEPS + 1, (len(text), U)).astype(np.int8)
    return Cells(text, held_NU, np.array([ord(char) for char in text], np.uint8))


def test_features_are_those_counted_by_hand() -> None:
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


@pytest.mark.parametrize(
    "feature", ["inside quotation marks", "length of the sentence so far", "last letter of the word"]
)
@pytest.mark.parametrize("sign", [1, -1])
def test_a_planted_unit_is_found(feature: str, sign: int) -> None:
    halves = [noise(text_of(seed), seed) for seed in (1, 2)]
    for half in halves:
        values = np.nan_to_num(features(half.text)[feature])
        half.held_NU[:, 17] = sign * np.clip(values * 3, 0, STEPS)
    found = {follower.feature: follower for follower in clearest(*halves)}[feature]
    assert (found.unit, found.sign) == (17, sign)
    assert found.score > 0.98
    assert found.chance < 0.6


def test_where_no_unit_follows_scores_are_near_a_half() -> None:
    for follower in clearest(noise(text_of(1), 1), noise(text_of(2), 2)):
        assert abs(follower.score - 0.5) < 0.05, follower
        assert 0.5 < follower.chance < 0.55, follower


def test_a_unit_that_tells_the_character_alone_follows_nothing() -> None:
    halves = [noise(text_of(seed), seed) for seed in (1, 2)]
    for half in halves:
        half.held_NU[:] = half.kind_N.astype(np.int8)[:, None]
    assert {follower.score for follower in clearest(*halves)} == {0.5}


def test_a_unit_is_not_judged_where_it_was_chosen() -> None:
    chosen_on, judged_on = (noise(text_of(seed), seed) for seed in (1, 2))
    chosen_on.held_NU[:, 3] = features(chosen_on.text)["inside quotation marks"]
    found = {follower.feature: follower for follower in clearest(chosen_on, judged_on)}["inside quotation marks"]
    assert found.unit == 3
    assert abs(found.score - 0.5) < 0.05


def test_a_feature_that_a_text_has_too_little_of_is_left_out() -> None:
    plain = text_of(2).replace("(", "")
    found = {follower.feature for follower in clearest(noise(text_of(1), 1), noise(plain, 2))}
    assert "inside brackets" not in found
    assert "inside quotation marks" in found
    assert clearest(noise("a", 1), noise("b", 2)) == []


def test_a_unit_is_shown_by_what_it_held(monkeypatch: pytest.MonkeyPatch) -> None:
    run = untrained_run("".join(ALPHABET))
    tales = {"valid": {"a": text_of(1, 900)}, "test": {"b": text_of(2, 1300), "c": text_of(3, 900), "d": "short"}}
    tales = {split: {name: text.strip() for name, text in of.items()} for split, of in tales.items()}
    found = study(run, tales)
    assert {unit.feature for unit in found} == set(features("a"))
    assert [unit.score for unit in found] == sorted((unit.score for unit in found), reverse=True)
    assert len({(unit.tale, unit.offset) for unit in found}) > 1
    assert {unit.tale for unit in found} == {"b", "c"}
    for unit in {unit.tale: unit for unit in found}.values():
        tale = tales["test"][unit.tale]
        assert tale[unit.offset :].startswith(unit.text)
        assert len(unit.text) == len(unit.activations) == EXCERPT
        for n in (0, 57, EXCERPT - 1):
            _, tanh_c = read_slowly(run, tale[: unit.offset + n + 1])
            held = tanh_c.reshape(run.model.layers, run.model.units)[unit.layer, unit.index]
            assert unit.activations[n] == pytest.approx(held, abs=0.6 / STEPS)
    # Where there is less room, each tale's beginning is read.
    monkeypatch.setattr(units, "ROOM", 750 * run.model.layers * run.model.units)
    assert {unit.offset for unit in study(run, tales)} == {0}


def test_words_as_tokens_are_refused() -> None:
    words = dataclasses.replace(untrained_run("a"), tokenizer=types.SimpleNamespace(level="words"))
    with pytest.raises(UserError, match=r"data\.level=words: .* chars only"):
        study(words, {})
