"""JAX's cache of compiled programs in the user's cache folder, in a subfolder for each kind of machine."""

import shutil
import warnings
from typing import Any

import jax

from lovecraft_jax.runtime.cache_folder import cache_folder
from lovecraft_jax.runtime.console import log, log_once
from lovecraft_jax.runtime.hardware import machine


def enable_compile_cache() -> None:
    """Turns JAX's compile cache on, unless the user has chosen a folder (JAX_COMPILATION_CACHE_DIR) or none."""
    folder = jax.config.values["jax_compilation_cache_dir"]
    if is_ours := folder is None:
        folder = str(cache_folder() / "programs" / machine())
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    _handle_cache_warnings(folder, is_ours)


def _handle_cache_warnings(folder: str, is_ours: bool) -> None:
    """Empties a folder of ours when JAX warns of a damaged entry, such as one that a killed process left half written:
    JAX never rewrites it. Logs one line instead of JAX's warning for each program that cannot be read or kept."""
    show_other = warnings.showwarning

    def show(message: Any, *rest: Any, **more: Any) -> None:
        what, _, why = str(message).partition(" persistent compilation cache entry for ")
        if not why:
            show_other(message, *rest, **more)
        elif is_ours and what == "Error reading" and "[Errno" not in why:
            shutil.rmtree(folder, ignore_errors=True)
            log(f"WARNING: emptied {folder}: a compiled program in it was damaged")
        else:
            why = why.partition(": ")[2].partition(": '")[0]  # without the names of program and file
            log_once(f"WARNING: compiled programs cannot be kept in {folder} ({why})")

    warnings.showwarning = show
