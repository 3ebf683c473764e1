"""How fast exported pages generate, in headless Chromium: `python -m benchmarks.page c150.html [words.html ...]`.

For each page: characters a second, as the page itself reports them after a text of 3,000, and milliseconds from the
press on Write to the first text. The pages take turns; medians and ranges of `--rounds`. Needs chromium and
chromedriver, and selenium (`pip install -e '.[test]'`).
"""

import argparse
import re
import shutil
import statistics
import sys
import time
from pathlib import Path

from selenium import webdriver

from lovecraft_jax import cli
from lovecraft_jax.runtime.errors import DONE, UserError

FLAGS = ("headless", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "disable-background-networking")
LENGTH = 3000  # characters
SETTLE = 3.0  # seconds after a page has been opened: it reads its example first
GENERATE = """
const done = arguments[arguments.length - 1];
const field = document.getElementById("length");
field.value = arguments[0];
field.dispatchEvent(new Event("change", { bubbles: true }));
const written = document.getElementById("written");
const pressed = performance.now();
new MutationObserver((_, observer) => {
  if (written.textContent.trim().length <= document.getElementById("prompt").value.length) return;
  observer.disconnect();
  done(performance.now() - pressed);
}).observe(written, { childList: true, subtree: true, characterData: true });
document.getElementById("go").click();
"""


def main() -> int:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="+", type=Path, metavar="PAGE", help="an exported page")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    return cli.report_errors(lambda: _print(args.pages, args.rounds))


def _print(pages: list[Path], rounds: int) -> int:
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and chromedriver):
        raise UserError("chromium or chromedriver is not there: install both")
    for page in pages:
        if not page.is_file():
            raise UserError(f"{page}: no such file; export it by python -m lovecraft_jax.export --to={page}")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in FLAGS:
        options.add_argument(f"--{flag}")
    with webdriver.Chrome(options, webdriver.ChromeService(chromedriver)) as browser:
        browser.set_script_timeout(120)
        measured = [[_measure(browser, page) for page in pages] for _ in range(rounds)]
    print("| page | MB | characters a second | ms to the first text |\n|---|---|---|---|")
    for page, results in zip(pages, zip(*measured, strict=True), strict=True):
        speed, first = (
            f"{statistics.median(v):,.0f} ({min(v):,.0f}-{max(v):,.0f})" for v in zip(*results, strict=True)
        )
        print(f"| {page.name} | {page.stat().st_size / 1e6:.2f} | {speed} | {first} |")
    return DONE


def _measure(browser: webdriver.Chrome, page: Path) -> tuple[float, float]:
    """Returns characters a second, and milliseconds to the first text."""
    browser.get(page.resolve().as_uri())
    time.sleep(SETTLE)
    first = browser.execute_async_script(GENERATE, str(LENGTH))
    deadline = time.monotonic() + 300
    while not (
        found := re.search(r"characters, ([\d,]+) a second", browser.execute_script("return document.body.innerText"))
    ):
        if time.monotonic() > deadline:
            raise UserError(f"{page}: still writing after five minutes; give a smaller model")
        time.sleep(0.1)
    return float(found[1].replace(",", "")), float(first)


if __name__ == "__main__":
    sys.exit(main())
