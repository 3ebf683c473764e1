"""The folder in which this package keeps what later starts can use again."""

import functools
import os
import tempfile
from pathlib import Path

import pooch

from lovecraft_jax.runtime.console import log


def cache_folder() -> Path:
    """Returns lovecraft_jax in the user's cache folder, which may not be there yet and need not be writable. A user
    without a home, as in a container with a random user id, gets a folder of his own among the temporary files."""
    try:
        return Path(pooch.os_cache("lovecraft_jax"))
    except RuntimeError:  # neither $HOME nor an entry in the table of users
        return _temporary_folder()


@functools.cache
def _temporary_folder() -> Path:
    user = getattr(os, "getuid", lambda: 0)()
    folder = Path(tempfile.gettempdir()) / f"lovecraft_jax-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != user:  # code is loaded from here: nobody else may have made it
        folder = Path(tempfile.mkdtemp())
    log(f"WARNING: no home folder: {folder} keeps what later starts can use again; set HOME or XDG_CACHE_HOME")
    return folder
