"""The folder for what later starts can use again."""

import os
import tempfile
from pathlib import Path

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
