"""Compiles and loads the C++ sources in cpp/, for the backend "native" on CPUs.

The first start on a kind of machine compiles them and keeps the library in the user's cache folder, later ones load it
from there. $CXX names the compiler, $CXXFLAGS adds options.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax

from lovecraft_jax.runtime.cache import cache_folder
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
    """Returns the library's file in the cache folder, compiled now if it is missing or damaged. Raises OSError."""
    compiler = os.environ.get("CXX", "").strip() or next(filter(shutil.which, COMPILERS), None)
    if compiler is None:
        raise OSError(f"no C++ compiler ($CXX, {', '.join(COMPILERS)}): apt install g++, or xcode-select --install")
    command = [*compiler.split(), *OPTIONS, *os.environ.get("CXXFLAGS", "").split(), f"-I{jax.ffi.include_dir()}"]
    # Named by all that it depends on, so that a change of any makes a new file.
    sources = (path.read_text() for path in sorted(SOURCES.glob("*.[ch]*")))
    name = _digest("\n".join([*command, jax.__version__, *sources]).encode())
    library = cache_folder() / "native" / machine() / f"{name}.so"
    checksum = library.with_suffix(".sha256")
    if not (library.exists() and checksum.exists() and checksum.read_text() == _digest(library.read_bytes())):
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            new = Path(folder) / library.name
            environment = os.environ | {"LC_ALL": "C"}
            command += [str(SOURCES / "lstm.cc"), "-o", str(new)]
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, errors="replace", check=False
            )
            if done.returncode:
                lines = done.stderr.splitlines() or [f"exit code {done.returncode}"]
                reason = next((line for line in lines if "error" in line), lines[0])
                raise OSError(f"{compiler} cannot compile {SOURCES / 'lstm.cc'} ({reason})")
            checksum.write_text(_digest(new.read_bytes()))
            new.replace(library)  # atomic: other processes may be compiling or loading the same file
    return library


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


if __name__ == "__main__":
    start().result()
