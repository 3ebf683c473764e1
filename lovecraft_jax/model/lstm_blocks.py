"""The LSTM's loops over time for GPUs, written for few kernels a time step: docs/kernels.md has their numbers.

At c150's size a GPU computes a time step in less time than it takes to start the kernels for it. Hence:

- An iteration of a loop is a block of time steps. XLA starts it as one CUDA graph, and what is saved for the backward
  pass is written once a block.
- Beside its matmul a time step is one kernel, with a norm of the gates one more forward and two more backward.
  `_end_kernel` marks where one ends. Without it XLA computes the time steps before again in every step, and has cuBLAS
  add the input's part of the gates, for which it copies that first.
- What a time step hands on is rounded, masked and padded for the next matmul by the kernel that computes it.

Nothing here needs a GPU: the same functions run on a CPU, where they are tested, and slower than lstm_fused.py's loops.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from lovecraft_jax.model.lstm_step import (
    Form,
    LoopGrads,
    LoopParams,
    LSTMCarry,
    SavedSteps,
    activate_gates,
    at,
    effective_input_gate,
    factors_of,
    scale_and_shift,
    split_gates,
)
from lovecraft_jax.model.matmul import dot, sum_rows
from lovecraft_jax.model.normalization import EPSILON, normalise_gates_backward

LARGEST_BLOCK = 8
"""Time steps of a block at most; fewer where that divides the number of time steps. For c150:plain blocks of 10
would have a seventh fewer kernels than blocks of 5, and XLA would take twice as long to compile for c150, since each
time step of a block is kernels of its own."""
ROW_BYTES = 16
"""Bytes of which a row of a matmul's operand is a multiple. XLA pads bfloat16 operands for the tensor cores; it would
pad h and kernel_h again in every time step."""


class _Step(NamedTuple):
    """What the block saves of a time step: the gates before their activations, with a norm also before it but centred,
    c and h after it, and what the norm multiplied by. Of all steps of a block: with U in front."""

    z_BG: jax.Array
    c_BH: jax.Array
    h_BH: jax.Array
    inverse_BN: jax.Array | None


def forward_loop(params: LoopParams, gates_x_TBG: jax.Array, carry: LSTMCarry, form: Form) -> SavedSteps:
    """All time steps forward: lstm_fused.forward_loop's results."""
    (T, B, G), (c_BH, h_BH) = gates_x_TBG.shape, carry
    (F, _), H = params.kernel_h_HG.shape, c_BH.shape[-1]
    P, N, scaled = _padded(F, form), G // H, scale_and_shift(H, G // H)
    split = functools.partial(split_gates, units=H)
    kernel_PG = jnp.pad(params.kernel_h_HG.astype(form.dtype), ((0, P - F), (0, 0)))

    def operand(h_BH: jax.Array) -> jax.Array:
        return _pad(params.operand(h_BH), P).astype(form.dtype)

    def step(t: jax.Array, carried: LSTMCarry) -> tuple[LSTMCarry, _Step]:
        c_BP, h_BP = carried
        z_BG = _end_kernel(dot(h_BP, kernel_PG, form.dtype)) + at(gates_x_TBG, t)
        z_BG, inverse_BN = _norm(z_BG, N * form.layers, form)
        # Each gate on its own, so that this is one kernel, without one before it for all gates.
        inverses = [None] * N if inverse_BN is None else jnp.split(inverse_BN, N, axis=-1)
        gates = [_normal(z_BH, inverse_BL) for z_BH, inverse_BL in zip(split(z_BG), inverses, strict=True)]
        if params.scale_G is not None:
            gates = [gate_BH * scale_1H for gate_BH, scale_1H in zip(gates, split(params.scale_G[None]), strict=True)]
        gates = [gate_BH + bias_1H for gate_BH, bias_1H in zip(gates, split(params.bias_G[None]), strict=True)]
        *i, f, g, o = (
            activate_gates(gate_BH, each)
            for gate_BH, each in zip(gates, zip(*map(split, scaled), strict=True), strict=True)
        )
        c_BH = f * c_BP[:, :H] + effective_input_gate(i, f, form.input_gate) * g
        h_BH = o * jnp.tanh(c_BH)
        c_BP, h_BP = _end_kernel((_pad(c_BH, P), operand(h_BH)))
        saved_h_BH = h_BP[:, :H] if params.recurrent_BH is None else h_BH
        return (c_BP, h_BP), _Step(z_BG, c_BP[:, :H], saved_h_BH, inverse_BN)

    def save(saved: SavedSteps, steps: _Step, t: jax.Array) -> SavedSteps:
        gates_UBG = _normal(steps.z_BG, steps.inverse_BN)
        if params.scale_G is None:
            gates_UBG = activate_gates(gates_UBG + params.bias_G[None, None], scaled)
        return jax.tree.map(
            lambda all_T, now: _put(all_T, now, t),
            saved,
            SavedSteps(gates_UBG, steps.c_BH, steps.h_BH, steps.inverse_BN),
        )

    inverse_TBN = None if params.scale_G is None else jnp.zeros((T, B, N * form.layers))
    empty = SavedSteps(
        jnp.zeros((T, B, G), form.dtype), jnp.zeros((T, B, H)), jnp.zeros((T, B, H), form.dtype), inverse_TBN
    )
    return _over_blocks(T, step, (_pad(c_BH, P), operand(h_BH)), save, empty)[1]


def backward_loop(
    params: LoopParams,
    first_c_BH: jax.Array,
    steps: SavedSteps,
    last_grad: LSTMCarry,
    h_grad_TBH: jax.Array,
    form: Form,
) -> LoopGrads:
    """All time steps backward: lstm_fused.backward_loop's results."""
    saved_TBG, c_TBH, _, inverse_TBN = steps
    (T, B, G), H = saved_TBG.shape, c_TBH.shape[-1]
    F, N = len(params.kernel_h_HG), G // H
    P = _padded(F, form)
    kernel_GP = lax.optimization_barrier(_pad(params.kernel_h_HG.T.astype(form.dtype), P))
    last_c_grad_BH, last_h_grad_BH = last_grad
    h_grad_TBH = h_grad_TBH.at[-1].add(last_h_grad_BH)
    gate_BNH = lax.broadcasted_iota(jnp.int32, (B, N, H), 1)
    scale_G = params.scale_G

    def wide(x_BH: jax.Array) -> jax.Array:
        """For each gate the same: arrays of one shape can be the results of one kernel."""
        return jnp.broadcast_to(x_BH[:, None], (B, N, H))

    def step(n: jax.Array, carried: tuple[jax.Array, jax.Array]) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        c_grad_BH, recurrent_BP = carried
        t = T - 1 - n
        now = jax.tree.map(lambda all_T: at(all_T, t)[None], steps)
        c_before_BH = jnp.where(t == 0, first_c_BH, at(c_TBH, jnp.maximum(t - 1, 0)))
        factors = factors_of(params, c_before_BH, now, form)
        h_grad_BH = at(h_grad_TBH, t) + params.operand_backward(recurrent_BP[:, :F], H)
        c_grad_BH += h_grad_BH * factors.h_to_c_TBH[0]
        *before_o, o = split_gates(factors.dz_TBG[0], H)
        grads = [*(c_grad_BH * factor_BH for factor_BH in before_o), h_grad_BH * o]
        c_grad_BH *= factors.f_TBH[0]
        if scale_G is not None:
            assert inverse_TBN is not None
            c_grad_BH, *grads = _end_kernel([c_grad_BH, *grads])
            grad_BG = jnp.concatenate(grads, axis=-1)
            z_grad_BG = _norm_backward(grad_BG * scale_G[None], at(saved_TBG, t), at(inverse_TBN, t), form)
        else:
            # Both as wide as all gates, since the results of a kernel have one shape.
            grad_BNH = wide(grads[-1])
            for gate, grad_BH in enumerate(grads[:-1]):
                grad_BNH = jnp.where(gate_BNH == gate, wide(grad_BH), grad_BNH)
            c_grad_BNH, grad_BNH = _end_kernel((wide(c_grad_BH), grad_BNH.astype(form.dtype)))
            c_grad_BH, grad_BG = c_grad_BNH[:, 0], grad_BNH.reshape(B, G)
            z_grad_BG = grad_BG
        return (c_grad_BH, _end_kernel(dot(z_grad_BG, kernel_GP, form.dtype))), grad_BG

    def save(grads_TBG: jax.Array, grads_UBG: jax.Array, n: jax.Array) -> jax.Array:
        return _put(grads_TBG, grads_UBG[::-1], T - n - len(grads_UBG))

    carried = last_c_grad_BH, jnp.zeros((B, P))
    empty_TBG = jnp.zeros((T, B, G), form.dtype if scale_G is None else jnp.float32)
    (c_grad_BH, _), grads_TBG = _over_blocks(T, step, carried, save, empty_TBG)
    if scale_G is None:
        return LoopGrads(grads_TBG, c_grad_BH)
    # All that no time step waits for: the norm once more, and the gradients of its scale and of the bias.
    assert inverse_TBN is not None
    flat_NG, saved_NG = grads_TBG.reshape(-1, G), saved_TBG.reshape(-1, G).astype(jnp.float32)
    z_grad_NG = normalise_gates_backward(
        flat_NG * scale_G[None], saved_NG, inverse_TBN.reshape(len(flat_NG), -1), form.norm
    )
    sums = sum_rows(flat_NG * saved_NG), sum_rows(flat_NG)
    return LoopGrads(z_grad_NG.reshape(T, B, G).astype(form.dtype), c_grad_BH, *sums)


def _over_blocks(T: int, step: Callable, carried: Any, save: Callable, saved: Any) -> tuple[Any, Any]:
    """What T time steps carry and save: `step(n, carried)` returns what it carries on and what is to be saved, and
    `save(saved, steps, n)` puts that of a block, stacked, where it belongs; n is the block's first step."""
    U = max(size for size in range(1, LARGEST_BLOCK + 1) if T % size == 0)
    if U < LARGEST_BLOCK // 2:  # T has no large divisor: the last block, after the loop, is shorter
        U = min(T, LARGEST_BLOCK)

    def block(m: jax.Array, loop: tuple[Any, Any], steps: int = U) -> tuple[Any, Any]:
        carried, saved = loop
        done = []
        for n in range(steps):
            carried, now = step(m * U + n, carried)
            done.append(now)
        return carried, save(saved, jax.tree.map(lambda *now: jnp.stack(now), *done), m * U)

    loop = lax.fori_loop(0, T // U, block, (carried, saved))
    return block(jnp.int32(T // U), loop, T % U) if T % U else loop


def _end_kernel(results: Any) -> Any:
    """`results` as they are, at the end of a kernel: XLA fuses nothing across the barrier, so it computes them before
    anything that needs them, and does not compute them again."""
    return lax.optimization_barrier(results)


def _norm(z_BG: jax.Array, N: int, form: Form) -> tuple[jax.Array, jax.Array | None]:
    """normalization.normalise_gates up to its last multiplication: the gates, N of all layers side by side, centred for
    a norm that does so, and what they are to be multiplied by [B, N]. The sums are kernels, everything else is left to
    the one that activates."""
    if form.norm == "none":
        return z_BG, None
    z_BNH = z_BG.reshape(len(z_BG), N, -1)
    H = z_BNH.shape[-1]
    if form.norm == "layer_gates":
        z_BNH -= _end_kernel(jnp.sum(z_BNH, axis=-1, keepdims=True)) / H
    inverse_BN = lax.rsqrt(_end_kernel(jnp.sum(z_BNH * z_BNH, axis=-1)) / H + EPSILON)
    return z_BNH.reshape(z_BG.shape), inverse_BN


def _normal(z: jax.Array, inverse: jax.Array | None) -> jax.Array:
    """The gates [..., G] from both results of `_norm`."""
    if inverse is None:
        return z
    return (z.reshape(*inverse.shape, -1) * inverse[..., None]).reshape(z.shape)


def _norm_backward(grad_BG: jax.Array, saved_BG: jax.Array, inverse_BN: jax.Array, form: Form) -> jax.Array:
    """normalization.normalise_gates_backward, with sums that are kernels of their own."""
    shape = (*inverse_BN.shape, -1)
    grad_BNH, normal_BNH = grad_BG.reshape(shape), saved_BG.reshape(shape).astype(jnp.float32)
    H = grad_BNH.shape[-1]
    sums = [jnp.sum(grad_BNH * normal_BNH, axis=-1, keepdims=True)]
    sums += [jnp.sum(grad_BNH, axis=-1, keepdims=True)] if form.norm == "layer_gates" else []
    along, *shift = _end_kernel(sums)
    grad_BNH -= normal_BNH * (along / H)
    if shift:
        grad_BNH -= shift[0] / H
    return (grad_BNH * inverse_BN[..., None]).reshape(grad_BG.shape)


def _padded(units: int, form: Form) -> int:
    """`units`, and as many more as fill the last ROW_BYTES of a row."""
    return units + -units % (ROW_BYTES // form.dtype.itemsize)


def _pad(x: jax.Array, width: int) -> jax.Array:
    """x [B, F] with zeros after it, [B, width]."""
    return jnp.pad(x, ((0, 0), (0, width - x.shape[-1])))


def _put(all_T: jax.Array, now: jax.Array, t: jax.Array) -> jax.Array:
    """The values of all time steps, with `now` as those from t on."""
    return lax.dynamic_update_slice_in_dim(all_T, now.astype(all_T.dtype), t, 0, allow_negative_indices=False)
