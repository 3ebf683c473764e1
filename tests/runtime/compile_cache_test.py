"""Compiled programs are kept for this kind of machine, and a damaged one does no lasting harm."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lovecraft_jax.runtime import compile_cache


@pytest.fixture
def write(command: Callable, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Writes with a run as a user does who has set nothing; the log."""
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        monkeypatch.delenv(name)

    def run(**env: str) -> str:
        done = command("sample", f"--workdir={trained}", "--length=5", env={"XDG_CACHE_HOME": str(tmp_path), **env})
        assert done.returncode == 0, done.stderr
        return done.stderr

    return run


def test_programs_are_kept_and_one_that_is_damaged_is_written_again(write: Callable, tmp_path: Path) -> None:
    write()
    folder = tmp_path / "lovecraft_jax" / "programs" / compile_cache.machine()
    programs = {path.name: path.read_bytes() for path in folder.glob("*-cache")}
    assert any(name.startswith("jit__draw-") for name in programs)
    for path in folder.glob("jit__draw-*-cache"):
        path.write_bytes(path.read_bytes()[:1000])
    assert "WARNING: emptied" in write()
    assert {path.name for path in folder.glob("jit__draw-*-cache")} <= programs.keys()
    assert "WARNING" not in write()


def test_who_turns_it_off_or_keeps_their_own_is_left_alone(write: Callable, tmp_path: Path) -> None:
    write(JAX_ENABLE_COMPILATION_CACHE="false")
    write(JAX_COMPILATION_CACHE_DIR=str(tmp_path / "mine"), JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0")
    assert not list((tmp_path / "lovecraft_jax" / "programs").rglob("*-cache"))
    assert list((tmp_path / "mine").glob("*-cache"))


def test_the_machine_has_one_name() -> None:
    assert compile_cache.machine() == compile_cache.machine()
    assert len(compile_cache.machine()) == 16
    assert os.sep not in compile_cache.machine()
