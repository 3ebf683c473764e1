"""The cache of compiled programs, one for each kind of machine, and what happens to damaged entries."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lovecraft_jax.runtime import compile_cache
from tests.conftest import ROOT, Command

pytestmark = pytest.mark.slow

UNSET = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
PROGRAM = """
import jax
from lovecraft_jax.runtime.compile_cache import enable_compile_cache
enable_compile_cache()
jax.jit(lambda x: x + 1)(1.0)
"""


def compile_errors(**more: str) -> str:
    """Compiles a program in another process, with no setting of the cache but these; returns its standard error."""
    environment = {key: value for key, value in os.environ.items() if key not in UNSET} | more
    line = [sys.executable, "-c", PROGRAM]
    return subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stderr


def test_programs_are_kept_and_a_damaged_cache_is_emptied_and_filled_again(tmp_path: Path) -> None:
    own = {"XDG_CACHE_HOME": str(tmp_path)}
    assert compile_errors(**own) == ""
    folder = tmp_path / "lovecraft_jax" / "programs" / compile_cache.machine()
    programs = list(folder.glob("*-cache"))
    assert programs
    for path in programs:
        path.write_bytes(path.read_bytes()[:1000])
    assert "WARNING: emptied" in compile_errors(**own)
    compile_errors(**own)  # compiles again what was read before the damage was seen
    assert compile_errors(**own) == ""
    assert list(folder.glob("*-cache"))


def test_the_folder_of_the_user_is_kept(tmp_path: Path) -> None:
    mine = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "mine"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    compile_errors(XDG_CACHE_HOME=str(tmp_path), **mine)
    assert list((tmp_path / "mine").glob("*-cache"))
    assert not (tmp_path / "lovecraft_jax").exists()


def test_commands_report_once_a_folder_that_cannot_be_made(
    command: Command, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in UNSET:
        monkeypatch.delenv(name)
    done = command("sample", f"--workdir={trained}", "--length=5", env={"XDG_CACHE_HOME": "/dev/null"})
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("compiled programs cannot be kept in ") == 1
