"""The cache of compiled programs, one for each kind of machine, and what happens to damaged entries."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lovecraft_jax.runtime import compile_cache


@pytest.fixture
def sample(command: Callable, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Runs the sample command with no setting of the cache other than `env`; returns its standard error."""
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        monkeypatch.delenv(name)

    def run(**env: str) -> str:
        done = command("sample", f"--workdir={trained}", "--length=5", env={"XDG_CACHE_HOME": str(tmp_path), **env})
        assert done.returncode == 0, done.stderr
        return done.stderr

    return run


@pytest.mark.slow
def test_programs_are_kept_and_a_damaged_cache_is_emptied_and_filled_again(sample: Callable, tmp_path: Path) -> None:
    sample()
    folder = tmp_path / "lovecraft_jax" / "programs" / compile_cache.machine()
    programs = list(folder.glob("*-cache"))
    assert programs
    for path in programs:
        path.write_bytes(path.read_bytes()[:1000])
    assert "WARNING: emptied" in sample()
    sample()  # compiles again what was read before the damage was seen
    assert "WARNING" not in sample()
    assert list(folder.glob("*-cache"))


@pytest.mark.slow
def test_a_folder_that_cannot_be_made_is_reported_once(sample: Callable) -> None:
    assert sample(XDG_CACHE_HOME="/dev/null").count("compiled programs cannot be kept in ") == 1


@pytest.mark.slow
def test_the_folder_of_the_user_is_kept(sample: Callable, tmp_path: Path) -> None:
    sample(JAX_COMPILATION_CACHE_DIR=str(tmp_path / "mine"), JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0")
    assert not list((tmp_path / "lovecraft_jax" / "programs").rglob("*-cache"))
    assert list((tmp_path / "mine").glob("*-cache"))
