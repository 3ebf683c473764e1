"""The report: one file with everything in it, that a browser opens without a complaint at any width."""

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from selenium import webdriver

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
SECTIONS = {"training", "change", "samples", "style", "pandemonium", "surprise", "units", "scores"}


def test_the_page_needs_nothing_from_elsewhere(page: str) -> None:
    assert set(re.findall(r'(?:src|href)="([^#][^"]*)"', page)) <= {"data:,"}
    assert not re.search(r"<script|<img|<iframe|@import|url\((?!#)", page)


def test_every_section_is_there_and_linked(page: str) -> None:
    assert set(re.findall(r'<section id="(\w+)"', page)) == SECTIONS
    assert set(re.findall(r'href="#(\w+)"', page)) >= SECTIONS


def test_no_id_is_there_twice_and_every_reference_finds_one(page: str) -> None:
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert sorted(set(ids)) == sorted(ids)
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', page)) <= set(ids)


@pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Chromium and its driver")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_in_a_browser_all_is_in_view_and_nothing_complains(browser: webdriver.Chrome, width: int, scheme: str) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    )
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    assert browser.execute_script("const e = document.documentElement; return e.scrollWidth - e.clientWidth") == 0
    for figure in browser.find_elements("css selector", "svg"):
        assert figure.accessible_name
        assert figure.rect["width"] > 200
        assert figure.rect["height"] > 50
    for region in browser.find_elements("css selector", "[tabindex]"):
        assert region.accessible_name
    assert browser.get_log("browser") == []


@pytest.fixture(scope="module")
def path(command: Callable, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the tiny run."""
    to = tmp_path_factory.mktemp("report") / "page" / "index.html"
    done = command("report", f"--workdir={trained}", f"--to={to}")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{to}\n"
    return to


@pytest.fixture(scope="module")
def page(path: Path) -> str:
    return path.read_text()


@pytest.fixture(scope="module")
def browser(path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """Chromium, headless, with the page open."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (
        *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking"),
        *("disable-component-update", "disable-sync", "disable-dev-shm-usage"),
        f"user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    driver.get(path.as_uri())
    yield driver
    driver.quit()
