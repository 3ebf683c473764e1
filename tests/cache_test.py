"""Compiled programs are kept for this kind of machine, and a damaged one does no lasting harm."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lovecraft_jax import cache

FLAGS = "--config=configs/tiny.py", "--config.train.stop_at_step=5"


@pytest.fixture
def start(command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Starts a run of five steps as a user does who has set nothing, each in a folder of its own; its log."""
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        monkeypatch.delenv(name)

    def run(name: str, **env: str) -> str:
        done = command("train", *FLAGS, f"--workdir={tmp_path / name}", env={"XDG_CACHE_HOME": str(tmp_path), **env})
        assert done.returncode == 0, done.stderr
        return done.stderr

    return run


def test_programs_are_kept_and_one_that_is_damaged_is_written_again(start: Callable, tmp_path: Path) -> None:
    start("first")
    folder = tmp_path / "lovecraft_jax" / "programs" / cache.machine()
    programs = {path.name: path.read_bytes() for path in folder.glob("*-cache")}
    assert any(name.startswith("jit_train_steps-") for name in programs)
    for path in folder.glob("jit_train_steps-*-cache"):
        path.write_bytes(path.read_bytes()[:1000])
    assert "WARNING: emptied" in start("second")
    assert {path.name for path in folder.glob("jit_train_steps-*-cache")} <= programs.keys()
    assert "WARNING" not in start("third")


def test_who_turns_it_off_or_keeps_their_own_is_left_alone(start: Callable, tmp_path: Path) -> None:
    start("off", JAX_ENABLE_COMPILATION_CACHE="false")
    start("own", JAX_COMPILATION_CACHE_DIR=str(tmp_path / "mine"))
    assert not list((tmp_path / "lovecraft_jax" / "programs").rglob("*-cache"))
    assert list((tmp_path / "mine").glob("*-cache"))


def test_the_machine_has_one_name() -> None:
    assert cache.machine() == cache.machine()
    assert len(cache.machine()) == 16
    assert os.sep not in cache.machine()
