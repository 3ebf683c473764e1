"""JAX's cache of compiled programs in the user's cache folder, in a subfolder for each kind of machine."""

import shutil
import warnings
from pathlib import Path
from typing import Any

import jax
import pooch

from lovecraft_jax.runtime.console import log
from lovecraft_jax.runtime.hardware import machine


def enable_compile_cache() -> None:
    """Turns JAX's compile cache on, unless the user has chosen a folder (JAX_COMPILATION_CACHE_DIR) or turned it off
    (JAX_ENABLE_COMPILATION_CACHE=false)."""
    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    folder = Path(pooch.os_cache("lovecraft_jax")) / "programs" / machine()
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    _handle_cache_warnings(folder)


def _handle_cache_warnings(folder: Path) -> None:
    """Empties the folder when JAX warns of a damaged entry, such as one that a killed process left half written: JAX
    never rewrites it. Where there is no folder, logs one line instead of JAX's warning for each program."""
    show_other, logged = warnings.showwarning, False

    def show(message: Any, *rest: Any, **more: Any) -> None:
        nonlocal logged
        if "Error reading persistent compilation cache entry" in str(message) and folder.is_dir():
            shutil.rmtree(folder, ignore_errors=True)
            log(f"WARNING: emptied {folder}: a compiled program in it was damaged")
        elif "persistent compilation cache entry" in str(message) and not folder.is_dir():
            if not logged:
                log(f"WARNING: compiled programs cannot be kept in {folder}: there is no such folder")
            logged = True
        else:
            show_other(message, *rest, **more)

    warnings.showwarning = show
