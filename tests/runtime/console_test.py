"""What users see: nothing that a text or a name holds commands their terminal, is markup, or makes a second line."""

import io
import os
import subprocess
import sys
from contextlib import ExitStack

import pytest

from lovecraft_jax.runtime.console import log, printable, visible
from lovecraft_jax.training.display import Display
from lovecraft_jax.training.progress import Progress
from tests.conftest import ROOT

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


@pytest.mark.parametrize(("terminal", "expected"), [(True, f"{SHOWN}\nc"), (False, HOSTILE.replace("\udce9", "?"))])
def test_a_result_is_exact_unless_a_terminal_shows_it(
    terminal: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    assert printable(HOSTILE) == expected


PROGRAM = """
from lovecraft_jax.runtime.console import log, prepare_streams, printable
prepare_streams()
log("at work")
print(printable("дом"))
print(printable("a я"), flush=True)
"""


def run(redirections: str, encoding: str) -> subprocess.CompletedProcess[bytes]:
    line = ["sh", "-c", f'exec "$0" -c "$1" {redirections}', sys.executable, PROGRAM]
    env = os.environ | {"PYTHONIOENCODING": encoding}
    return subprocess.run(line, cwd=ROOT, env=env, capture_output=True, check=False)


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
def test_what_an_encoding_lacks_is_replaced_and_reported_once(encoding: str) -> None:
    done = run("", encoding)
    assert done.stdout.decode() == ("дом\na я\n" if encoding == "utf-8" else "???\na ?\n")
    assert done.returncode == 0
    assert done.stderr.count(b"PYTHONIOENCODING") == (encoding != "utf-8")


@pytest.mark.parametrize("redirections", ["2> /dev/full", "2>&-"])
def test_a_standard_error_that_cannot_be_written_ends_nothing(redirections: str) -> None:
    done = run(redirections, "utf-8")
    assert (done.returncode, done.stderr, done.stdout) == (0, b"", "дом\na я\n".encode())


def test_a_standard_output_that_cannot_be_written_raises() -> None:
    assert b"OSError" in run("> /dev/full", "utf-8").stderr
