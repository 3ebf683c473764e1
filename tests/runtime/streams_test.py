"""The standard streams of a command: characters that cannot be shown, full disks, a closed terminal."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

PROGRAM = """
import sys
from lovecraft_jax.runtime.streams import log, prepare_streams
prepare_streams()
log("at work")
print("дом")
print("a", "я", "b\\udce9", flush=True)
"""


def run(redirections: str, encoding: str) -> subprocess.CompletedProcess[bytes]:
    line = ["sh", "-c", f'exec "$0" -c "$1" {redirections}', sys.executable, PROGRAM]
    return subprocess.run(
        line, cwd=ROOT, env=os.environ | {"PYTHONIOENCODING": encoding}, capture_output=True, check=False
    )


@pytest.mark.parametrize(
    ("encoding", "output"), [("utf-8", "дом\na я b\udce9\n"), ("latin-1", "???\na ? b\udce9\n"), ("ascii", None)]
)
def test_what_an_encoding_lacks_is_replaced_and_reported_once(encoding: str, output: str | None) -> None:
    done = run("", encoding)
    assert done.stdout.decode("utf-8", "surrogateescape") == (output or "???\na ? b\udce9\n")
    assert done.returncode == 0
    assert done.stderr.count(b"PYTHONIOENCODING") == (encoding != "utf-8")


@pytest.mark.parametrize("redirections", ["2> /dev/full", "2>&-"])
def test_a_standard_error_that_cannot_be_written_ends_nothing(redirections: str) -> None:
    done = run(redirections, "utf-8")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith("дом\n".encode())


def test_a_standard_output_that_cannot_be_written_raises() -> None:
    assert b"OSError" in run("> /dev/full", "utf-8").stderr
