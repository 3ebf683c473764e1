"""What the CUDA kernels compute, in jnp, with the same layouts and roundings: what other devices run, in tests.

Kept apart from lstm_fused.py on purpose, as a second opinion; the GPU's approximate tanh is not imitated. Axes: T time,
B batch, P units padded with zeros (division.py), N the gates i, f, g, o; a coupled cell's i is zero.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from lovecraft_jax.model.cuda.division import Division
from lovecraft_jax.model.normalization import EPSILON


def forward(
    division: Division,
    weights_PPN: jax.Array,
    scale_PN: jax.Array,
    bias_PN: jax.Array,
    mask_BP: jax.Array,
    gates_x_TBPN: jax.Array,
    c_BP: jax.Array,
    h_BP: jax.Array,
) -> list[jax.Array]:
    """All time steps forward: the results of `lstm_forward` in kernels/lstm.cu, the scratch memory left out."""
    form, dtype = division.form, jnp.dtype(division.form.dtype)
    mask_BP = mask_BP if form.mask else jnp.ones_like(c_BP)
    weights_PPN = _operand(weights_PPN, dtype)
    mean_weight = 1 / form.units if form.norm == "layer_gates" else 0.0

    def step(before: tuple[jax.Array, jax.Array], x_BPN: jax.Array) -> tuple[tuple, tuple]:
        c_BP, state_BP = before
        z_BPN = _dot("bk,kpn->bpn", state_BP, weights_PPN) + x_BPN.astype(jnp.float32)
        inverse_BN = jnp.zeros(0)
        if form.norm == "none":
            gates_BPN = _activate(z_BPN + bias_PN[None])
            savedz_BPN = gates_BPN.astype(dtype)
        else:
            mean_BN = jnp.sum(z_BPN, axis=1) * mean_weight
            variance_BN = jnp.maximum(0.0, jnp.sum(z_BPN * z_BPN, axis=1) / form.units - mean_BN * mean_BN)
            inverse_BN = lax.rsqrt(variance_BN + EPSILON)
            savedz_BPN = ((z_BPN - mean_BN[:, None]) * inverse_BN[:, None]).astype(dtype)
            gates_BPN = _activate(savedz_BPN.astype(jnp.float32) * scale_PN[None] + bias_PN[None])
        i, f, g, o = _split(gates_BPN)
        c_BP = f * c_BP + _input_gate(form.input_gate, i, f) * g
        h_BP = o * jnp.tanh(c_BP)
        state_BP = _operand(h_BP * mask_BP, dtype)
        return (c_BP, state_BP), (h_BP.astype(dtype), savedz_BPN, c_BP, state_BP, inverse_BN)

    _, (h, gates, c, state, inverse) = lax.scan(step, (c_BP, _operand(h_BP * mask_BP, dtype)), gates_x_TBPN)
    state = state if division.has_state else _empty(dtype)
    if not form.saves:
        return [h, _empty(dtype), c[-1:], state, _empty(jnp.float32)]
    return [h, gates, c, state, inverse if division.has_norm else _empty(jnp.float32)]


def backward(
    division: Division,
    weights_PPN: jax.Array,
    scale_PN: jax.Array,
    bias_PN: jax.Array,
    mask_BP: jax.Array,
    gates_TBPN: jax.Array,
    inverse_TBN: jax.Array,
    c_TBP: jax.Array,
    first_c_BP: jax.Array,
    dh_TBP: jax.Array,
    dc_last_BP: jax.Array,
    dh_last_BP: jax.Array,
) -> list[jax.Array]:
    """All time steps backward: the results of `lstm_backward`, the scratch memory left out."""
    form, dtype = division.form, jnp.dtype(division.form.dtype)
    mask_BP = mask_BP if form.mask else jnp.ones_like(dc_last_BP)
    weights_PPN = _operand(weights_PPN, dtype)
    mean_weight = 1 / form.units if form.norm == "layer_gates" else 0.0

    def step(after: tuple[jax.Array, jax.Array], at_t: tuple) -> tuple[tuple, tuple]:
        dc_BP, dh_BP = after
        savedz_BPN, inverse_BN, c_BP, c_before_BP, dh_now_BP = at_t
        gates_BPN = savedz_BPN.astype(jnp.float32)
        if form.norm != "none":
            gates_BPN = _activate(gates_BPN * scale_PN[None] + bias_PN[None])
        i, f, g, o = _split(gates_BPN)
        dh_BP, tanh_c_BP = dh_BP + dh_now_BP.astype(jnp.float32), jnp.tanh(c_BP)
        dc_BP = dc_BP + dh_BP * o * (1 - tanh_c_BP * tanh_c_BP)
        is_i = i < 1 - f if form.input_gate == "capped" else jnp.full(i.shape, form.input_gate == "own")
        d_i = jnp.where(is_i, dc_BP * g * i * (1 - i), 0.0)
        d_f = dc_BP * jnp.where(is_i, c_before_BP, c_before_BP - g) * f * (1 - f)
        d_g = dc_BP * _input_gate(form.input_gate, i, f) * (1 - g * g)
        dz_BPN = jnp.stack([d_i, d_f, d_g, dh_BP * tanh_c_BP * o * (1 - o)], axis=-1)
        dy_BPN = dz_BPN.astype(dtype)
        if form.norm != "none":
            dz_BPN = dz_BPN * scale_PN[None]
            normal_BPN = savedz_BPN.astype(jnp.float32)
            along_BN = jnp.sum(dz_BPN * normal_BPN, axis=1) / form.units
            shift_BN = jnp.sum(dz_BPN, axis=1) * mean_weight
            dz_BPN = (dz_BPN - normal_BPN * along_BN[:, None] - shift_BN[:, None]) * inverse_BN[:, None]
        dz_BPN = _operand(dz_BPN, dtype)
        dh_before_BP = _dot("bpn,kpn->bk", dz_BPN, weights_PPN) * mask_BP
        return (dc_BP * f, dh_before_BP), (dz_BPN, dy_BPN)

    inverses = inverse_TBN if division.has_norm else jnp.zeros((len(c_TBP), 0))
    c_before_TBP = jnp.concatenate([first_c_BP[None], c_TBP[:-1]])
    steps = gates_TBPN, inverses, c_TBP, c_before_TBP, dh_TBP
    (dc_BP, _), (dz, dy) = lax.scan(step, (dc_last_BP, dh_last_BP), steps, reverse=True)
    return [dz, dy if division.has_norm else _empty(dtype), dc_BP]


KERNELS: dict[str, Callable[..., list[jax.Array]]] = {"lstm_forward": forward, "lstm_backward": backward}
"""By the kernels' names."""


def _operand(x: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Returns x as matmuls take it: in bfloat16, or, in float32, rounded to TF32."""
    return lax.reduce_precision(x, exponent_bits=8, mantissa_bits=10) if dtype == jnp.float32 else x.astype(dtype)


def _dot(axes: str, x: jax.Array, weights: jax.Array) -> jax.Array:
    return jnp.einsum(axes, x, weights, preferred_element_type=jnp.float32)


def _activate(z_BPN: jax.Array) -> jax.Array:
    i, f, g, o = _split(z_BPN)
    return jnp.stack([jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)], axis=-1)


def _split(gates_BPN: jax.Array) -> list[jax.Array]:
    return [gates_BPN[..., gate] for gate in range(4)]


def _input_gate(kind: str, i_BP: jax.Array, f_BP: jax.Array) -> jax.Array:
    if kind == "own":
        return i_BP
    return jnp.minimum(i_BP, 1 - f_BP) if kind == "capped" else 1 - f_BP


def _empty(dtype: Any) -> jax.Array:
    return jnp.zeros(0, dtype)
