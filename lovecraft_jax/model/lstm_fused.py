"""The LSTM layer with its backward pass written out: the values and gradients of lstm.py's cell under nn.scan, faster.

Autodiff of a scan accumulates the weight gradient inside its loop and splits the gates into many small operations. Here
a loop holds only what is recurrent, one matmul and one elementwise operation on all gates per time step; everything
else is computed for all T at once. The loops exist twice: below for XLA, and in C++ for CPUs (native/).
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from lovecraft_jax.model.matmul import dot, sum_rows
from lovecraft_jax.model.native import ops

LSTMCarry = tuple[jax.Array, jax.Array]
"""(c_BH, h_BH), float32, in Flax's order."""

Sequence = tuple[jax.Array, jax.Array, jax.Array]
"""gates_TBG after their activations, c_TBH, h_TBH."""

Saved = tuple[jax.Array, LSTMCarry, *Sequence]
"""Saved for the backward pass: kernel_h_HG, the first carry, and the sequence."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def fused_lstm(
    kernel_h_HG: jax.Array,
    bias_G: jax.Array,
    gates_x_TBG: jax.Array,
    carry: LSTMCarry,
    dtype: jnp.dtype,
    in_cpp: bool = False,
) -> tuple[LSTMCarry, jax.Array]:
    """The carry after the last time step, and h [T, B, H], from the input's part of the gates for all time steps."""
    return _forward(kernel_h_HG, bias_G, gates_x_TBG, carry, dtype, in_cpp)[0]


def _forward(
    kernel_h_HG: jax.Array, bias_G: jax.Array, gates_x_TBG: jax.Array, carry: LSTMCarry, dtype: jnp.dtype, in_cpp: bool
) -> tuple[tuple[LSTMCarry, jax.Array], Saved]:
    loop = ops.forward_loop if in_cpp else functools.partial(forward_loop, dtype=dtype)
    gates_TBG, c_TBH, h_TBH = loop(kernel_h_HG, bias_G, gates_x_TBG, carry)
    return ((c_TBH[-1], h_TBH[-1]), h_TBH), (kernel_h_HG, carry, gates_TBG, c_TBH, h_TBH)


def _backward(dtype: jnp.dtype, in_cpp: bool, saved: Saved, cotangents: tuple[LSTMCarry, jax.Array]) -> tuple:
    # Nothing below may start before the layer's gradient has arrived: otherwise XLA computes the factors of all layers
    # early and keeps them in memory.
    saved, cotangents = lax.optimization_barrier((saved, cotangents))
    kernel_h_HG, (first_c_BH, first_h_BH), gates_TBG, c_TBH, h_TBH = saved
    H = len(kernel_h_HG)
    loop = ops.backward_loop if in_cpp else functools.partial(backward_loop, dtype=dtype)
    grad_TBG, c_grad_BH = loop(kernel_h_HG, first_c_BH, gates_TBG, c_TBH, *cotangents)
    # Flattened before the matmul: contracting over [T, B], XLA would first transpose a copy of the whole gradient.
    h_before_NH = jnp.concatenate([first_h_BH[None], h_TBH[:-1]]).reshape(-1, H)
    grad_NG = grad_TBG.reshape(-1, 4 * H)
    carry_grad = c_grad_BH, dot(grad_TBG[0], kernel_h_HG.T, dtype)
    kernel_grad_HG = ops.matmul_tn(h_before_NH, grad_NG) if in_cpp else dot(h_before_NH.T, grad_NG, dtype)
    return kernel_grad_HG, sum_rows(grad_NG), grad_TBG, carry_grad


fused_lstm.defvjp(_forward, _backward)


# The loops for XLA update the buffer that they read in place; lax.scan would fill new buffers with zeros and copy them.


def forward_loop(
    kernel_h_HG: jax.Array, bias_G: jax.Array, gates_x_TBG: jax.Array, carry: LSTMCarry, dtype: jnp.dtype
) -> Sequence:
    """The gates after their activations, c and h of all time steps."""
    (T, B, _), H = gates_x_TBG.shape, len(kernel_h_HG)
    scaled = scale_and_shift(H)

    def step(t: jax.Array, loop: tuple) -> tuple:
        c_BH, h_BH, gates_TBG, c_TBH, h_TBH = loop
        gates_BG = _at(gates_TBG, t) + dot(h_BH, kernel_h_HG, dtype) + bias_G[None]
        gates_BG, c_BH, h_BH = activate(gates_BG, c_BH, scaled)
        return c_BH, h_BH, _put(gates_TBG, gates_BG, t), _put(c_TBH, c_BH, t), _put(h_TBH, h_BH, t)

    empty_TBH = jnp.zeros((T, B, H))
    return lax.fori_loop(0, T, step, (*carry, gates_x_TBG, empty_TBH, empty_TBH))[2:]


def backward_loop(
    kernel_h_HG: jax.Array,
    first_c_BH: jax.Array,
    gates_TBG: jax.Array,
    c_TBH: jax.Array,
    last_grad: LSTMCarry,
    h_grad_TBH: jax.Array,
    dtype: jnp.dtype,
) -> tuple[jax.Array, jax.Array]:
    """The gradients of the gates before their activations [T, B, 4H] and of the first c [B, H], from those of the last
    carry and of the outputs."""
    T = len(c_TBH)
    # Transposed once, outside of the loop: on a CPU a matmul with a transposed operand takes 1.5 times as long.
    kernel_GH = lax.optimization_barrier(kernel_h_HG.T)
    # With z the gates before their activations, dz = factors * dc for i, f and g, and dz = factors * dh for o.
    i, f_TBH, g, o = jnp.split(gates_TBG, 4, axis=-1)
    tanh_c = jnp.tanh(c_TBH)
    c_before_TBH = jnp.concatenate([first_c_BH[None], c_TBH[:-1]])
    h_to_c_TBH = o * (1 - tanh_c * tanh_c)
    factors = (g * i * (1 - i), c_before_TBH * f_TBH * (1 - f_TBH), i * (1 - g * g), tanh_c * o * (1 - o))

    def step(n: jax.Array, loop: tuple) -> tuple:
        c_grad_BH, h_grad_BH, grad_TBG = loop
        t = T - 1 - n
        h_grad_BH += _at(h_grad_TBH, t)
        c_grad_BH += h_grad_BH * _at(h_to_c_TBH, t)
        grad_BG = jnp.concatenate([c_grad_BH, c_grad_BH, c_grad_BH, h_grad_BH], axis=-1) * _at(grad_TBG, t)
        return c_grad_BH * _at(f_TBH, t), dot(grad_BG, kernel_GH, dtype), _put(grad_TBG, grad_BG, t)

    loop = (*last_grad, jnp.concatenate(factors, axis=-1))
    c_grad_BH, _, grad_TBG = lax.fori_loop(0, T, step, loop)
    return grad_TBG, c_grad_BH


def scale_and_shift(units: int) -> tuple[jax.Array, jax.Array]:
    """[1, 4H] each, so that tanh(z * scale) * scale + shift activates all four gates with one tanh: for sigmoid(z) =
    tanh(z / 2) / 2 + 1 / 2 they are 1/2 and 1/2; for tanh 1 and 0."""
    scale_1G = jnp.repeat(jnp.array([[0.5, 0.5, 1.0, 0.5]]), units, axis=1)
    return scale_1G, jnp.repeat(jnp.array([[0.5, 0.5, 0.0, 0.5]]), units, axis=1)


def activate(
    gates_BG: jax.Array, c_BH: jax.Array, scaled: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The gates after their activations, c and h. `scaled` is `scale_and_shift`, computed outside of the loop."""
    scale_1G, shift_1G = scaled
    gates_BG = jnp.tanh(gates_BG * scale_1G) * scale_1G + shift_1G
    i, f, g, o = jnp.split(gates_BG, 4, axis=-1)
    c_BH = f * c_BH + i * g
    return gates_BG, c_BH, o * jnp.tanh(c_BH)


def _at(all_T: jax.Array, t: jax.Array) -> jax.Array:
    return lax.dynamic_index_in_dim(all_T, t, 0, keepdims=False, allow_negative_indices=False)


def _put(all_T: jax.Array, now: jax.Array, t: jax.Array) -> jax.Array:
    return lax.dynamic_update_index_in_dim(all_T, now, t, 0, allow_negative_indices=False)
