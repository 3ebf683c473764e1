"""page.html: one file that writes as JAX does, in a browser, without a network; what everybody can do with it."""

import base64
import dataclasses
import hashlib
import html
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from lovecraft_jax import Run, Sampling
from lovecraft_jax.export.page import check_size, render_page
from lovecraft_jax.export.safetensors_file import own_bytes
from lovecraft_jax.export.weights import Portable, portable
from lovecraft_jax.runtime.errors import UserError
from lovecraft_jax.training.run_files import IMPORTED
from tests.helpers.page import LETTERS, PROMPT, TALES, Page, in_browser, open_page, with_facts
from tests.helpers.small_runs import small_run

AXE = os.environ.get("AXE")
"""axe.min.js of the package axe-core, where it is to be run."""
SCHEMES, WIDTHS = ("light", "dark"), (360, 1280)


def test_the_file_names_no_other_and_allows_no_network(page: str) -> None:
    assert set(re.findall(r'(?:src|href)="([^#][^"]*)"', page)) == {"data:,"}
    assert not re.search(
        r"<img|<iframe|<link rel=\"stylesheet|@import|url\((?!#)|\bfetch\(|XMLHttpRequest|WebSocket", page
    )
    assert not re.search(r"\son\w+=\"", page.split("<script")[0])
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    rules = dict(rule.split(" ", 1) for rule in policy.replace("&#39;", "'").split("; "))
    assert {rules[name] for name in ("default-src", "connect-src", "base-uri", "form-action")} == {"'none'"}
    program, style = (
        re.findall(rf"<{tag}>(.*?)</{tag[:6]}", page, re.DOTALL) for tag in ('script id="program"', "style")
    )
    for kind, (text,) in (("script-src", program), ("style-src", style)):
        assert rules[kind] == f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
    assert rules.keys() <= {"default-src", "connect-src", "base-uri", "form-action", "script-src", "style-src"} | {
        "worker-src",
        "img-src",
    }


def test_the_file_holds_the_safetensors_file_and_little_else(model: Portable) -> None:
    for dtype in ("float32", "float16", "int8"):
        page = render_page(model, dtype)
        (weights,) = re.findall(r'<script id="weights" type="text/plain">([^<]*)</script>', page)
        assert parse(base64.b64decode(weights)) == parse(own_bytes(model, dtype))
        assert len(page) - len(weights) < 200_000


def test_names_cannot_become_markup(model: Portable) -> None:
    hostile = "</script><b>\u202e"
    facts = model.facts | {"name": hostile, "corpus": {"name": hostile}, "versions": {IMPORTED: hostile}}
    facts["config"] = facts["config"] | {"sample": facts["config"]["sample"] | {"prompt": hostile}}
    page = render_page(dataclasses.replace(model, facts=facts))
    assert "<b>" not in page
    assert "\u202e" not in page
    assert page.count("</script>") == 3


def test_the_footer_says_what_is_known_and_leaves_out_what_is_not(page: str, model: Portable) -> None:
    parameters = sum(array.size for array in model.tensors.values())
    rows = footer_of(page)
    assert rows["Model"] == f"model: LSTM, 2 layers of 16 units, {parameters:,} parameters"
    assert rows["Trained on"] == "lovecraft: 2,607,258 characters to learn from"
    assert f"It knows {len(LETTERS)}." in rows["What it writes at one step (a token)"]
    assert "public domain" in rows["That text"]
    assert "racist" in rows["What it is not for"]
    assert rows.keys().isdisjoint({"Bits per character of its test text", "Weights"})
    scores = {"split": "test", "float32": 1.757, "stored": 1.7571, "dtype": "float16"}
    imported = {"scores": scores, "corpus": {}, "step": 40, "versions": {IMPORTED: "a.safetensors"}}
    rows = footer_of(render_page(with_facts(model, **imported)))
    assert rows["Bits per character of its test text"] == "1.7570; 1.7571 with the 16-bit weights of this page"
    assert rows["Trained on"] == "a text, 40 steps"
    assert rows["Weights"].startswith("imported from a.safetensors; they may have been trained further")
    assert "That text" not in rows


@pytest.mark.parametrize(
    ("name", "sha256", "title"),
    [
        ("lovecraft", TALES, "Write like H.\xa0P.\xa0Lovecraft"),
        ("a folder", TALES, "Write like H.\xa0P.\xa0Lovecraft"),
        ("lovecraft", "0" * 64, "Write like lovecraft"),
        ("novel.txt", "", "Write like novel"),
        ("*.txt", "", "Write with a small neural network"),
        ("my.tales", "", "Write like my.tales"),
    ],
)
def test_a_page_speaks_of_a_dataset_by_its_hash_not_its_name(
    model: Portable, name: str, sha256: str, title: str
) -> None:
    page = render_page(with_facts(model, corpus={"name": name, "sha256": sha256, "characters": {"train": 1000}}))
    assert re.findall(r"<title>(.*)</title>", page) == [title]
    assert ("What would surprise Lovecraft?" in page) == ("racist" in page) == (sha256 == TALES)
    assert (f"that has read 1,000 characters of {name} goes" in page) == (sha256 != TALES)


def test_weights_that_no_browser_could_read_raise_before_anything_is_written(model: Portable) -> None:
    large = np.broadcast_to(np.float32(0), (150_000, 1000))
    large_model = dataclasses.replace(model, tensors=model.tensors | {"embedding": large})
    check_size(large_model, "float16")
    with pytest.raises(UserError, match="take 600 MB as float32: a page holds at most 400 MB; use dtype=int8, or"):
        render_page(large_model, "float32")
    larger = np.broadcast_to(np.float32(0), (450_000, 1000))
    with pytest.raises(UserError, match="MB as int8: a page holds at most 400 MB; use to=model"):
        check_size(dataclasses.replace(model, tensors={"embedding": larger}), "int8")


@in_browser
@pytest.mark.parametrize("prompt", [PROMPT, "", "  Wh\nat"])
def test_greedy_text_is_that_of_jax(opened: Page, run: Run, prompt: str) -> None:
    opened.type("prompt", prompt)
    opened.write(length=400, temperature=0)
    (expected,) = run.generate(prompt, length=400, sampling=Sampling(temperature=0))
    assert opened.written == prompt + expected
    assert opened.text("write-status").startswith("Wrote 400 characters, ")


@in_browser
@pytest.mark.parametrize("name", ["bpe", "words", "normed"])
def test_greedy_text_of_other_models_is_that_of_jax(browser: webdriver.Chrome, tmp_path: Path, name: str) -> None:
    run = small_run(name)
    opened = open_page(browser, render_page(portable(run), "float32"), tmp_path)
    opened.type("prompt", "the hou")
    opened.write(length=200, temperature=0)
    (expected,) = run.generate("the hou", length=200, sampling=Sampling(temperature=0))
    assert len(opened.written) >= len("the hou") + 200
    assert ("the hou" + expected).startswith(opened.written[: len("the hou") + 200])
    assert browser.get_log("browser") == []


@in_browser
def test_the_keyboard_reaches_everything_in_order_with_a_visible_focus(opened: Page) -> None:
    opened.press("go")
    opened.wait(lambda: opened.is_done)
    opened.evaluate("document.body.tabIndex = -1; document.body.focus()")
    order: list[str] = []
    while order[-1:] != ["coloured"] and len(order) < 30:
        webdriver.ActionChains(opened.browser).send_keys(Keys.TAB).perform()
        name, outline = opened.evaluate(
            "const e = document.activeElement; return [e.id || e.closest('#continuations')?.id || e.tagName, "
            "getComputedStyle(e).outlineStyle]"
        )
        order.append(name)
        assert outline != "none", name
    writes = ["A", "prompt", "temperature", "go", "SUMMARY", "go-on", "start-over", "copy", "to-read"]
    assert order == [*writes, "reading", *["continuations"] * len(opened.offered), "coloured"]
    opened.open_settings()
    opened["prompt"].send_keys(Keys.CONTROL, Keys.ENTER)
    opened.wait(lambda: opened.is_done)
    opened["go"].send_keys(Keys.SPACE)
    opened.wait(lambda: len(opened.written) == len(PROMPT) + 3000)


@in_browser
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_narrow_page_fits_and_everything_can_be_touched(opened: Page, scheme: str) -> None:
    opened.resize(360, scheme)
    opened.open_settings()
    opened.type("length", "0")
    opened.type("prompt", PROMPT + "Z")
    opened.press("go")
    opened.wait(lambda: opened.is_done)
    opened.press("to-read")
    opened.wait(lambda: opened.read == opened.written)
    assert opened.evaluate("const e = document.documentElement; return e.scrollWidth - e.clientWidth") == 0
    targets = opened.browser.find_elements(By.CSS_SELECTOR, "button, input, textarea, select, summary")
    small = [one.get_attribute("outerHTML") for one in targets if one.is_displayed() and min(one.size.values()) < 44]
    assert len(targets) > 15
    assert not small


@in_browser
def test_a_page_without_workers_writes_all_the_same(browser: webdriver.Chrome, file: Path, run: Run) -> None:
    absent = "window.Worker = class { constructor() { throw new Error('no'); } };"
    fails = "setTimeout(() => this.onerror({preventDefault() {}}))"
    late = f"window.Worker = class {{ constructor() {{ {fails}; }} postMessage() {{}} }};"
    (expected,) = run.generate(PROMPT, length=50, sampling=Sampling(temperature=0))
    for script in (absent, late):
        added = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": script})
        opened = Page(browser, file)
        browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)
        opened.write(length=50, temperature=0)
        assert opened.written == PROMPT + expected
        opened.wait(lambda opened=opened: opened.read == opened["reading"].get_property("value"))


@in_browser
def test_damaged_weights_are_reported(browser: webdriver.Chrome, page: str, tmp_path: Path) -> None:
    damaged = re.sub(r'(id="weights" type="text/plain">).{4000}', r"\1AAAA", page)
    opened = open_page(browser, damaged, tmp_path)
    opened.wait(lambda: opened.text("failure").startswith("Something went wrong: "))
    assert "undefined" not in opened.settled() + opened.text("failure")


@in_browser
@pytest.mark.skipif(not AXE, reason="needs axe.min.js, named by the variable AXE")
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_axe_finds_no_violation(opened: Page, width: int, scheme: str) -> None:
    opened.resize(width, scheme)
    axe = Path(AXE or "").read_text()
    opened.check_with_axe("start", axe)
    opened.open_settings()
    opened.type("topP", "x")
    opened.type("prompt", PROMPT + "Z")
    opened.check_with_axe("wrong value", axe)
    opened["pace"].send_keys("to")
    opened.press("go")
    opened.wait(lambda: len(opened.written) > len(PROMPT) + 3)
    opened.check_with_axe("writing", axe)
    opened.press("go")
    opened.press("to-read")
    opened.wait(lambda: opened.read == opened.written)
    opened.press("copy")
    opened.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")
    opened.check_with_axe("read", axe)
    opened.press("start-over")
    opened.press("bring-back")
    opened.check_with_axe("brought back", axe)


def footer_of(page: str) -> dict[str, str]:
    """The rows of the footer."""
    footer = html.unescape(page.split("<footer>")[1].split("</footer>")[0])
    return dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", footer))


def parse(file: bytes) -> dict[str, Any]:
    """What a safetensors file holds, by name, however its header is ordered."""
    length = 8 + int.from_bytes(file[:8], "little")
    header = json.loads(file[8:length])
    given = {"metadata": header.pop("__metadata__")}
    return given | {
        name: (one["dtype"], one["shape"], file[length:][slice(*one["data_offsets"])]) for name, one in header.items()
    }
