"""The part of the page that reads: surprisals, the cursor and what is likely to come next."""

import re
from pathlib import Path

import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.common.keys import Keys

from lovecraft_jax import Run
from lovecraft_jax.export.page import render_page
from lovecraft_jax.export.weights import portable
from lovecraft_jax.probing.surprisal import token_surprisals
from tests.helpers.page import LETTERS, Page, in_browser, open_page, with_facts
from tests.helpers.small_runs import small_run
from tests.helpers.untrained import forward_float64


@in_browser
def test_the_token_before_the_cursor_is_marked_where_tokens_are_pieces_of_words(
    browser: webdriver.Chrome, tmp_path: Path
) -> None:
    model = portable(small_run("bpe"))
    sample = model.facts["config"]["sample"] | {"prompt": "\nThe sea", "top_p": 1e-5}
    model = with_facts(model, config=model.facts["config"] | {"sample": sample})
    opened = open_page(browser, render_page(model, "float32"), tmp_path)
    assert opened["prompt"].get_property("value") == opened["reading"].get_property("value") == "\nThe sea"
    assert opened["topP"].get_property("value") == "0.01"
    text = "The old house by the older sea"
    opened.type("reading", text)
    for cursor in range(len(text), 0, -3):
        opened.evaluate("reading.setSelectionRange(arguments[0], arguments[0])", cursor)
        opened.wait(lambda cursor=cursor: opened.marked[0] < cursor <= opened.marked[1])
        assert opened.marked[1] - opened.marked[0] < len(text)


@in_browser
def test_read_shows_the_surprisals_of_jax(opened: Page, run: Run) -> None:
    text = "The Bat was that,\n\nan old Thing\u2019s."
    opened.type("reading", text)
    cleaned = text.replace("\u2019", "'")
    opened.wait(lambda: opened.read == cleaned)
    (bits,) = token_surprisals(run, [cleaned])
    spans = opened.evaluate(
        "return Array.from(coloured.children, (span) => [span.textContent, span.title, span.className])"
    )
    assert [text for text, _, _ in spans] == list(cleaned)
    shown = [float(re.search(r"had (?:less than )?1 chance in .*, ([\d.]+) bits$", title)[1]) for _, title, _ in spans]  # type: ignore[index]
    np.testing.assert_allclose(shown, bits, atol=0.051)
    levels = np.searchsorted([1, 2, 4, 6, 8], bits, side="right")
    assert [int(classes[1]) for _, _, classes in spans] == levels.tolist()
    assert float(opened.text("score")) == pytest.approx(bits.mean(), abs=0.006)
    assert opened.text("score-of") == f"bits, over {len(cleaned)} characters"
    (worst, *_) = opened.text("surprises").split(" (")
    assert re.search(rf"\b{worst}\b", cleaned)
    opened.type("reading", "")
    opened.wait(lambda: opened.read == "")
    assert (opened.text("score"), opened.text("score-of"), opened.text("surprises")) == ("\u2013", "", "\u2013")


@in_browser
def test_the_likeliest_continuations_at_the_cursor_insert_themselves(opened: Page, run: Run) -> None:
    opened.type("reading", "The old house")
    opened.wait(lambda: opened.first_letters == likeliest(run, "The old house"))
    opened["reading"].send_keys(*[Keys.ARROW_LEFT] * 6)
    expected = likeliest(run, "The old")
    opened.wait(lambda: opened.first_letters == expected)
    assert opened.evaluate("return document.querySelector('.here').textContent") == "d"
    assert opened.text("detail").startswith("Before the cursor: “d” had ")
    added = opened.offered[1][0]
    opened.buttons[1].click()
    opened.wait(lambda: opened["reading"].get_property("value") == f"The old{added} house")
    opened.wait(lambda: opened.first_letters == likeliest(run, f"The old{added}"))
    more = opened.offered[0][0]
    opened.buttons[0].send_keys(Keys.ENTER)  # the focus stays: pressed again it goes on
    opened.wait(lambda: opened.first_letters == likeliest(run, f"The old{added}{more}"))


@in_browser
def test_what_is_inserted_goes_after_a_selection_and_can_be_undone(opened: Page) -> None:
    opened.type("prompt", "Left")
    opened.type("reading", "The old")
    opened.wait(lambda: opened.read == "The old")
    opened["reading"].send_keys(Keys.CONTROL, "a")
    opened.settled()
    expected = "The old" + opened.offered[0][0]
    opened.buttons[0].click()
    opened.wait(lambda: opened.read == expected)
    opened["reading"].send_keys(Keys.CONTROL, "z")
    opened.wait(lambda: opened.read == "The old")
    assert opened["prompt"].get_property("value") == "Left"


@in_browser
def test_a_token_that_is_pressed_puts_the_cursor_before_it_and_arrows_go_on(opened: Page, run: Run) -> None:
    assert opened.evaluate("return reading.selectionStart == reading.value.length")
    opened.type("reading", "The old house")
    opened.wait(lambda: opened.read == "The old house")
    opened.evaluate("coloured.children[5].click()")
    opened.wait(lambda: opened.first_letters == likeliest(run, "The o"))
    assert opened.marked == [5, 6]
    assert opened.text("detail").startswith("Selected: “l” had ")
    opened["coloured"].send_keys(Keys.ARROW_LEFT)
    opened.wait(lambda: opened.first_letters == likeliest(run, "The "))
    assert opened.marked == [4, 5]
    opened.type("reading", "The old house\nThe old house")
    opened.wait(lambda: opened.read.endswith("house\nThe old house") or opened.read.count("house") == 2)
    opened.evaluate("coloured.children[5].click()")
    for key, at in ((Keys.ARROW_DOWN, 19), (Keys.ARROW_UP, 5), (Keys.END, 26), (Keys.HOME, 0)):
        opened["coloured"].send_keys(key)
        opened.wait(lambda at=at: opened.marked == [at, at + 1])


@in_browser
def test_a_second_press_before_the_text_has_been_read_and_a_press_without_room_insert_nothing(opened: Page) -> None:
    opened.type("reading", "The")
    opened.wait(lambda: opened.read == "The")
    opened.settled()
    once = "The" + opened.offered[0][0]
    opened.evaluate("const button = arguments[0]; button.click(); button.click()", opened.buttons[0])
    opened.wait(lambda: opened.read == once)
    assert opened["reading"].get_property("value") == once
    opened.settled()
    opened.evaluate("reading.maxLength = arguments[0]; arguments[1].click()", len(once), opened.buttons[0])
    opened.wait(lambda: opened["too-long"].is_displayed())
    assert opened["reading"].get_property("value") == once


@in_browser
def test_a_screen_reader_learns_the_surprisal_of_the_token_before_the_cursor(opened: Page) -> None:
    assert "detail" in opened["reading"].get_attribute("aria-describedby")
    opened.type("reading", "T")
    opened.wait(lambda: opened.read == "T")
    assert opened.text("score-of") == "bits, over 1 character"
    said = rf"Before the cursor: “T” had 1 chance in [\d.]+, [\d.]+ bits\. {opened.text('score')} bits per character\."
    opened.wait(lambda: re.fullmatch(said, opened.text("read-status")))
    assert opened["read-status"].get_attribute("role") == "status"


@in_browser
def test_typing_reads_only_what_is_new_and_shows_the_whole_text(opened: Page, run: Run) -> None:
    long = "The old house was old. " * 200
    opened.evaluate("document.getElementById('reading').value = arguments[0]", long)
    opened["reading"].send_keys(Keys.CONTROL, Keys.END, Keys.NULL, "a")
    opened.wait(lambda: opened.read == long + "a")
    (bits,) = token_surprisals(run, [long + "a"])
    assert float(opened.text("score")) == pytest.approx(bits.mean(), abs=0.006)
    opened["reading"].send_keys(Keys.BACKSPACE, Keys.BACKSPACE, "t")
    opened.wait(lambda: opened.read == long[:-1] + "t")


@in_browser
def test_the_written_text_is_taken_to_be_read(opened: Page) -> None:
    before = opened["reading"].get_property("value")
    opened.write(length=100)
    opened.press("to-read")
    opened.wait(lambda: opened.read == opened.written)
    assert opened["reading"].get_property("value") == opened.written
    assert opened.evaluate("return document.activeElement.id") == "read-title"
    opened.press("bring-back-reading")
    opened.wait(lambda: opened.read == before)


def likeliest(run: Run, text: str) -> set[str]:
    """The eight likeliest characters after a text."""
    log_probs, _ = forward_float64(run, text)
    return {LETTERS[n] for n in np.argsort(-log_probs[1:], kind="stable")[:8]}
