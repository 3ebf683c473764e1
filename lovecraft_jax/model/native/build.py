"""Compiles and loads the C++ sources in cpp/: `model.backend = "native"`, for CPUs.

They are compiled at the first start on a kind of machine and kept in the user's cache folder; $CXX names the compiler,
$CXXFLAGS adds to its options.
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
import pooch

from lovecraft_jax.runtime.hardware import machine

SOURCES = Path(__file__).with_name("cpp")
COMPILERS = ("c++", "g++", "clang++")
NATIVE = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
OPTIONS = ("-O3", NATIVE, "-std=c++17", "-shared", "-fPIC", "-pthread")


@functools.cache
def start() -> Future[str]:
    """Starts compiling the library in a thread, once. The result is why it cannot be had, "" where it can."""
    return ThreadPoolExecutor(1).submit(_try_to_load)


def _try_to_load() -> str:
    try:
        load()
    except (OSError, AttributeError) as error:  # the second: a library without our functions
        return str(error)
    return ""


def under_way() -> bool:
    """Whether the compiler is at work."""
    return bool(start.cache_info().currsize) and not start().done()


@functools.cache
def load() -> Any:
    """The compiled library, known to XLA. Raises OSError, or AttributeError where it lacks one of our functions."""
    library = ctypes.CDLL(str(_compiled()))
    for name in ("lstm_forward", "lstm_backward", "lstm_token", "product", "product_transposed", "outer"):
        jax.ffi.register_ffi_target(f"lovecraft_{name}", jax.ffi.pycapsule(getattr(library, name)), platform="cpu")
    return library


def _compiled() -> Path:
    """The library's file, made where it is not there yet or not whole. Raises OSError."""
    compiler = os.environ.get("CXX", "").strip() or next(filter(shutil.which, COMPILERS), None)
    if compiler is None:
        raise OSError(f"no C++ compiler ($CXX, {', '.join(COMPILERS)}): apt install g++, or xcode-select --install")
    more = os.environ.get("CXXFLAGS", "").split()
    command = [*compiler.split(), *OPTIONS, *more, f"-I{jax.ffi.include_dir()}"]
    made_of = "\n".join([*command, jax.__version__, *(path.read_text() for path in sorted(SOURCES.glob("*.[ch]*")))])
    library = Path(pooch.os_cache("lovecraft_jax")) / "native" / machine() / f"{_digest(made_of.encode())}.so"
    checksum = library.with_suffix(".sha256")
    if not (library.exists() and checksum.exists() and checksum.read_text() == _digest(library.read_bytes())):
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            made = Path(folder) / library.name
            line, environment = [*command, str(SOURCES / "lstm.cc"), "-o", str(made)], os.environ | {"LC_ALL": "C"}
            done = subprocess.run(line, env=environment, capture_output=True, text=True, errors="replace", check=False)
            if done.returncode:
                lines = done.stderr.splitlines() or [f"exit code {done.returncode}"]
                said = next((line for line in lines if "error" in line), lines[0])
                raise OSError(f"{compiler} cannot compile {SOURCES / 'lstm.cc'} ({said})")
            checksum.write_text(_digest(made.read_bytes()))
            made.replace(library)  # whole or not at all, whoever else does the same
    return library


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


if __name__ == "__main__":
    start().result()
