"""A small model, its page, and a browser that opens it."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver

from lovecraft_jax import Run
from lovecraft_jax.export.page import render_page
from lovecraft_jax.export.weights import Portable, portable
from tests.helpers.browser import open_chromium
from tests.helpers.page import LETTERS, TALES, Page
from tests.helpers.untrained import untrained_run


@pytest.fixture(scope="module")
def run() -> Run:
    run = untrained_run(LETTERS)
    return dataclasses.replace(run, corpus={"name": "lovecraft", "sha256": TALES, "characters": {"train": 2_607_258}})


@pytest.fixture(scope="module")
def model(run: Run) -> Portable:
    return portable(run)


@pytest.fixture(scope="module")
def page(model: Portable) -> str:
    return render_page(model, "float32")


@pytest.fixture(scope="module")
def file(page: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "page.html"
    file.write_text(page)
    return file


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """Chromium, headless."""
    with open_chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture
def opened(browser: webdriver.Chrome, file: Path) -> Iterator[Page]:
    """The page, new. After the test it has said nothing on the console and asked no network for anything."""
    opened = Page(browser, file)
    yield opened
    assert browser.get_log("browser") == []
    requests = opened.evaluate("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert not [name for name in requests if not name.startswith(("blob:", "data:"))]
