"""Lets the processes of a test run share its compiled programs, where child processes find this by PYTHONPATH.

JAX writes those of process 0 alone, for the sake of stores that all share. On CPUs the others' have names of their own:
they would be compiled again at each start, for seconds. And it writes them so that others could read a half.
"""

import importlib.util
import os
import sys
import threading
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

CACHE = "jax._src.lru_cache"


def write_whole_programs(cache: ModuleType) -> None:
    """Makes JAX's module of cached programs write each under another name first."""
    put = cache.LRUCache.put

    def put_whole(self: Any, key: str, value: bytes) -> None:
        file = Path(self.path) / f"{key}-cache"
        if self.eviction_enabled or file.exists():
            return put(self, key, value)
        part = file.with_name(f"{os.getpid()}-{threading.get_ident()}.partial")
        part.write_bytes(value)
        part.replace(file)
        return None

    cache.LRUCache.put = put_whole


class _AfterImport(MetaPathFinder):
    """Waits for the import of that module: most processes import no jax, or do so after the variables were checked."""

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> Any:
        if fullname != CACHE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        load = spec.loader.exec_module
        spec.loader.exec_module = lambda module: (load(module), write_whole_programs(module))
        return spec


if __name__ == "sitecustomize":
    sys.meta_path.insert(0, _AfterImport())

if any(argument.startswith("--process_id=") for argument in sys.orig_argv):
    from jax._src import compiler

    compiler.distributed = SimpleNamespace(global_state=SimpleNamespace(process_id=0, client=None))
