"""Compiled programs kept between starts, in the user's cache folder, each kind of machine in a folder of its own."""

import shutil
import warnings
from pathlib import Path
from typing import Any

import jax
import pooch

from lovecraft_jax.runtime.console import log
from lovecraft_jax.runtime.hardware import machine

DAMAGED = "Error reading persistent compilation cache entry"


def enable_compile_cache() -> None:
    """Turns JAX's compile cache on, unless the user has chosen a folder (JAX_COMPILATION_CACHE_DIR) or turned it off
    (JAX_ENABLE_COMPILATION_CACHE=false)."""
    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    folder = Path(pooch.os_cache("lovecraft_jax")) / "programs" / machine()
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    _empty_when_damaged(folder)


def _empty_when_damaged(folder: Path) -> None:
    """JAX warns of an entry that a kill left half written at every start, and never writes it again. Where the folder
    cannot be made, or somebody deleted it, it warns of every program; once is enough."""
    show, told = warnings.showwarning, set[Path]()

    def show_or_mend(message: Any, *rest: Any, **more: Any) -> None:
        if DAMAGED in str(message) and folder.is_dir():
            shutil.rmtree(folder, ignore_errors=True)
            log(f"WARNING: emptied {folder}: a compiled program in it was damaged")
        elif "persistent compilation cache entry" in str(message) and not folder.is_dir():
            if folder not in told:
                log(f"WARNING: compiled programs cannot be kept in {folder}: there is no such folder")
            told.add(folder)
        else:
            show(message, *rest, **more)

    warnings.showwarning = show_or_mend
