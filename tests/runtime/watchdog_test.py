"""The watchdog ends a process that makes no progress, and only such a one."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys, time
from lovecraft_jax.runtime.watchdog import Watchdog

def place_where_it_hangs():
    time.sleep(2)

watchdog = Watchdog(0.5, lambda: print("hangs, and what to do", file=sys.stderr, flush=True), 75)
for _ in range(10):
    watchdog.feed()
    time.sleep(0.1)
if sys.argv[1:] == ["closed"]:
    watchdog.close()
place_where_it_hangs()
"""


@pytest.mark.slow
@pytest.mark.parametrize("case", ["closed", "hungry"])
def test_a_process_that_neither_feeds_nor_closes_it_exits_with_its_stacks_and_the_explanation_last(case: str) -> None:
    line = [sys.executable, "-c", PROGRAM, case]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    if case == "closed":
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        return
    assert done.returncode == 75, done.stderr
    lines = done.stderr.splitlines()
    assert lines[0].startswith("no progress for 0.5 s; where each thread of process ")
    assert any("in place_where_it_hangs" in line for line in lines[1:-1])
    assert lines[-1] == "hangs, and what to do"
