"""The watchdog leaves where it is not fed, and only there."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys, time
from lovecraft_jax.runtime.watchdog import Watchdog
fed, closed = sys.argv[1:] == ["fed"], sys.argv[1:] == ["closed"]
watchdog = Watchdog(1.0, lambda: print("stuck", flush=True), 75)
for _ in range(20 if fed else 0):
    watchdog.feed()
    time.sleep(0.1)
if closed:
    watchdog.close()
if not fed:
    time.sleep(3)
"""


@pytest.mark.parametrize(("what", "code", "told"), [("fed", 0, ""), ("closed", 0, ""), ("hungry", 75, "stuck\n")])
def test_it_leaves_where_it_is_not_fed_and_only_there(what: str, code: int, told: str) -> None:
    line = [sys.executable, "-c", PROGRAM, what]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (code, told), done.stderr
