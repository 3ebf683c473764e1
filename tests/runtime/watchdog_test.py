"""The watchdog ends a process that makes no progress, and only such a one."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys, time
from lovecraft_jax.runtime.watchdog import Watchdog
fed, closed = sys.argv[1:] == ["fed"], sys.argv[1:] == ["closed"]
watchdog = Watchdog(1.0, lambda: print("hangs, and what to do", file=sys.stderr, flush=True), 75)
for _ in range(20 if fed else 0):
    watchdog.feed()
    time.sleep(0.1)
if closed:
    watchdog.close()

def place_where_it_hangs():
    time.sleep(3)

if not fed:
    place_where_it_hangs()
"""


@pytest.mark.slow
@pytest.mark.parametrize("case", ["fed", "closed"])
def test_a_process_that_feeds_or_closes_it_goes_on(case: str) -> None:
    done = _run(case)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.slow
def test_a_process_that_hangs_exits_with_its_stacks_and_the_explanation_last() -> None:
    done = _run("hungry")
    assert done.returncode == 75, done.stderr
    lines = done.stderr.splitlines()
    assert lines[0].startswith("no progress for 1.0 s; where each thread of process ")
    assert any("in place_where_it_hangs" in line for line in lines[1:-1])
    assert lines[-1] == "hangs, and what to do"


def _run(case: str) -> subprocess.CompletedProcess:
    line = [sys.executable, "-c", PROGRAM, case]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
