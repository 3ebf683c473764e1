"""The part of the page that writes: its buttons, its settings and what becomes of the text."""

import re

import pytest
from selenium.webdriver.common.keys import Keys

from lovecraft_jax import Run, Sampling
from tests.helpers.page import LETTERS, PROMPT, Page, in_browser


@in_browser
def test_a_seed_writes_the_same_text_again_and_none_writes_others(opened: Page) -> None:
    opened.write(length=50, seed=7)
    first = opened.written
    assert opened.text("go") == "Go on"
    opened.press("start-over")
    opened.wait(lambda: opened.is_done)
    assert opened.written == first
    opened.type("seed", "")
    texts = {first}
    for _ in range(3):
        opened.press("start-over")
        opened.wait(lambda: opened.is_done)
        texts.add(opened.written)
    assert len(texts) == 4
    last = opened.written
    assert re.fullmatch(r"This text has the number \d+\.", opened.text("used-seed"))
    opened.set_temperature(0.1)
    opened.press("again")
    opened.wait(lambda: opened.is_done)
    assert opened.written == last


@in_browser
def test_it_pauses_goes_on_and_writes_anew_for_another_prompt(opened: Page) -> None:
    opened.open_settings()
    opened["pace"].send_keys("to")
    opened.type("seed", "1")
    opened.press("go")
    opened.wait(lambda: len(opened.written) > len(PROMPT) + 3)
    opened.press("go")
    paused = opened.settled()
    assert opened.text("go") == "Go on"
    assert re.fullmatch(r"Paused after \d+ characters?\.", opened.text("write-status"))
    opened.press("go")
    opened.wait(lambda: len(opened.written) > len(paused) + 3)
    assert opened.text("go") == "Pause"
    opened.press("go")
    assert opened.settled().startswith(paused)
    opened["prompt"].send_keys("s")
    assert opened.text("go") == "Write"
    opened.press("go")
    opened.wait(lambda: opened.written.startswith(PROMPT + "s"))
    opened.press("start-over")
    opened.wait(lambda: opened.written > PROMPT + "s")
    assert opened.text("go") == "Pause"


@in_browser
def test_the_text_before_is_brought_back_and_goes_on(opened: Page, run: Run) -> None:
    opened.write(length=40, temperature=0)
    first = opened.written
    assert not opened["bring-back"].is_displayed()
    opened.type("prompt", "An")
    assert (opened.text("go"), opened.text("go-on")) == ("Write", "Go on")
    opened.write(length=40)
    second = opened.written
    assert second.startswith("An")
    opened.press("bring-back")
    assert opened.written == first
    assert opened["prompt"].get_property("value") == PROMPT
    opened.press("go-on")
    opened.wait(lambda: opened.is_done)
    (expected,) = run.generate(PROMPT, length=80, sampling=Sampling(temperature=0))
    assert opened.written == PROMPT + expected
    opened.press("bring-back")
    assert opened.written == second


@in_browser
def test_a_text_goes_on_under_it_whatever_the_prompt_is_and_a_double_click_writes_once(opened: Page) -> None:
    opened.open_settings()
    opened["pace"].send_keys("to")
    opened.press("go")
    opened.evaluate("go.dispatchEvent(new MouseEvent('click', {detail: 2, bubbles: true, cancelable: true}))")
    opened.wait(lambda: opened.written > PROMPT)
    assert opened.text("go") == "Pause"
    opened["prompt"].send_keys("s")
    opened.press("go")
    paused = opened.settled()
    assert opened.text("go") == "Write"
    opened.press("go-on")
    opened.wait(lambda: len(opened.written) > len(paused))
    assert opened.written.startswith(paused)


@in_browser
def test_settings_take_effect_while_it_writes(opened: Page) -> None:
    opened.open_settings()
    opened["pace"].send_keys("to")
    opened.press("go")
    opened.wait(lambda: opened.written > PROMPT)
    opened.set_temperature(0)
    opened.type("length", "300")
    opened["length"].send_keys(Keys.ENTER)
    assert opened.text("go") == "Pause"
    opened["pace"].send_keys("as")
    opened.wait(lambda: opened.is_done)
    assert len(opened.written) == len(PROMPT) + 300
    assert is_periodic(opened.written[-100:])  # greedy text of such a model ends in a loop; a random one does not
    opened.press("go")
    opened.wait(lambda: len(opened.written) == len(PROMPT) + 600)


@in_browser
def test_a_wrong_value_is_explained_beside_it_and_the_last_right_one_counts(opened: Page) -> None:
    opened.open_settings()
    opened.type("length", "30" + Keys.ENTER)
    cases = {
        "length": ("12.5", "“12.5” is not a whole number from 1 to 20,000; until then 30 is used."),
        "topK": ("99", f"“99” is not a whole number from 0 to {len(LETTERS)}; until then 0 is used."),
        "topP": ("1,5", "“1,5” is not a number from 0.01 to 1; until then 1 is used."),
        "seed": ("x", "“x” is not a whole number from 0 to 4,294,967,295, or nothing; until then a new one is drawn."),
    }
    for name, (typed, message) in cases.items():
        opened.type(name, typed)
        assert opened.text(f"{name}-error") == message
        assert opened[name].get_attribute("aria-invalid") == "true"
        assert f"{name}-error" in opened[name].get_attribute("aria-describedby")
    opened.evaluate("document.querySelector('details').open = false")
    assert opened["settings-error"].is_displayed()
    opened.press("go")
    opened.wait(lambda: opened.is_done)
    assert len(opened.written) == len(PROMPT) + 30
    opened.open_settings()
    for typed in ("1,200", "1 200", "1.200"):
        opened.type("length", typed)
        assert opened.text("length-error") == ""
    opened.press("start-over")
    opened.wait(lambda: opened.is_done)
    assert len(opened.written) == len(PROMPT) + 1200
    assert opened["length"].get_attribute("aria-invalid") == "false"


@in_browser
def test_characters_that_the_model_does_not_know_are_named_and_left_out(opened: Page) -> None:
    opened.type("prompt", "The Zancient Xöx")  # cleaning makes an o of the fifth-last character
    opened.write(length=5)
    assert opened.text("dropped") == "Left out, as the model has never met it: “Z” “X”."
    assert opened.written.startswith("The ancient o")
    opened.type("prompt", "The")
    opened.press("go")
    opened.wait(lambda: opened.written.startswith("The") and opened.is_done)
    assert not opened["dropped"].is_displayed()


@in_browser
def test_a_rate_is_shown_only_where_it_writes_as_fast_as_it_can(opened: Page) -> None:
    opened.write(length=20)
    assert re.fullmatch(r"Wrote 20 characters, [\d,]+ a second; press Go on for more\.", opened.text("write-status"))
    opened["pace"].send_keys("to")
    opened.write(length=3)
    assert opened.text("write-status") == "Wrote 23 characters; press Go on for more."


@in_browser
@pytest.mark.parametrize("has_clipboard", [True, False])
def test_the_written_text_is_copied(opened: Page, has_clipboard: bool) -> None:
    if not has_clipboard:
        opened.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    opened.type("prompt", "The  old\n\nhouse")
    opened.write(length=80)
    opened.press("copy")
    shown = "return ['copy', 'copy-status'].map((id) => document.getElementById(id).textContent)"
    opened.wait(lambda: opened.evaluate(shown) == ["Copied."] * 2)
    assert opened.evaluate("return document.activeElement.id") == "copy"
    opened.type("reading", Keys.CONTROL + "v")
    opened.wait(lambda: opened["reading"].get_property("value") == opened.written)


def is_periodic(text: str) -> bool:
    return any(text[period:] == text[:-period] for period in range(1, len(text) // 2))
