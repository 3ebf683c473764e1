"""The fused layer's two loops, its products, and writing, in C++ (cpp/): `model.lstm = "native"`, for CPUs.

Compiled at the first start on a kind of machine and kept in the user's cache folder; $CXX names the compiler, $CXXFLAGS
adds to its options.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pooch
from ml_collections import ConfigDict

from lovecraft_jax.runtime.compile_cache import machine
from lovecraft_jax.runtime.console import say
from lovecraft_jax.runtime.errors import UserError
from lovecraft_jax.settings import BEFORE, IN_CELL

SOURCES = Path(__file__).with_name("cpp")
COMPILERS = ("c++", "g++", "clang++")
NATIVE = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
OPTIONS = ("-O3", NATIVE, "-std=c++17", "-shared", "-fPIC", "-pthread")


def resolve(settings: ConfigDict, platform: str = "") -> str:
    """What `settings.lstm` of config.model stands for on a platform (JAX's default, if none is named): "auto" is the
    `fastest` that there is.

    Raises UserError where "native" is asked for and cannot be had.
    """
    if settings.lstm == "auto":
        return fastest(settings, platform)
    if settings.lstm == "native" and (reason := _unsuited(settings, platform) or _build().result()):
        raise UserError(f"config.model.lstm='native': {reason}; use auto, which then takes the fused layer")
    return settings.lstm


def fastest(settings: ConfigDict, platform: str = "") -> str:
    """ "native" where this machine and these settings allow it, else "fused"; says so where a compiler is missing. What
    is normalised in its cells runs as "scan"."""
    if settings.get("norm", BEFORE["model.norm"]) in IN_CELL:
        return "scan"
    if _unsuited(settings, platform):
        return "fused"
    if reason := _build().result():
        _tell(f"slower than it could be: {reason}")
    return "fused" if reason else "native"


def prepare(settings: ConfigDict) -> None:
    """Begins to compile what `resolve` will ask for, where it is not there yet, while the caller goes on."""
    if settings.lstm in ("auto", "native") and not _unsuited(settings):
        _build()


def under_way() -> bool:
    """Whether the compiler is at work."""
    return bool(_build.cache_info().currsize) and not _build().done()


def _unsuited(settings: ConfigDict, platform: str = "") -> str:
    if (found := platform or jax.default_backend()) != "cpu":
        return f"it runs on CPUs, found {found}"
    if settings.dtype != "float32":
        return f"it computes in float32, dtype={settings.dtype} was asked for"
    return ""


@functools.cache
def _tell(what: str) -> None:
    """Once."""
    say(what)


@functools.cache
def _build() -> Future[str]:
    """The reason why there is no library, or nothing."""
    return ThreadPoolExecutor(1).submit(_try_to_load)


def _try_to_load() -> str:
    try:
        _load()
    except (OSError, AttributeError) as error:  # the second: a library without our functions
        return str(error)
    return ""


@functools.cache
def _load() -> Any:
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


def forward_loop(
    kernel_h_HG: jax.Array, bias_G: jax.Array, gates_x_TBG: jax.Array, carry: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """As the one of fused.py."""
    (T, B, G), H = gates_x_TBG.shape, len(kernel_h_HG)
    call = _call("lstm_forward", [(T, B, G), (T, B, H), (T, B, H)], (G, H), {2: 0})
    gates_TBG, c_TBH, h_TBH = call(kernel_h_HG, bias_G, gates_x_TBG, *carry)
    return gates_TBG, c_TBH, h_TBH


def backward_loop(
    kernel_h_HG: jax.Array,
    first_c_BH: jax.Array,
    gates_TBG: jax.Array,
    c_TBH: jax.Array,
    last_grad: tuple[jax.Array, jax.Array],
    h_grad_TBH: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """As the one of fused.py."""
    (T, B, H), G = h_grad_TBH.shape, kernel_h_HG.shape[1]
    call = _call("lstm_backward", [(T, B, G), (B, H)], (G, H), {3: 0, 4: 1})
    grad_TBG, c_grad_BH = call(kernel_h_HG, first_c_BH, c_TBH, gates_TBG, *last_grad, h_grad_TBH)
    return grad_TBG, c_grad_BH


def product(a_NK: jax.Array, kernel_KC: jax.Array) -> jax.Array:
    """a @ kernel [N, C]."""
    (N, K), C = a_NK.shape, kernel_KC.shape[1]
    (product_NC,) = _call("product", [(N, C)], (K, C))(a_NK, kernel_KC)
    return product_NC


def product_transposed(a_NK: jax.Array, kernel_CK: jax.Array) -> jax.Array:
    """a @ kernel.T [N, C]."""
    (N, K), C = a_NK.shape, len(kernel_CK)
    (product_NC,) = _call("product_transposed", [(N, C)], (K, C))(a_NK, kernel_CK)
    return product_NC


def outer(a_NR: jax.Array, b_NC: jax.Array) -> jax.Array:
    """a_NR.T @ b_NC, the gradient of a kernel from all rows that went through it: [R, C]."""
    (sum_RC,) = _call("outer", [(a_NR.shape[1], b_NC.shape[1])])(a_NR, b_NC)
    return sum_RC


def token(
    ids_S: jax.Array,
    starts: Sequence[jax.Array],
    kernels: Sequence[jax.Array],
    head: tuple[jax.Array, jax.Array],
    carry: Sequence[tuple[jax.Array, jax.Array]],
) -> tuple[tuple[tuple[jax.Array, jax.Array], ...], jax.Array]:
    """As `decode` of decode.py, of packed kernels."""
    operands = [ids_S, *head, *(part for layer in zip(starts, kernels, carry, strict=True) for part in layer)]
    shapes = [(len(ids_S), len(head[1])), *(leaf.shape for leaf in jax.tree.leaves(carry))]
    logits_SV, *after = _call("lstm_token", shapes)(*jax.tree.leaves(operands))
    return tuple(zip(after[::2], after[1::2], strict=True)), logits_SV


def pack_gates(kernel_KG: jax.Array) -> jax.Array:
    """A layer's kernel in the order in which `token` reads it: panels [K, 4, lanes] of the gates of so many units."""
    parts = _vectors(kernel_KG.reshape(len(kernel_KG), 4, -1))
    return parts.transpose(2, 0, 1, 3)


def pack(kernel_KC: jax.Array) -> jax.Array:
    """The head's kernel in that order: panels [K, <= 4, lanes] of its columns, one after the other."""
    parts = _vectors(kernel_KC)
    return jnp.concatenate([parts[:, n : n + 4].ravel() for n in range(0, parts.shape[1], 4)])


def _vectors(x: jax.Array) -> jax.Array:
    """The last axis as [vectors, lanes], with zeros at the end."""
    lanes = _lanes()
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % lanes)])
    return x.reshape(*x.shape[:-1], -1, lanes)


def _call(
    name: str, shapes: list[tuple[int, ...]], packed: tuple[int, int] = (0, 0), in_place: dict[int, int] | None = None
) -> Any:
    """A function of cpp/. Its results are those of `shapes`, some of them in the place of operands, and room to
    pack a kernel of so many rows and columns in, which is left out here."""
    (K, C), lanes = packed, _lanes()
    results = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in [*shapes, (K * -(-C // lanes) * lanes,)]]
    call = jax.ffi.ffi_call(f"lovecraft_{name}", results, vmap_method="sequential", input_output_aliases=in_place)

    def checked(*operands: jax.Array) -> Sequence[jax.Array]:
        assert all(operand.dtype in (jnp.float32, jnp.int32) for operand in operands), "C++ takes the bits as they are"
        return call(*operands)[:-1]

    return checked


def _lanes() -> int:
    """Of the vectors that the library was compiled for."""
    _build().result()
    lanes: int = _load().lanes()
    return lanes


if __name__ == "__main__":
    _build().result()
