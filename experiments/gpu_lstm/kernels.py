"""The CUDA kernels as JAX operations: compiled, registered and called, and the LSTM layer around them.

Axes: T time, B batch, HP units padded to a multiple of 32, and the gates i, f, g, o innermost (cuda/config.h).
"""

import ctypes
import os
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lovecraft_jax.model.matmul import dot

SOURCES = Path(__file__).with_name("cuda")
NVCC = ("nvcc", "-O3", "-std=c++17", "-arch=sm_90", "-Xptxas", "-v", "--diag-suppress", "940,2473")
TARGETS = ("lstm_forward", "lstm_backward", "lstm_forward_grid", "lstm_backward_grid")
BF16 = jnp.dtype("bfloat16")

Carry = tuple[jax.Array, jax.Array]
"""(c, h), float32 [B, HP]."""


class Kernels(NamedTuple):
    """Names kernels of cuda/config.h by the CTAs of a cluster or group, and the tiles of 8 rows that these own."""

    ctas: int
    tiles: int
    grid: bool = False


IN_JNP = Kernels(0, 1)
"""The same computation in jnp, to check on a CPU what is around the kernels."""


def build(folder: Path) -> None:
    """Compiles the test binary and the library into `folder`, with a log of registers and spills beside each."""
    folder.mkdir(parents=True, exist_ok=True)
    shared = ("-shared", "-Xcompiler", "-fPIC", f"-I{jax.ffi.include_dir()}")
    for source, output, options in (("test.cu", "test", ()), ("ffi.cu", "liblstm.so", shared)):
        command = [*NVCC, *options, str(SOURCES / source), "-o", str(folder / output)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        (folder / f"{output}.log").write_text(done.stderr)
        if done.returncode:
            raise OSError(f"nvcc cannot compile {SOURCES / source}: {done.stderr[-2000:]}")


def register(folder: Path) -> None:
    """Loads the library that `build` compiled. Raises OSError where the GPU's driver refuses a kernel."""
    library = ctypes.CDLL(os.fspath(folder / "liblstm.so"))
    if failed := library.lstm_prepare():
        raise OSError(f"{failed} kernels cannot be loaded: they need a GPU of compute capability 9.0")
    for name in TARGETS:
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(library, name)), platform="CUDA")


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def lstm_layer(
    kernels: Kernels, kernel_h: jax.Array, bias: jax.Array, gates_x: jax.Array, carry: Carry
) -> tuple[Carry, jax.Array]:
    """Returns the carry after the last time step, and h, bfloat16 [T, B, HP].

    kernel_h [HP, HP, 4] and bias [HP, 4] are float32, gates_x [T, B, HP, 4], the input's part of the gates, bfloat16.
    """
    return _forward(kernels, kernel_h, bias, gates_x, carry)[0]


def _forward(
    kernels: Kernels, kernel_h: jax.Array, bias: jax.Array, gates_x: jax.Array, carry: Carry
) -> tuple[tuple[Carry, jax.Array], tuple]:
    T, B, HP, _ = gates_x.shape
    weights = kernel_h.astype(BF16)
    run = _forward_in_jnp
    if kernels.ctas:
        shapes = [((T, B, HP, 4), "bfloat16"), ((T, B, HP), "float32"), ((T, B, HP), "bfloat16")]
        run = _kernel("lstm_forward", kernels, B, shapes)
    gates, c, h = run(weights, bias, gates_x, *carry)
    return ((c[-1], h[-1].astype(jnp.float32)), h), (weights, carry, gates, c, h)


def _backward(kernels: Kernels, saved: tuple, cotangents: tuple[Carry, jax.Array]) -> tuple:
    weights, (c0, h0), gates, c, h = saved
    (dc_last, dh_last), dh = cotangents
    T, B, HP = c.shape
    run = _backward_in_jnp
    if kernels.ctas:
        run = _kernel("lstm_backward", kernels, B, [((T, B, HP, 4), "bfloat16"), ((B, HP), "float32")])
    dgates, dc0 = run(weights, gates, c, c0, dh, dc_last, dh_last)
    h_before_NH = jnp.concatenate([h0.astype(BF16)[None], h[:-1]]).reshape(-1, HP)
    dgates_NG = dgates.reshape(-1, 4 * HP)
    dkernel = dot(h_before_NH.T, dgates_NG, BF16).reshape(HP, HP, 4)
    dbias = dot(jnp.ones((1, len(dgates_NG))), dgates_NG, BF16).reshape(HP, 4)
    dh0 = dot(dgates_NG[:B], weights.reshape(HP, -1).T, BF16)
    return dkernel, dbias, dgates, (dc0, dh0)


lstm_layer.defvjp(_forward, _backward)


def _kernel(
    target: str, kernels: Kernels, B: int, shapes: list[tuple[tuple[int, ...], str]]
) -> Callable[..., list[jax.Array]]:
    """Returns the call of a kernel; the counters of the groups, its last result, are left out."""
    results = [jax.ShapeDtypeStruct(shape, jnp.dtype(dtype)) for shape, dtype in shapes]
    counters = jax.ShapeDtypeStruct((32 * (B // (8 * kernels.tiles)),), jnp.uint32)
    call = jax.ffi.ffi_call(target + "_grid" * kernels.grid, [*results, counters])
    attributes: dict[str, Any] = {"cluster": np.int32(kernels.ctas), "tiles": np.int32(kernels.tiles)}
    return lambda *arguments: list(call(*arguments, **attributes))[:-1]


def _forward_in_jnp(
    weights: jax.Array, bias: jax.Array, gates_x: jax.Array, c0: jax.Array, h0: jax.Array
) -> list[jax.Array]:
    def step(state: Carry, x: jax.Array) -> tuple[Carry, tuple]:
        c, h = state
        z = jnp.einsum("bk,kug->bug", h, weights, preferred_element_type=jnp.float32)
        z = z + x.astype(jnp.float32) + bias[None]
        i, f, o = (jax.nn.sigmoid(z[..., gate]) for gate in (0, 1, 3))
        g = jnp.tanh(z[..., 2])
        c = f * c + i * g
        h = (o * jnp.tanh(c)).astype(BF16)
        return (c, h), (jnp.stack([i, f, g, o], -1).astype(BF16), c, h)

    return list(lax.scan(step, (c0, h0.astype(BF16)), gates_x)[1])


def _backward_in_jnp(
    weights: jax.Array,
    gates: jax.Array,
    c: jax.Array,
    c0: jax.Array,
    dh: jax.Array,
    dc_last: jax.Array,
    dh_last: jax.Array,
) -> list[jax.Array]:
    def step(state: Carry, at_t: tuple) -> tuple[Carry, jax.Array]:
        dc, recurrent = state
        gates, c, c_before, dh = at_t
        i, f, g, o = (gates[..., gate].astype(jnp.float32) for gate in range(4))
        dh, tanh_c = dh.astype(jnp.float32) + recurrent, jnp.tanh(c)
        dc = dc + dh * o * (1 - tanh_c * tanh_c)
        d_i, d_f, d_g = dc * g * i * (1 - i), dc * c_before * f * (1 - f), dc * i * (1 - g * g)
        dgates = jnp.stack([d_i, d_f, d_g, dh * tanh_c * o * (1 - o)], -1).astype(BF16)
        return (dc * f, jnp.einsum("bug,kug->bk", dgates, weights, preferred_element_type=jnp.float32)), dgates

    c_before = jnp.concatenate([c0[None], c[:-1]])
    (dc0, _), dgates = lax.scan(step, (dc_last, dh_last), (gates, c, c_before, dh), reverse=True)
    return [dgates, dc0]
