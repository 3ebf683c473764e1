"""The report: one self-contained file, complete for any run, that a browser shows without errors at any width."""

import dataclasses
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from absl import flags
from selenium import webdriver

from lovecraft_jax.report import __main__ as command_line
from lovecraft_jax.report.collect import RunReport, collect_run
from lovecraft_jax.report.page import render
from lovecraft_jax.runtime.errors import UserError
from lovecraft_jax.stylometry.authorship import Author
from lovecraft_jax.stylometry.overlap import Span
from tests.helpers.browser import CHROMIUM, DRIVER, open_chromium
from tests.helpers.runs import shorten_reports

pytestmark = pytest.mark.slow

SECTIONS = {"training", "change", "samples", "authorship", "rare_words", "surprisal", "units", "scores"}
SHARED, OWN = {"curve", "scores"}, {"learning", "letters", "word_lengths", "sentence_lengths", "zipf", "type_token"}


def test_the_page_is_self_contained_with_all_sections_and_plots(page: str) -> None:
    assert set(re.findall(r'(?:src|href)="([^#][^"]*)"', page)) == {"data:,"}
    assert not re.search(r"<script|<img|<iframe|@import|url\((?!#)", page)
    assert set(re.findall(r'<section id="(\w+)"', page)) == SECTIONS
    assert set(re.findall(r'<li><a href="#(\w+)"', page)) == SECTIONS
    assert len(re.findall(r"<svg[^>]* role=\"img\"[^>]* aria-label=\"[^\"]{20,}\"", page)) == len(SHARED | OWN)


def test_ids_are_unique_and_references_resolve(page: str, both: str) -> None:
    for text in (page, both):
        ids = re.findall(r'\bid="([^"]+)"', text)
        assert sorted(set(ids)) == sorted(ids)
        assert set(re.findall(r'(?:href="#|url\(#|aria-labelledby=")([^")]+)', text)) <= set(ids)


def test_two_runs_are_side_by_side_with_markup_escaped_and_shared_spans_marked(
    both: str,
) -> None:
    found = both.count("<svg") - both.count('class="strip"')
    assert found == len(SHARED) + 2 * len(OWN) - 1  # the bare run has no samples from training
    assert re.search(r"<h1>&lt;i&gt;<span[^>]*> and </span>bare</h1>", both)
    assert "<script" not in both
    assert "<i>" not in both
    assert f"&lt;script&gt; &amp; A<mark>{'B' * 137}</mark><sup>1</sup>C" in both
    assert "137 characters, dagon at 1,234" in both
    assert "repeat verbatim from the training text has 137 characters" in both


def test_a_run_without_samples_final_scores_or_a_decision(bare: RunReport) -> None:
    page = render([bare])
    assert "There are no samples from training" in page
    assert "there is no final score of this checkpoint" in page
    assert "bits per character of the test tales" not in page
    assert "cannot be decided: 0 tales have" in page
    assert not re.search(r"\bnan\b|author, 95 %|outside the 95 %", page)
    assert set(re.findall(r'<section id="(\w+)"', page)) == SECTIONS


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("12 345, 6.\n" * 900, "the text has no letters"),
        ("彼女は海を見た。\n" * 900, "the text puts no spaces between words"),
        ("ACGT" * 3000, ""),
        ("a", ""),
        ("나는 바다에 갔다. " * 900, ""),
    ],
)
def test_a_page_of_any_script_has_what_can_be_said(text: str, lost: str, bare: RunReport) -> None:
    author = Author({"tale": text, "other": text}, ["tale"])
    generated = [dataclasses.replace(at, comparison=author.compare(text)) for at in bare.generated]
    reason, has_case = author.reference.why_no_words, text.upper() != text.lower()
    page = render([dataclasses.replace(bare, generated=generated, no_words=reason, has_case=has_case)])
    assert reason == lost
    assert set(re.findall(r'<section id="(\w+)"', page)) == SECTIONS
    assert not re.search(r"\bnan\b", page)
    assert bool(lost) == (f"is left out: {lost}" in page) == ("Mean word length" not in page)
    assert (text.upper() != text.lower()) == ("Capitals that start" in page)


def test_control_characters_of_texts_and_names_are_symbols_on_the_page(report: RunReport) -> None:
    generated = [dataclasses.replace(at, texts=["a\x1b[31mb\u202ec\udce9"], spans=[]) for at in report.generated]
    page = render([dataclasses.replace(report, workdir="runs/\x07\x85", generated=generated)])
    assert r"a␛[31mb\u202ec\udce9" in page
    assert r"runs/␇\x85" in page


def test_a_score_is_compared_with_static_baselines_only(report: RunReport) -> None:
    known = {"uniform": 6.3, "unigram": 4.4, "ppmd": 1.97531}
    earlier = render([dataclasses.replace(report, baselines=known)])
    assert "PPMd (adaptive) 1.975" in earlier
    assert "n-gram" not in re.sub(r"<svg.*?</svg>", "", earlier.split('<section id="change"')[0], flags=re.DOTALL)
    known |= {"ngram": 2.1, "ngram_test": 2.46802, "ngram_order": 6, "ppmd_test": 1.86423}
    word_ngram = {"word_ngram": 2.0, "word_ngram_test": 2.34567, "word_ngram_order": 3}
    for words, best in (({}, "2\\.47"), (word_ngram, "2\\.35")):
        page = render([dataclasses.replace(report, baselines=known | words)])
        of_words = "3-gram of words (static) 2.000, " if words else ""
        assert f"6-gram of characters (static) 2.100, {of_words}PPMd (adaptive) 1.975" in page
        assert re.search(rf"bits per character of the test tales, where the best n-gram, [^.]*, needs {best}\.", page)
    assert "needs 1." not in page


def test_a_run_that_got_worse_or_was_ended_early_says_so(report: RunReport) -> None:
    page = render([report])
    assert "<dt>Warning</dt>" not in page
    assert "ended early" not in page
    line = "WARNING: getting worse since step 20: valid 2.0 < 3.0"
    page = render([dataclasses.replace(report, warnings=[line])])
    assert "<dt>Warning</dt>\n  <dd><strong>getting worse since step 20: valid 2.0 &lt; 3.0</strong></dd>" in page
    rows = [row | ({"patience": 4} if row.get("scoring") == "final" else {}) for row in report.rows]
    page = render([dataclasses.replace(report, rows=rows)])
    assert "ended early, after 4 evaluations without an improvement (train.patience)" in page


def test_a_report_has_the_warnings_of_its_rows(
    report: RunReport, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert report.warnings == []
    workdir = shutil.copytree(trained, tmp_path / "run")
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    rows[-2]["bpc"] = 6.5  # uniform: 6.32
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shorten_reports(monkeypatch)
    (line,) = collect_run(str(workdir), "best", "run").warnings
    assert "valid 6.5000 bpc is no better than guessing" in line


def test_the_final_score_of_another_checkpoint_is_none(report: RunReport) -> None:
    assert report.final("test") is not None
    assert dataclasses.replace(report, step=report.step - 1).final("test") is None


def test_an_adaptive_score_stands_beside_the_static_one(report: RunReport) -> None:
    assert "<dt>Adaptive</dt>" not in render([report])
    static = [row for row in report.rows if row.get("scoring") == "final"]
    adaptive = [row | {"scoring": "adaptive", "bpc": bpc} for row, bpc in zip(static, (1.234, 1.567), strict=True)]
    page = render([dataclasses.replace(report, rows=report.rows + adaptive)])
    assert "valid 1.234, test 1.567 bits per character, of a model that learns" in page
    assert f"test {static[1]['bpc']:.3f} bits per character (static" in page
    assert page.count("1.567") == 1
    compressor = {"ppmd": 2.987, "ppmd_test": 2.345}
    with_compressor = dataclasses.replace(report, rows=report.rows + adaptive, baselines=compressor)
    # Of test, since the rates of the adaptive score are tuned on valid.
    assert "the test tales while it reads them" in render([with_compressor])
    assert "it needs 1.57 for them, and the compressor 2.35" in render([with_compressor])
    diverged = [row | {"bpc": None if row["split"] == "valid" else row["bpc"]} for row in adaptive]
    page = render([dataclasses.replace(report, rows=report.rows + diverged)])
    assert "valid (not finite), test 1.567 bits per character" in page
    table = render([report, dataclasses.replace(with_compressor, name="other")])
    assert re.search(r'(<td class="n">\u2013</td>){2}', table)
    assert '<td class="n">1.234</td><td class="n">1.567</td>' in table
    assert "eural cache" not in page + table
    cache = [row | {"scoring": "cache", "bpc": row["bpc"] - 0.1} for row in adaptive]
    with_cache = dataclasses.replace(report, name="other", rows=report.rows + adaptive + cache)
    page = render([report, with_cache])
    assert '<th scope="col" class="n">Test bpc, neural cache</th>' in page
    assert '<td class="n">1.567</td><td class="n">1.134</td><td class="n">1.467</td>' in page
    assert "valid 1.134, test 1.467 bits per character, of the model with a cache" in page


@pytest.mark.parametrize(
    ("file", "content"), [("metrics.jsonl", "5\n"), ("metrics.jsonl", '{"step": 1}\n'), ("baselines.json", "{")]
)
def test_a_damaged_file_raises(file: str, content: str, trained: Path, tmp_path: Path) -> None:
    workdir = shutil.copytree(trained, tmp_path / "run")
    (workdir / file).write_text(content)
    with pytest.raises(UserError, match=f"{file}: damaged"):
        collect_run(str(workdir), "best", "run")


@pytest.mark.parametrize("file", ["metrics.jsonl", "baselines.json", "samples/00000040.txt"])
def test_a_file_that_cannot_be_read_is_named(file: str, trained: Path, tmp_path: Path) -> None:
    workdir = shutil.copytree(trained, tmp_path / "run")
    (workdir / file).unlink()
    (workdir / file).mkdir()  # root may read every file
    with pytest.raises(OSError, match=file):
        collect_run(str(workdir), "best", "run")


def test_the_page_is_written_where_the_flag_says_unless_that_is_a_folder_or_a_run_is_given_twice(
    page: str, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """The command in this process; old_run_test.py starts it as one."""
    line = flags.FlagValues()
    flags.DEFINE_multi_string("workdir", [f"{trained}"], "", line)
    flags.DEFINE_string("checkpoint", "best", "", line)
    flags.DEFINE_string("corpus", None, "", line)
    flags.DEFINE_string("to", f"{tmp_path}/new/index.html", "", line)
    line(["report"])
    monkeypatch.setattr(flags, "FLAGS", line)
    monkeypatch.setattr(command_line, "collect_run", lambda *_: None)
    monkeypatch.setattr("lovecraft_jax.report.page.render", lambda _: page)
    assert command_line.main() == 0
    assert capsys.readouterr().out == f"{tmp_path}/new/index.html\n"
    assert (tmp_path / "new" / "index.html").read_text() == page
    os.mkfifo(tmp_path / "pipe")
    for to in ("/proc/page.html", *(f"{tmp_path}/{name}" for name in ("new", "n" * 300, "pipe", "pipe/page.html"))):
        line.to = to
        with pytest.raises(UserError, match=f"^{to}: .*; give another place$"):
            command_line.main()
    line.workdir = [f"{trained}", f"{trained}/"]
    with pytest.raises(UserError, match="twice"):
        command_line.main()


@pytest.mark.browser
@pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Chromium and its driver")
@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1280, "light")])
def test_a_browser_shows_everything_legibly_and_logs_no_errors(
    browser: webdriver.Chrome, page: str, both: str, tmp_path: Path, width: int, scheme: str
) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    )
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    for n, text in enumerate((page, both)):
        (tmp_path / f"{n}.html").write_text(text)
        browser.get((tmp_path / f"{n}.html").as_uri())
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
    """The tiny run's."""
    with pytest.MonkeyPatch.context() as patch:
        shorten_reports(patch)
        return collect_run(str(trained), "best", "run")


@pytest.fixture(scope="module")
def page(report: RunReport) -> str:
    return render([report])


@pytest.fixture(scope="module")
def bare(report: RunReport) -> RunReport:
    """A run of which nothing is known that need not be, with texts too short for a decision."""
    undecided = Author({"tale": "The author's only tale."}, ["tale"]).compare("A short text. " * 50)
    generated = [dataclasses.replace(at, comparison=undecided) for at in report.generated]
    missing = {"baselines": {}, "training_samples": [], "rare_words": "only for models of characters", "units": None}
    return dataclasses.replace(report, name="bare", rows=report.rows[:1], generated=generated, **missing)


@pytest.fixture(scope="module")
def both(report: RunReport, bare: RunReport) -> str:
    """The page of two runs: one with markup in its name and text and with a shared span, and the bare one."""
    text = "<script> & A" + "B" * 137 + "C" * 50
    span = Span(12, 149, "dagon", 1234)
    marked = {"texts": [text], "spans": [span], "longest": (span, "B" * 137)}
    generated = [dataclasses.replace(at, **marked) for at in report.generated]
    return render([dataclasses.replace(report, name="<i>", generated=generated), bare])


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """Chromium, headless."""
    with open_chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser
