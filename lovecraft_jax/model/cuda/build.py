"""Compiles CUDA kernels with NVRTC, which comes with `jax[cuda13]`, so that no CUDA toolkit is needed.

The first start compiles a kernel and keeps it in the user's cache folder, later ones read it from there.
"""

import ctypes
import functools
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lovecraft_jax.runtime.cache_folder import cache_folder, cached_file, digest


class Compiled(NamedTuple):
    """A cubin, and what the compiler says about it."""

    cubin: bytes
    log: str


def compile_kernels(
    source: Path | str,
    *,
    headers: Sequence[Path] = (),
    defines: Mapping[str, int] | None = None,
    capability: str = "90a",
    options: Sequence[str] = (),
) -> bytes:
    """Returns the cubin of the kernels in a CUDA source (a file or the text itself).

    The source can include the `headers` by their file names, and no others: NVRTC has none of the host's or CUDA's.
    `defines` are macros, `capability` is the GPU's compute capability ("90a" also has the instructions that only it
    has), `options` are more of NVRTC's. The cubin is taken from the cache folder if it was compiled before.

    Raises OSError where NVRTC is missing or cannot compile the source.
    """
    program = _Program.of(source, headers, defines or {}, capability, options)
    # Named by all that it depends on, so that a change of any makes a new file.
    version = ".".join(map(str, nvrtc_version()))
    name = digest(repr((version, program)).encode())
    file = cache_folder() / "cuda" / f"{name}.cubin"
    return cached_file(file, lambda new: new.write_bytes(program.compile().cubin)).read_bytes()


def compile_and_report(
    source: Path | str,
    *,
    headers: Sequence[Path] = (),
    defines: Mapping[str, int] | None = None,
    capability: str = "90a",
    options: Sequence[str] = (),
) -> Compiled:
    """Returns the cubin of `compile_kernels`, always compiled anew, and the compiler's log, which has warnings and each
    kernel's registers, spills and static shared memory."""
    options = [*options, "--ptxas-options=-v"]
    return _Program.of(source, headers, defines or {}, capability, options).compile()


@functools.cache
def nvrtc_version() -> tuple[int, int]:
    """Returns NVRTC's version, such as (13, 0). Raises OSError where it is missing."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    _check(_nvrtc().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
    return major.value, minor.value


class _Program(NamedTuple):
    """A source with all that decides what it is compiled to."""

    name: str
    text: str
    headers: tuple[tuple[str, str], ...]
    options: tuple[str, ...]

    @classmethod
    def of(
        cls,
        source: Path | str,
        headers: Sequence[Path],
        defines: Mapping[str, int],
        capability: str,
        options: Sequence[str],
    ) -> "_Program":
        name, text = (source.name, source.read_text()) if isinstance(source, Path) else ("kernels.cu", source)
        macros = (f"-D{name}={value}" for name, value in sorted(defines.items()))
        options = (f"--gpu-architecture=sm_{capability}", "--std=c++17", *macros, *options)
        return cls(name, text, tuple((path.name, path.read_text()) for path in headers), options)

    def compile(self) -> Compiled:
        nvrtc, program, count = _nvrtc(), ctypes.c_void_p(), len(self.headers)
        texts = (ctypes.c_char_p * count)(*(text.encode() for _, text in self.headers))
        names = (ctypes.c_char_p * count)(*(name.encode() for name, _ in self.headers))
        create = nvrtc.nvrtcCreateProgram
        _check(create(ctypes.byref(program), self.text.encode(), self.name.encode(), count, texts, names))
        try:
            options = (ctypes.c_char_p * len(self.options))(*(option.encode() for option in self.options))
            failed = nvrtc.nvrtcCompileProgram(program, len(options), options)
            log = _read(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program).decode(errors="replace")
            if failed:
                raise OSError(f"NVRTC cannot compile {self.name} ({_reason(log) or _message(failed)})")
            return Compiled(_read(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN, program), log.rstrip("\0\n"))
        finally:
            nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


@functools.cache
def _nvrtc() -> Any:
    """Returns the newest NVRTC of the installed packages, else the one that the loader finds. Raises OSError."""
    problems = []
    for file in (*_packaged(), "libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"):
        try:
            library = ctypes.CDLL(file)
        except OSError as error:
            problems.append(str(error))
            continue
        library.nvrtcGetErrorString.restype = ctypes.c_char_p
        return library
    raise OSError(f"no NVRTC ({problems[0]}): pip install 'jax[cuda13]'")


def _packaged() -> list[str]:
    """Returns the NVRTC libraries of NVIDIA's packages (nvidia-cuda-nvrtc, nvidia-cuda-nvrtc-cu12), newest first."""
    package = importlib.util.find_spec("nvidia")
    folders = package.submodule_search_locations if package and package.submodule_search_locations else ()
    found = (file for folder in folders for file in Path(folder).glob("*/lib/libnvrtc.so.*"))
    versions = {str(file): int(file.suffix[1:]) for file in found if file.suffix[1:].isdigit()}
    return sorted(versions, key=lambda file: versions[file], reverse=True)


def _read(size_of: Any, read: Any, program: ctypes.c_void_p) -> bytes:
    """Returns what two functions of NVRTC give, the size and the content."""
    size = ctypes.c_size_t()
    _check(size_of(program, ctypes.byref(size)))
    content = ctypes.create_string_buffer(size.value)
    _check(read(program, content))
    return content.raw


def _check(failed: int) -> None:
    if failed:
        raise OSError(f"NVRTC failed: {_message(failed)}")


def _message(failed: int) -> str:
    return _nvrtc().nvrtcGetErrorString(failed).decode()


def _reason(log: str) -> str:
    """Returns the first line of a log that names an error, "" if there is none."""
    return next((line.strip() for line in log.splitlines() if "error" in line), "")
