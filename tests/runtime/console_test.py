"""What users see: nothing that a text or a name holds commands their terminal, is markup, or makes a second line."""

import io
import sys
from contextlib import ExitStack

import pytest

from lovecraft_jax.runtime.console import log, show, visible
from lovecraft_jax.training.display import Display
from lovecraft_jax.training.progress import Progress

HOSTILE = "a:x: [red]b[/red] \x1b[31m\x07\u202e\x85\udce9\r\nc"
SHOWN = r"a:x: [red]b[/red] \x1b[31m\x07\u202e\x85\udce9\r"


@pytest.mark.parametrize(
    "plain", ["tab\tand\nline", "e\u0301 \u200f\u05d0 \u00a0\u200d", "나는 私 \U0001f419", r"C:\x1b", ""]
)
def test_ordinary_text_is_shown_as_it_is(plain: str) -> None:
    assert visible(plain) == plain


def test_a_log_line_is_one_line_whatever_it_holds(capsys: pytest.CaptureFixture) -> None:
    log(HOSTILE, "the next")
    display = Display(0, 10, Progress.of(1, 1, {"characters": {"train": 1}, "tokens": {"train": 1}}), ExitStack())
    display.log(HOSTILE)
    assert capsys.readouterr().err == f"{SHOWN}\\nc\nthe next\n{SHOWN}\\nc\n"


@pytest.mark.parametrize(("terminal", "expected"), [(True, f"{SHOWN}\nc"), (False, HOSTILE)])
def test_a_result_is_exact_unless_a_terminal_shows_it(
    terminal: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    assert show(HOSTILE) == expected
