"""page.html: one file that writes as JAX does and reads as JAX does, in a browser, without a network."""

import base64
import dataclasses
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from lovecraft_jax import Run, Sampling
from lovecraft_jax.export.page import bundle, render_page
from lovecraft_jax.export.safetensors_file import own_bytes
from lovecraft_jax.export.weights import Portable, portable
from lovecraft_jax.probing.surprisal import token_surprisals
from tests.helpers.page import Page
from tests.helpers.untrained import forward_float64, untrained_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
AXE = os.environ.get("AXE")
"""axe.min.js of the package axe-core, where it is to be run."""
LETTERS = "\n !',-.ABCHTWabcdefghiklmnoprstuvwxyz"
PROMPT = "The ancient house"
SCHEMES, WIDTHS = ("light", "dark"), (360, 1280)


def in_browser(test: Callable) -> Callable:
    """Marks a test that opens the page."""
    is_missing = not (CHROMIUM and DRIVER)
    return pytest.mark.browser(pytest.mark.slow(pytest.mark.skipif(is_missing, reason="needs Chromium")(test)))


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
    facts = model.facts | {"name": hostile, "corpus": model.facts["corpus"] | {"name": hostile}}
    facts["config"] = facts["config"] | {"sample": facts["config"]["sample"] | {"prompt": hostile}}
    page = render_page(dataclasses.replace(model, facts=facts))
    assert "<b>" not in page
    assert "\u202e" not in page
    assert page.count("</script>") == 3


def test_the_footer_says_what_is_known_and_leaves_out_what_is_not(page: str, model: Portable) -> None:
    footer = page.split("<footer>")[1].split("</footer>")[0]
    parameters = sum(array.size for array in model.tensors.values())
    for expected in (f"LSTM, 2 layers of 16 units, {parameters:,} parameters", "lovecraft: 2,607,258 characters"):
        assert expected in footer
    assert f"It knows {len(LETTERS)}." in footer
    assert "Licence" not in footer
    assert "Bits per character" not in footer
    scores = {"split": "test", "float32": 1.757, "stored": 1.7571, "dtype": "float16"}
    bundled = {"name": "bundled", "characters": {"train": 1000}}
    known = dataclasses.replace(model, facts=model.facts | {"scores": scores, "corpus": bundled})
    footer = render_page(known).split("<footer>")[1]
    assert "1.7570; 1.7571 with the 16-bit weights" in footer
    assert "Apache 2.0" in footer


def test_modules_become_one_script_in_the_order_of_their_imports() -> None:
    sources = {
        "main.js": 'import { two } from "./two.js";\nimport {\n  ONE,\n} from "./one.js";\n\ntwo(ONE);\n',
        "two.js": 'import { ONE } from "./one.js";\nexport function two() {\n  return ONE;\n}\n',
        "one.js": "export const ONE = 1;\nconst two_ = 2;\n",
        "unused.js": "export const ONE = 3;\n",
    }
    script = bundle(sources, "main.js")
    assert [line for line in script.splitlines() if line] == [
        *(
            '"use strict";',
            "(() => {",
            "// one.js",
            "const ONE = 1;",
            "const two_ = 2;",
            "// two.js",
            "function two() {",
        ),
        *("  return ONE;", "}", "// main.js", "two(ONE);", "})();"),
    ]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("export const a = 1;\nclass start {}\n", "start is declared in b.js and in a.js"),
        ('import { start } from "./a.js";\nexport const a = 1;\n', "a.js: imports itself by way of b.js"),
        ('import { c } from "./c.js";\nexport const a = 1;\n', "b.js: imports from c.js, which is not there"),
        ("const a = 1;\n", "a.js: imports a, which b.js does not export"),
        ("export const a = 1;\nexport default a;\n", "b.js: the bundler does not understand 'export default a;'"),
        ('import * as c from "./c.js";\nexport const a = 1;\n', "does not understand 'import"),
        ("export const a = 1;\nconst { b } = a;\n", "b.js: destructuring"),
        ("export const a = '</script>';\n", "does not understand '</script'"),
    ],
)
def test_what_the_bundler_does_not_understand_raises(other: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        bundle({"a.js": 'import { a } from "./b.js";\nexport function start() {}\n', "b.js": other}, "a.js")


@in_browser
@pytest.mark.parametrize("prompt", [PROMPT, "", "  Wh\nat"])
def test_greedy_text_is_that_of_jax(opened: Page, run: Run, prompt: str) -> None:
    opened.type("prompt", prompt)
    opened.write(length=400, temperature=0)
    (expected,) = run.generate(prompt, length=400, sampling=Sampling(temperature=0))
    assert opened.written == prompt + expected
    assert opened.text("write-status").startswith("Wrote 400 characters, ")


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
    assert re.search(r"The seed of this text is \d+\.", opened.browser.page_source)


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
    cases = {
        "length": ("12.5", "“12.5” is not a whole number from 1 to 20,000; until then 12 is used."),
        "topK": ("99", f"“99” is not a whole number from 0 to {len(LETTERS) + 1}; until then 9 is used."),
        "topP": ("1,5", "“1,5” is not a number from 0.01 to 1; until then 1 is used."),
        "seed": ("x", "“x” is not a whole number from 0 to 4,294,967,295, or nothing; until then a new one is drawn."),
    }
    for name, (typed, message) in cases.items():
        opened.type(name, typed)
        assert opened.text(f"{name}-error") == message
        assert opened[name].get_attribute("aria-invalid") == "true"
        assert f"{name}-error" in opened[name].get_attribute("aria-describedby")
    opened.press("go")
    opened.wait(lambda: opened.is_done)
    assert len(opened.written) == len(PROMPT) + 12
    opened.type("length", "20")
    assert opened.text("length-error") == ""
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
    shown = [float(re.search(r"had ([\d.]+) bits, (?:less than )?1 chance in ", title)[1]) for _, title, _ in spans]  # type: ignore[index]
    np.testing.assert_allclose(shown, bits, atol=0.051)
    levels = np.searchsorted([1, 2, 4, 6, 8], bits, side="right")
    assert [int(classes[1]) for _, _, classes in spans] == levels.tolist()
    assert float(opened.text("score")) == pytest.approx(bits.mean(), abs=0.006)
    assert opened.text("score-of") == f"over {len(cleaned)} characters"
    (worst, *_) = opened.text("surprises").split(" (")
    assert re.search(rf"\b{worst}\b", cleaned)
    opened.type("reading", "")
    opened.wait(lambda: opened.read == "")
    assert opened.text("score") == "\u2013"


@in_browser
def test_the_likeliest_continuations_at_the_cursor_insert_themselves(opened: Page, run: Run) -> None:
    opened.type("reading", "The old house")
    opened.wait(lambda: opened.offered == likeliest(run, "The old house"))
    opened["reading"].send_keys(*[Keys.ARROW_LEFT] * 6)
    expected = likeliest(run, "The old")
    opened.wait(lambda: opened.offered == expected)
    assert opened.evaluate("return document.querySelector('.here').textContent") == "d"
    assert opened.text("detail").startswith("Before the cursor: “d” had ")
    opened.buttons[1].click()
    added = expected[1][0]
    opened.wait(lambda: opened["reading"].get_property("value") == f"The old{added} house")
    opened.wait(lambda: opened.offered == likeliest(run, f"The old{added}"))
    opened.buttons[0].send_keys(Keys.ENTER)  # the focus stays: pressed again it goes on
    opened.wait(lambda: opened.offered == likeliest(run, f"The old{added}{likeliest(run, f'The old{added}')[0][0]}"))


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
    opened.write(length=100)
    opened.press("to-read")
    opened.wait(lambda: opened.read == opened.written)
    assert opened["reading"].get_property("value") == opened.written
    assert opened.evaluate("return document.activeElement.id") == "read-title"


@in_browser
@pytest.mark.parametrize("has_clipboard", [True, False])
def test_the_written_text_is_copied(opened: Page, has_clipboard: bool) -> None:
    if not has_clipboard:
        opened.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    opened.type("prompt", "The  old\n\nhouse")
    opened.write(length=80)
    opened.press("copy")
    opened.wait(lambda: opened.text("copy-status") == "Copied.")
    assert opened.evaluate("return document.activeElement.id") == "copy"
    opened.type("reading", Keys.CONTROL + "v")
    opened.wait(lambda: opened["reading"].get_property("value") == opened.written)


@in_browser
def test_the_keyboard_reaches_everything_in_order_with_a_visible_focus(opened: Page) -> None:
    opened.press("go")
    opened.wait(lambda: opened.is_done)
    opened.evaluate("document.activeElement.blur(); window.scrollTo(0, 0)")
    opened.browser.execute_cdp_cmd("Input.dispatchKeyEvent", {"type": "keyDown", "key": "Tab"})
    opened.browser.get(opened.browser.current_url)
    order = []
    for _ in range(12):
        webdriver.ActionChains(opened.browser).send_keys(Keys.TAB).perform()
        name, outline = opened.evaluate(
            "const e = document.activeElement; return [e.id || e.tagName, getComputedStyle(e).outlineStyle]"
        )
        order.append(name)
        assert outline != "none", name
    assert order[:6] == ["A", "prompt", "temperature", "go", "SUMMARY", "reading"]
    opened["prompt"].send_keys(Keys.CONTROL, Keys.ENTER)
    opened.wait(lambda: opened.is_done)
    opened["go"].send_keys(Keys.SPACE)
    opened.wait(lambda: len(opened.written) == len(PROMPT) + 2000)


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
    file = tmp_path / "damaged.html"
    file.write_text(re.sub(r'(id="weights" type="text/plain">).{4000}', r"\1AAAA", page))
    opened = Page(browser, file)
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
    opened.check_with_axe("read", axe)


def parse(file: bytes) -> dict[str, Any]:
    """What a safetensors file holds, by name, however its header is ordered."""
    length = 8 + int.from_bytes(file[:8], "little")
    header = json.loads(file[8:length])
    given = {"metadata": header.pop("__metadata__")}
    return given | {
        name: (one["dtype"], one["shape"], file[length:][slice(*one["data_offsets"])]) for name, one in header.items()
    }


def likeliest(run: Run, text: str) -> list[tuple[str, str]]:
    """The eight likeliest characters after a text as the page shows them, and their probabilities in percent."""
    log_probs, _ = forward_float64(run, text)
    probs = np.exp(log_probs[1:]) / np.exp(log_probs[1:]).sum()
    shares = [(LETTERS[n], probs[n]) for n in np.argsort(-probs, kind="stable")[:8]]
    return [(letter, f"{100 * share:.0f} %" if share >= 0.01 else "under 1 %") for letter, share in shares]


def is_periodic(text: str) -> bool:
    return any(text[period:] == text[:-period] for period in range(1, len(text) // 2))


@pytest.fixture(scope="module")
def run() -> Run:
    run = untrained_run(LETTERS)
    return dataclasses.replace(run, corpus={"name": "lovecraft", "characters": {"train": 2_607_258}})


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


@pytest.fixture
def opened(browser: webdriver.Chrome, file: Path) -> Iterator[Page]:
    """The page, new. After the test it has said nothing on the console and asked no network for anything."""
    opened = Page(browser, file)
    yield opened
    assert browser.get_log("browser") == []
    requests = opened.evaluate("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert not [name for name in requests if not name.startswith(("blob:", "data:"))]
