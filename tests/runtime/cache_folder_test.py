"""The cache folder of a user without a home."""

import os
import tempfile
from pathlib import Path

import pooch
import pytest

from lovecraft_jax.runtime.cache_folder import cache_folder


def test_without_a_home_it_is_a_private_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "lovecraft_jax"

    def no_home(project: str) -> Path:
        raise RuntimeError

    monkeypatch.setattr(pooch, "os_cache", no_home)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert cache_folder().parent.stat().st_mode & 0o777 == 0o700
    assert os.environ["XDG_CACHE_HOME"] == str(cache_folder().parent)
    planted = cache_folder().parent
    planted.rmdir()
    planted.symlink_to("/proc")
    os.lchown(planted, 12345, 12345)
    assert cache_folder().parent.parent == tmp_path
    assert cache_folder().parent != planted
