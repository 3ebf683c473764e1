"""The exported page in a browser, for tests."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from lovecraft_jax.data.corpus import DATASETS, Corpus, Tale
from lovecraft_jax.export.weights import Portable
from tests.helpers.browser import CHROMIUM, DRIVER

LETTERS = "\n !',-.ABCHTWabcdefghiklmnoprstuvwxyz"
PROMPT = "The ancient house"
TALES = Corpus("", tuple(Tale("", Path(), one) for one in DATASETS[0].hashes.values())).sha256
"""The hash of Lovecraft's tales."""

WRITTEN = "return Array.from(document.querySelectorAll('#written p'), (line) => line.textContent).join('\\n')"
OFFERED = """
return Array.from(document.querySelectorAll("#continuations button:not([hidden])"), (button) =>
  [".text", ".share"].map((part) => button.querySelector(part).textContent));
"""
MARKED = """
const spans = Array.from(document.querySelectorAll("#coloured > span"));
const at = spans.findIndex((span) => span.classList.contains("here"));
const lengthOf = (some) => some.reduce((sum, { textContent }) => sum + textContent.length, 0);
return [lengthOf(spans.slice(0, Math.max(0, at))), lengthOf(spans.slice(0, at + 1))];
"""
NAMED = {"space": " ", "new line": "\n"}


class Page:
    """A page that has just been opened; `page[id]` is an element."""

    def __init__(self, browser: webdriver.Chrome, file: Path) -> None:
        self.browser = browser
        self.resize(1280, "light")
        browser.get("about:blank")
        browser.get(file.as_uri())

    def __getitem__(self, name: str) -> WebElement:
        return self.browser.find_element(By.ID, name)

    def resize(self, width: int, scheme: str) -> None:
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def evaluate(self, script: str, *values: Any) -> Any:
        return self.browser.execute_script(script, *values)

    def wait(self, condition: Callable[[], Any]) -> None:
        WebDriverWait(self.browser, 30, 0.05).until(lambda _: condition())

    def text(self, name: str) -> str:
        return self[name].get_property("textContent")

    def press(self, name: str) -> None:
        self[name].click()

    def type(self, name: str, text: str) -> None:
        """Types a text in place of what a field has."""
        self[name].send_keys(Keys.CONTROL, "a", Keys.NULL, Keys.DELETE)
        self[name].send_keys(text)

    def set_temperature(self, temperature: float) -> None:
        self.evaluate(
            "const slider = document.getElementById('temperature'); slider.value = arguments[0];"
            "slider.dispatchEvent(new Event('input'))",
            temperature,
        )

    def open_settings(self) -> None:
        self.evaluate("document.querySelector('details').open = true")

    def write(self, temperature: float | None = None, **fields: int) -> None:
        """Sets what is given, writes a text to its end."""
        self.open_settings()
        for name, value in fields.items():
            self.type(name, f"{value}")
        if temperature is not None:
            self.set_temperature(temperature)
        self.press("go")
        self.wait(lambda: self.is_done)

    @property
    def is_done(self) -> bool:
        return self.text("write-status").startswith("Wrote")

    @property
    def written(self) -> str:
        """The text that is shown, its prompt included."""
        return self.evaluate(WRITTEN)

    def settled(self) -> str:
        """The written text once it does not grow any more."""
        before = None
        while before != (before := self.written):
            self.browser.execute_async_script("setTimeout(arguments[0], 300)")
        return before

    @property
    def read(self) -> str:
        """The text that has been read to its end, as it is coloured."""
        return self.evaluate("return document.getElementById('coloured').textContent")

    @property
    def buttons(self) -> list[WebElement]:
        return self.browser.find_elements(By.CSS_SELECTOR, "#continuations button")

    @property
    def offered(self) -> list[tuple[str, str]]:
        """The continuations and their probabilities."""
        return [(NAMED.get(text, text), share) for text, share in self.evaluate(OFFERED)]

    @property
    def first_letters(self) -> set[str]:
        """The first characters of the continuations."""
        return {text[0] for text, _ in self.offered}

    @property
    def marked(self) -> list[int]:
        """The characters of the coloured text at which the marked token begins and ends; both 0 where none is."""
        return self.evaluate(MARKED)

    def check_with_axe(self, state: str, axe: str) -> None:
        """Raises AssertionError with what axe-core, whose source is given, finds wrong."""
        self.evaluate(axe)
        found = self.browser.execute_async_script(
            "const done = arguments[0]; axe.run().then(done, (e) => done(String(e)))"
        )
        violations = [(one["id"], [node["html"][:200] for node in one["nodes"]]) for one in found["violations"]]
        assert not violations, (state, violations)


def in_browser(test: Callable) -> Callable:
    """Marks a test that opens the page."""
    is_missing = not (CHROMIUM and DRIVER)
    return pytest.mark.browser(pytest.mark.slow(pytest.mark.skipif(is_missing, reason="needs Chromium")(test)))


def with_facts(model: Portable, **facts: Any) -> Portable:
    return dataclasses.replace(model, facts=model.facts | facts)


def open_page(browser: webdriver.Chrome, page: str, folder: Path) -> Page:
    file = folder / "page.html"
    file.write_text(page)
    return Page(browser, file)
