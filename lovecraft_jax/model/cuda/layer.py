"""The LSTM layer on CUDA kernels (kernels/lstm.cu). A launch does all time steps and keeps the recurrent matrix on the
chip (Diamos et al. 2016, Persistent RNNs). XLA does what needs no recurrence: the input's part of the gates, and the
gradients of weights, bias and scale.

Matmuls take bfloat16 operands and add up in float32; c, sums and the gradients of parameters are float32. The kernels
take units padded with zeros, and the gates of a unit side by side: `to_kernel_layout`. Axes: T time, B batch, D
features, H units, G gates as the parameters have them, P padded units, N the four gates i, f, g, o.
"""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from lovecraft_jax.model.cuda import build, in_jnp
from lovecraft_jax.model.cuda.launch import Launch, launch, register, why_not
from lovecraft_jax.model.cuda.sizes import GROUP_BLOCKS, Pass, Sizes
from lovecraft_jax.model.dropout import drop
from lovecraft_jax.model.lstm_fused import LoopParams, LSTMCarry
from lovecraft_jax.model.matmul import dot

BF16 = jnp.dtype("bfloat16")
SOURCE = Path(__file__).with_name("kernels") / "lstm.cu"
HEADERS = tuple(sorted(SOURCE.parent.glob("*.*h")))
GATES = 4


class KernelParams(NamedTuple):
    """The parameters of the recurrence in the kernels' layout: `scale_PN` is empty without a norm, `mask_BP` without
    dropout of h."""

    kernel_h_PPN: jax.Array
    bias_PN: jax.Array
    scale_PN: jax.Array
    mask_BP: jax.Array


def to_kernel_layout(x: jax.Array, sizes: Sizes) -> jax.Array:
    """[..., G], gate after gate, as [..., P, N], unit after unit; padding and a missing gate i are zeros."""
    x = x.reshape(*x.shape[:-1], -1, sizes.form.units)
    padding = [(0, 0)] * (x.ndim - 2) + [(GATES - x.shape[-2], 0), (0, sizes.padded - sizes.form.units)]
    return jnp.pad(x, padding).swapaxes(-1, -2)


def run_lstm(
    params: LoopParams, gates_x_TBPN: jax.Array, carry: LSTMCarry, sizes: Sizes
) -> tuple[LSTMCarry, jax.Array]:
    """The carry after the last time step, and h [T, B, H], rounded to bfloat16. `gates_x_TBPN`, the input's part of the
    gates, is in the kernels' layout; parameters and carry are as everywhere else."""
    units, padding = sizes.form.units, sizes.padded - sizes.form.units
    kernel_h_HPN = to_kernel_layout(params.kernel_h_HG, sizes)
    mask = params.recurrent_BH
    in_layout = KernelParams(
        jnp.pad(kernel_h_HPN, ((0, padding), (0, 0), (0, 0))),
        to_kernel_layout(params.bias_G, sizes),
        jnp.zeros(0) if params.scale_G is None else to_kernel_layout(params.scale_G, sizes),
        jnp.zeros(0) if mask is None else jnp.pad(mask, ((0, 0), (0, padding))),
    )
    padded = jax.tree.map(lambda x_BH: jnp.pad(x_BH, ((0, 0), (0, padding))), carry)
    (c_BP, h_BP), h_TBP = _lstm(sizes, in_layout, gates_x_TBPN.astype(BF16), padded)
    return (c_BP[:, :units], h_BP[:, :units]), h_TBP[..., :units].astype(jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _lstm(sizes: Sizes, params: KernelParams, gates_x_TBPN: jax.Array, carry: LSTMCarry) -> tuple[LSTMCarry, jax.Array]:
    return _forward(sizes, params, gates_x_TBPN, carry)[0]


def _forward(
    sizes: Sizes, params: KernelParams, gates_x_TBPN: jax.Array, carry: LSTMCarry
) -> tuple[tuple[LSTMCarry, jax.Array], tuple]:
    T, B, P, N = gates_x_TBPN.shape
    weights_PPN = params.kernel_h_PPN.astype(BF16)
    shapes: list[tuple[tuple[int, ...], Any]] = [((T, B, P, N), BF16), ((T, B, P), jnp.float32), ((T, B, P), BF16)]
    shapes.append(((T, B, P) if sizes.form.mask else (0,), BF16))
    shapes.append(((T, B, N) if sizes.sums else (0,), jnp.float32))
    operands = weights_PPN, params.scale_PN, params.bias_PN, params.mask_BP, gates_x_TBPN, *carry
    gates, c, h, state, inverse = _run(sizes, "lstm_forward", sizes.forward, shapes, T, B, *operands)
    saved = params, weights_PPN, carry, (gates, c, h, state, inverse)
    return ((c[-1], h[-1].astype(jnp.float32)), h), saved


def _backward(sizes: Sizes, saved: tuple, cotangents: tuple[LSTMCarry, jax.Array]) -> tuple:
    params, weights_PPN, (c0, h0), (gates, c, h, state, inverse) = saved
    (dc_last, dh_last), dh = cotangents
    T, B, P, N = gates.shape
    shapes: list[tuple[tuple[int, ...], Any]] = [((T, B, P, N), BF16)]
    shapes += [((T, B, P, N) if sizes.sums else (0,), BF16), ((B, P), jnp.float32)]
    operands = weights_PPN, params.scale_PN, params.bias_PN, params.mask_BP, gates, inverse, c, c0, dh, dc_last, dh_last
    dgates, dy, dc0 = _run(sizes, "lstm_backward", sizes.backward, shapes, T, B, *operands)
    mask_BP = params.mask_BP if sizes.form.mask else None
    states = state if sizes.form.mask else h
    before_NP = jnp.concatenate([drop(h0, mask_BP).astype(BF16)[None], states[:-1]]).reshape(T * B, P)
    dgates_NG = dgates.reshape(T * B, P * N)
    dkernel_PPN = dot(before_NP.T, dgates_NG, BF16).reshape(P, P, N)
    dh0 = drop(dot(dgates_NG[:B], weights_PPN.reshape(P, P * N).T, BF16), mask_BP)
    dbias_PN, dscale_PN = jnp.sum(dgates.astype(jnp.float32), axis=(0, 1)), jnp.zeros(0)
    if sizes.sums:
        wide_TBPN = dy.astype(jnp.float32)
        dbias_PN = jnp.sum(wide_TBPN, axis=(0, 1))
        dscale_PN = jnp.sum(wide_TBPN * gates.astype(jnp.float32), axis=(0, 1))
    grads = KernelParams(dkernel_PPN, dbias_PN, dscale_PN, jnp.zeros_like(params.mask_BP))
    return grads, dgates, (dc0, dh0)


_lstm.defvjp(_forward, _backward)


def _run(
    sizes: Sizes,
    kernel: str,
    one: Pass,
    shapes: list[tuple[tuple[int, ...], Any]],
    T: int,
    B: int,
    *operands: jax.Array,
) -> list[jax.Array]:
    """A kernel's results, computed in jnp on all devices but NVIDIA's GPUs."""
    groups = B // sizes.rows
    scratch = jax.ShapeDtypeStruct((groups, sizes.scratch) if sizes.grid else (0,), jnp.uint32)
    results = [*(jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in shapes), scratch]
    blocks_at_once = GROUP_BLOCKS // sizes.ctas * sizes.ctas if sizes.grid else 0
    what = Launch(
        key=compiled_key(sizes),
        kernel=kernel,
        grid=groups * sizes.ctas,
        threads=one.threads,
        shared=one.shared,
        cluster=1 if sizes.grid else sizes.ctas,
        cooperative=sizes.grid,
        blocks_at_once=blocks_at_once,
        clear_last=sizes.grid,
    )
    return lax.platform_dependent(
        *operands,
        cuda=lambda *operands: launch(what, results, operands, T, B)[:-1],
        default=functools.partial(in_jnp.forward if kernel == "lstm_forward" else in_jnp.backward, sizes),
    )


@functools.cache
def compiled_key(sizes: Sizes) -> str:
    """The key of the layer's kernels, which are compiled now where this process has a GPU for them."""
    key = "lstm " + " ".join(map(str, sizes.defines().values()))
    if not why_not():
        register(key, build.compile_kernels(SOURCE, headers=HEADERS, defines=sizes.defines()))
    return key
