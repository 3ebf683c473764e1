"""The report: one self-contained file, complete for any run, that a browser shows without errors at any width."""

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
from lovecraft_jax.report.collect import RunReport, collect_run
from lovecraft_jax.report.page import render
from lovecraft_jax.runtime.errors import UserError
from lovecraft_jax.stylometry.authorship import Comparison, DistributionComparison
from lovecraft_jax.stylometry.overlap import Span

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
SECTIONS = {"training", "change", "samples", "authorship", "rare_words", "surprisal", "units", "scores"}
SHARED, OWN = {"curve", "scores"}, {"learning", "letters", "word_lengths", "sentence_lengths", "zipf", "type_token"}


def test_the_page_is_self_contained(page: str) -> None:
    assert set(re.findall(r'(?:src|href)="([^#][^"]*)"', page)) == {"data:,"}
    assert not re.search(r"<script|<img|<iframe|@import|url\((?!#)", page)


def test_the_page_has_all_sections_and_plots(page: str) -> None:
    assert set(re.findall(r'<section id="(\w+)"', page)) == SECTIONS
    assert set(re.findall(r'<li><a href="#(\w+)"', page)) == SECTIONS
    assert len(re.findall(r"<svg[^>]* role=\"img\"[^>]* aria-label=\"[^\"]{20,}\"", page)) == len(SHARED | OWN)


def test_ids_are_unique_and_references_resolve(page: str, report: RunReport) -> None:
    for text in (page, render([report, dataclasses.replace(report, name="other")])):
        ids = re.findall(r'\bid="([^"]+)"', text)
        assert sorted(set(ids)) == sorted(ids)
        assert set(re.findall(r'(?:href="#|url\(#|aria-labelledby=")([^")]+)', text)) <= set(ids)


def test_generated_text_is_escaped(report: RunReport) -> None:
    text = "<script>alert(1)</script> & so on " * 40
    generated = [dataclasses.replace(at, texts=[text], spans=[], longest=None) for at in report.generated]
    page = render([dataclasses.replace(report, name="<i>run</i>", generated=generated)])
    assert "<script" not in page
    assert "<i>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; so on" in page


def test_shared_spans_are_marked_with_their_tale(report: RunReport) -> None:
    text, span = "A" * 50 + "B" * 137 + "C" * 50, Span(50, 187, "dagon", 1234)
    marked = {"texts": [text], "spans": [span], "longest": (span, "B" * 137)}
    generated = [dataclasses.replace(at, **marked) for at in report.generated]
    page = render([dataclasses.replace(report, generated=generated)])
    assert f"A<mark>{'B' * 137}</mark><sup>1</sup>C" in page
    assert "137 characters, dagon at 1,234" in page
    assert "repeat verbatim from the training text has 137 characters" in page


def test_several_runs_are_side_by_side(report: RunReport) -> None:
    page = render([report, dataclasses.replace(report, name="other")])
    assert page.count("<svg") - page.count('class="strip"') == len(SHARED) + 2 * len(OWN)
    assert re.search(r"<h1>run<span[^>]*> and </span>other</h1>", page)


def test_a_run_without_samples_or_final_scores(report: RunReport) -> None:
    missing = {"baselines": {}, "training_samples": [], "rare_words": None, "units": None}
    page = render([dataclasses.replace(report, rows=report.rows[:1], **missing)])
    assert "There are no samples from training" in page
    assert "there is no final score of this checkpoint" in page
    assert set(re.findall(r'<section id="(\w+)"', page)) == SECTIONS


def test_the_final_score_of_another_checkpoint_is_not_shown(report: RunReport) -> None:
    other = dataclasses.replace(report, step=report.step - 1)
    assert report.final("test") is not None
    assert other.final("test") is None
    assert "bits per character of the test tales" not in render([other])


def test_without_a_decision_no_interval_is_shown(report: RunReport) -> None:
    def without_decision(comparison: Comparison) -> Comparison:
        nan = {"low": math.nan, "median": math.nan, "high": math.nan}
        rows = tuple(dataclasses.replace(row, **nan) for row in comparison.features)
        curves = {
            key: DistributionComparison(curve.x, curve.value, *[np.full(len(curve.x), math.nan)] * 3)
            for key, curve in comparison.distributions.items()
        }
        return dataclasses.replace(comparison, features=rows, distributions=curves, p_values=(), reason="too few")

    generated = [dataclasses.replace(at, comparison=without_decision(at.comparison)) for at in report.generated]
    page = render([dataclasses.replace(report, generated=generated)])
    assert "cannot be decided: too few" in page
    assert not re.search(r"\bnan\b|author, 95 %|outside the 95 %", page)


@pytest.mark.parametrize(
    ("file", "content"), [("metrics.jsonl", "5\n"), ("metrics.jsonl", '{"step": 1}\n'), ("baselines.json", "{")]
)
def test_a_damaged_file_raises(file: str, content: str, trained: Path, tmp_path: Path) -> None:
    workdir = shutil.copytree(trained, tmp_path / "run")
    (workdir / file).write_text(content)
    with pytest.raises(UserError, match=f"{file}: damaged"):
        collect_run(str(workdir), "best", "run")


def test_a_page_that_cannot_be_written_is_an_error(command: Callable, trained: Path, tmp_path: Path) -> None:
    done = command("report", f"--workdir={trained}", f"--to={tmp_path}")
    assert done.returncode == 2
    assert done.stderr == f"{tmp_path}: a folder, expected a file; give --to={tmp_path}/index.html\n"


def test_a_run_given_twice_is_an_error(command: Callable, trained: Path) -> None:
    done = command("report", f"--workdir={trained}", f"--workdir={trained}/")
    assert (done.returncode, done.stdout) == (2, "")
    assert "twice" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.browser
@pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Chromium and its driver")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_a_browser_shows_everything_legibly_and_logs_no_errors(
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
const backgrounds = [];
for (let e = element; e; e = e.parentElement) backgrounds.unshift(getComputedStyle(e).backgroundColor);
const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
const paint = colour => {
  canvas.fillStyle = colour;
  canvas.fillRect(0, 0, 1, 1);
  return Array.from(canvas.getImageData(0, 0, 1, 1).data).slice(0, 3);
};
const background = backgrounds.map(paint).at(-1);
const style = getComputedStyle(element);
return [background, paint(element instanceof SVGElement ? style.fill : style.color)];
"""


def contrast(browser: webdriver.Chrome, element: str) -> float:
    """The contrast of the text of the first such element with its background (WCAG 2)."""
    lighter, darker = sorted((luminance(colour) for colour in browser.execute_script(PAINTED, element)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: list[int]) -> float:
    """The relative luminance of an 8-bit sRGB colour."""
    linear = [c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.fixture(scope="module")
def report(trained: Path) -> RunReport:
    """The tiny run's, from fewer and shorter samples."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collect, "SAMPLES", 2)
        patch.setattr(collect, "LENGTH", 2000)
        return collect_run(str(trained), "best", "run")


@pytest.fixture(scope="module")
def path(command: Callable, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the tiny run, made by the command."""
    to = tmp_path_factory.mktemp("report") / "page" / "index.html"
    done = command("report", f"--workdir={trained}", f"--to={to}")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{to}\n"
    return to


@pytest.fixture(scope="module")
def page(path: Path) -> str:
    return path.read_text()


@pytest.fixture(scope="module")
def pages(path: Path, report: RunReport) -> list[Path]:
    """That page, and one of two runs with marked spans."""
    span = Span(50, 187, "dagon", 1234)
    generated = [dataclasses.replace(at, texts=["word " * 50], spans=[span]) for at in report.generated]
    two = path.with_name("two.html")
    two.write_text(
        render([dataclasses.replace(report, generated=generated), dataclasses.replace(report, name="other")])
    )
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
