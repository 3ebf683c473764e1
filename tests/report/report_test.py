"""The report: one file with everything in it, that a browser opens without a complaint at any width."""

import dataclasses
import math
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from selenium import webdriver

from lovecraft_jax.report import collect
from lovecraft_jax.report.collect import Findings, find
from lovecraft_jax.report.page import render
from lovecraft_jax.runtime.errors import UserError
from lovecraft_jax.stylometry.authorship import Comparison, DistributionComparison
from lovecraft_jax.stylometry.overlap import Span

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
SECTIONS = {"training", "change", "samples", "style", "pandemonium", "surprise", "units", "scores"}
SHARED, OWN = {"curve", "scores"}, {"learning", "letters", "word_lengths", "sentence_lengths", "zipf", "type_token"}


def test_the_page_needs_nothing_from_elsewhere(page: str) -> None:
    assert set(re.findall(r'(?:src|href)="([^#][^"]*)"', page)) == {"data:,"}
    assert not re.search(r"<script|<img|<iframe|@import|url\((?!#)", page)


def test_every_section_and_every_figure_is_there(page: str) -> None:
    assert set(re.findall(r'<section id="(\w+)"', page)) == SECTIONS
    assert set(re.findall(r'<li><a href="#(\w+)"', page)) == SECTIONS
    assert len(re.findall(r"<svg[^>]* role=\"img\"[^>]* aria-label=\"[^\"]{20,}\"", page)) == len(SHARED | OWN)


def test_no_id_is_there_twice_and_every_reference_finds_one(page: str, found: Findings) -> None:
    for text in (page, render([found, dataclasses.replace(found, name="other")])):
        ids = re.findall(r'\bid="([^"]+)"', text)
        assert sorted(set(ids)) == sorted(ids)
        assert set(re.findall(r'(?:href="#|url\(#|aria-labelledby=")([^")]+)', text)) <= set(ids)


def test_what_is_written_cannot_write_html(found: Findings) -> None:
    text = "<script>alert(1)</script> & so on " * 40
    written = [dataclasses.replace(at, texts=[text], spans=[], longest=None) for at in found.written]
    page = render([dataclasses.replace(found, name="<i>run</i>", written=written)])
    assert "<script" not in page
    assert "<i>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; so on" in page


def test_a_copied_span_is_marked_and_its_tale_named(found: Findings) -> None:
    text, span = "A" * 50 + "B" * 137 + "C" * 50, Span(50, 187, "dagon", 1234)
    written = [dataclasses.replace(at, texts=[text], spans=[span], longest=(span, "B" * 137)) for at in found.written]
    page = render([dataclasses.replace(found, written=written)])
    assert f"A<mark>{'B' * 137}</mark><sup>1</sup>C" in page
    assert "137 characters, dagon at 1,234" in page
    assert "the longest span that it copies has 137 characters" in page


def test_runs_stand_side_by_side(found: Findings) -> None:
    page = render([found, dataclasses.replace(found, name="other")])
    assert page.count("<svg") - page.count('class="strip"') == len(SHARED) + 2 * len(OWN)
    assert re.search(r"<h1>run<span[^>]*> and </span>other</h1>", page)


def test_a_run_that_has_just_begun_is_told_of_as_far_as_it_went(found: Findings) -> None:
    begun = dataclasses.replace(found, rows=found.rows[:1], baselines={}, stages=[], words=None, units=None)
    page = render([begun])
    assert "No sample was kept" in page
    assert "of this checkpoint there is no final score" in page
    assert set(re.findall(r'<section id="(\w+)"', page)) == SECTIONS


def test_the_score_of_another_checkpoint_is_not_told(found: Findings) -> None:
    other = dataclasses.replace(found, step=found.step - 1)
    assert found.final("test") is not None
    assert other.final("test") is None
    assert "bits for a character of the test tales" not in render([other])


def test_where_there_is_no_verdict_nothing_is_said_of_an_interval(found: Findings) -> None:
    def without(style: Comparison) -> Comparison:
        rows = tuple(dataclasses.replace(row, low=math.nan, median=math.nan, high=math.nan) for row in style.features)
        curves = {
            key: DistributionComparison(curve.x, curve.value, *[np.full(len(curve.x), math.nan)] * 3)
            for key, curve in style.distributions.items()
        }
        return dataclasses.replace(style, features=rows, distributions=curves, p_values=(), reason="too few")

    written = [dataclasses.replace(at, style=without(at.style)) for at in found.written]
    page = render([dataclasses.replace(found, written=written)])
    assert "cannot be said: too few" in page
    assert not re.search(r"\bnan\b|author, 95 %|outside the 95 %", page)


@pytest.mark.parametrize(
    ("file", "content"), [("metrics.jsonl", "5\n"), ("metrics.jsonl", '{"step": 1}\n'), ("baselines.json", "{")]
)
def test_a_damaged_file_is_one_line(file: str, content: str, trained: Path, tmp_path: Path) -> None:
    workdir = shutil.copytree(trained, tmp_path / "run")
    (workdir / file).write_text(content)
    with pytest.raises(UserError, match=f"{file}: damaged"):
        find(str(workdir), "best", "run")


def test_where_the_page_cannot_be_is_told_before_the_work(command: Callable, trained: Path, tmp_path: Path) -> None:
    done = command("report", f"--workdir={trained}", f"--to={tmp_path}")
    assert done.returncode == 2
    assert done.stderr == f"{tmp_path}: a folder; name a file in it with --to={tmp_path}/index.html\n"


def test_a_run_that_is_named_twice_is_one_line(command: Callable, trained: Path) -> None:
    done = command("report", f"--workdir={trained}", f"--workdir={trained}/")
    assert (done.returncode, done.stdout) == (2, "")
    assert "twice" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Chromium and its driver")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_in_a_browser_all_is_in_view_and_nothing_complains(
    browser: webdriver.Chrome, pages: list[Path], width: int, scheme: str
) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    )
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    for path in pages:
        browser.get(path.as_uri())
        assert browser.execute_script("const e = document.documentElement; return e.scrollWidth - e.clientWidth") == 0
        figures = browser.find_elements("css selector", "figure svg")
        assert len(figures) >= len(SHARED | OWN)
        for figure in figures:
            assert figure.is_displayed()
            assert (figure.aria_role, bool(figure.accessible_name)) == ("image", True)
            assert 200 < figure.rect["width"] < width
        for region in filter(
            webdriver.remote.webelement.WebElement.is_displayed, browser.find_elements("css selector", "[tabindex]")
        ):
            assert (region.aria_role, bool(region.accessible_name)) == ("region", True)
        for element in ("p", "a", "figcaption", ".quiet", ".h1", ".h5", ".u4", "mark", "svg text"):
            assert contrast(browser, element) >= 4.5, element
    assert browser.get_log("browser") == []


PAINTED = """
const element = document.querySelector(arguments[0]);
const grounds = [];
for (let e = element; e; e = e.parentElement) grounds.unshift(getComputedStyle(e).backgroundColor);
const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
const paint = colour => {
  canvas.fillStyle = colour;
  canvas.fillRect(0, 0, 1, 1);
  return Array.from(canvas.getImageData(0, 0, 1, 1).data).slice(0, 3);
};
const ground = grounds.map(paint).at(-1);
const style = getComputedStyle(element);
return [ground, paint(element instanceof SVGElement ? style.fill : style.color)];
"""


def contrast(browser: webdriver.Chrome, element: str) -> float:
    """Of the first such element's text with its ground, by the formula of WCAG 2."""
    lighter, darker = sorted((luminance(colour) for colour in browser.execute_script(PAINTED, element)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: list[int]) -> float:
    """Relative, of 8-bit sRGB."""
    linear = [c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.fixture(scope="module")
def found(trained: Path) -> Findings:
    """All about the tiny run, with less written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collect, "STREAMS", 2)
        patch.setattr(collect, "LENGTH", 2000)
        return find(str(trained), "best", "run")


@pytest.fixture(scope="module")
def path(command: Callable, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the tiny run, as the command writes it."""
    to = tmp_path_factory.mktemp("report") / "page" / "index.html"
    done = command("report", f"--workdir={trained}", f"--to={to}")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{to}\n"
    return to


@pytest.fixture(scope="module")
def page(path: Path) -> str:
    return path.read_text()


@pytest.fixture(scope="module")
def pages(path: Path, found: Findings) -> list[Path]:
    """That page, and one of two runs, with all that a page can have."""
    span = Span(50, 187, "dagon", 1234)
    written = [dataclasses.replace(at, texts=["word " * 50], spans=[span]) for at in found.written]
    two = path.with_name("two.html")
    two.write_text(render([dataclasses.replace(found, written=written), dataclasses.replace(found, name="other")]))
    return [path, two]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """Chromium, headless."""
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
    yield driver
    driver.quit()
