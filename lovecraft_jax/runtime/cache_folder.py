"""The folder for what later starts can use again."""

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pooch

from lovecraft_jax.runtime.console import log


def cache_folder() -> Path:
    """Returns ours in the user's cache folder, which need not be there, nor be writable. A user without a home, as in a
    container that gives him a random id, gets one among the temporary files."""
    try:
        return Path(pooch.os_cache("lovecraft_jax"))
    except RuntimeError:  # neither $HOME nor an entry in the table of users
        folder = Path(tempfile.gettempdir(), f"cache-{os.getuid()}")
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.lstat().st_uid != os.getuid():  # another user's: never, as code is loaded from it
            folder = Path(tempfile.mkdtemp())
        os.environ["XDG_CACHE_HOME"] = str(folder)  # for the next calls, other libraries and child processes
        log(f"WARNING: you have no home folder: caching in {folder}; set HOME or XDG_CACHE_HOME")
        return folder / "lovecraft_jax"


def cached_file(file: Path, make: Callable[[Path], Any]) -> Path:
    """Returns `file`. If it is missing or damaged, `make` first writes it to the path that it is given."""
    checksum = file.with_suffix(".sha256")
    if not (file.exists() and checksum.exists() and checksum.read_text() == digest(file.read_bytes())):
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent) as folder:
            new = Path(folder) / file.name
            make(new)
            checksum.write_text(digest(new.read_bytes()))
            new.replace(file)  # atomic: other processes may be making or loading the same file
    return file


def digest(content: bytes) -> str:
    """Returns the first 16 digits of the SHA-256."""
    return hashlib.sha256(content).hexdigest()[:16]
