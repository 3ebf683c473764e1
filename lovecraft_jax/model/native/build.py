"""Compiles and loads the C++ sources in cpp/, for the backend "native" on CPUs.

The first start on a kind of machine compiles them and keeps the library in the user's cache folder, later ones load it
from there. $CXX names the compiler, $CXXFLAGS adds options.
"""

import ctypes
import functools
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax

from lovecraft_jax.runtime.cache_folder import cache_folder, cached_file, digest
from lovecraft_jax.runtime.hardware import machine

SOURCES = Path(__file__).with_name("cpp")
COMPILERS = ("c++", "g++", "clang++")
THIS_CPU = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
OPTIONS = ("-O3", THIS_CPU, "-std=c++17", "-shared", "-fPIC", "-pthread")
FUNCTIONS = (
    "lstm_forward",
    "lstm_backward",
    "lstm_variant_forward",
    "lstm_variant_backward",
    "lstm_token",
    "matmul",
    "matmul_nt",
    "matmul_tn",
)


@functools.cache
def start() -> Future[str]:
    """Starts a thread that compiles and loads the library, once per process. Its result is "", or why that failed."""
    return ThreadPoolExecutor(1).submit(_try_to_load)


def _try_to_load() -> str:
    try:
        load()
    except (OSError, AttributeError) as error:
        return str(error)
    return ""


def under_way() -> bool:
    """Whether the thread of `start` is still at work."""
    return bool(start.cache_info().currsize) and not start().done()


@functools.cache
def load() -> Any:
    """Returns the library, its functions registered as "lovecraft_<name>" for XLA. Raises OSError where it cannot be
    compiled or loaded, AttributeError where it lacks one of the functions."""
    library = ctypes.CDLL(str(_compile_once()))
    for name in FUNCTIONS:
        jax.ffi.register_ffi_target(f"lovecraft_{name}", jax.ffi.pycapsule(getattr(library, name)), platform="cpu")
    return library


def _compile_once() -> Path:
    """Returns the library's file in the cache folder. Raises OSError."""
    return compile_library(SOURCES / "lstm.cc", "native")


def compile_library(source: Path, kind: str, includes: Sequence[Path] = ()) -> Path:
    """Returns the shared library of a C++ source, in the folder `kind` of the cache folder, compiled now if it is
    missing or damaged.

    The source may include XLA's headers, those beside it, and those in `includes`. Raises OSError where there is no
    compiler or the compiler fails.
    """
    compiler = os.environ.get("CXX", "").strip() or next(filter(shutil.which, COMPILERS), None)
    if compiler is None:
        raise OSError(f"no C++ compiler ($CXX, {', '.join(COMPILERS)}): apt install g++, or xcode-select --install")
    folders = [jax.ffi.include_dir(), *map(str, includes)]
    command = [*compiler.split(), *OPTIONS, *os.environ.get("CXXFLAGS", "").split(), *(f"-I{path}" for path in folders)]
    # Named by all that it depends on, so that a change of any makes a new file.
    files = (path for folder in (source.parent, *includes) for path in sorted(folder.glob("*.[ch]*")))
    name = digest("\n".join([*command, jax.__version__, source.name, *(path.read_text() for path in files)]).encode())

    def compile_into(library: Path) -> None:
        environment = os.environ | {"LC_ALL": "C"}
        line = [*command, str(source), "-o", str(library)]
        done = subprocess.run(line, env=environment, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode:
            lines = done.stderr.splitlines() or [f"exit code {done.returncode}"]
            reason = next((line for line in lines if "error" in line), lines[0])
            raise OSError(f"{compiler} cannot compile {source} ({reason})")

    return cached_file(cache_folder() / kind / machine() / f"{name}.so", compile_into)


if __name__ == "__main__":
    start().result()
