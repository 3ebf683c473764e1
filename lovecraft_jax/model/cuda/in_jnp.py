"""What the CUDA kernels compute, in jnp, with the same layouts and roundings: what other devices run in tests.

Axes: T time, B batch, H units padded with zeros (sizes.py), N the gates i, f, g, o; a coupled cell's i is zero.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from lovecraft_jax.model.cuda.sizes import Sizes
from lovecraft_jax.model.normalization import EPSILON

BF16 = jnp.dtype("bfloat16")


def forward(
    sizes: Sizes,
    weights_HHN: jax.Array,
    scale_HN: jax.Array,
    bias_HN: jax.Array,
    mask_BH: jax.Array,
    gates_x_TBHN: jax.Array,
    c_BH: jax.Array,
    h_BH: jax.Array,
) -> list[jax.Array]:
    """All time steps forward: the results of `lstm_forward` in kernels/lstm.cu, the scratch memory left out."""
    form = sizes.form
    mask_BH = mask_BH if form.mask else jnp.ones_like(c_BH)
    centre = 1 / form.units if form.norm == "layer_gates" else 0.0

    def step(before: tuple[jax.Array, jax.Array], x_BHN: jax.Array) -> tuple[tuple, tuple]:
        c_BH, state_BH = before
        z_BHN = _dot("bk,khn->bhn", state_BH, weights_HHN) + x_BHN.astype(jnp.float32)
        inverse_BN = jnp.zeros(0)
        if form.norm == "none":
            gates_BHN = _activate(z_BHN + bias_HN[None])
            saved_BHN = gates_BHN.astype(BF16)
        else:
            mean_BN = jnp.sum(z_BHN, axis=1) * centre
            variance_BN = jnp.maximum(0.0, jnp.sum(z_BHN * z_BHN, axis=1) / form.units - mean_BN * mean_BN)
            inverse_BN = lax.rsqrt(variance_BN + EPSILON)
            saved_BHN = ((z_BHN - mean_BN[:, None]) * inverse_BN[:, None]).astype(BF16)
            gates_BHN = _activate(saved_BHN.astype(jnp.float32) * scale_HN[None] + bias_HN[None])
        i, f, g, o = _split(gates_BHN)
        c_BH = f * c_BH + _input_gate(form.input_gate, i, f) * g
        h_BH = o * jnp.tanh(c_BH)
        state_BH = (h_BH * mask_BH).astype(BF16)
        return (c_BH, state_BH), (saved_BHN, c_BH, h_BH.astype(BF16), state_BH, inverse_BN)

    _, (gates, c, h, state, inverse) = lax.scan(step, (c_BH, (h_BH * mask_BH).astype(BF16)), gates_x_TBHN)
    return [gates, c, h, state if form.mask else _empty(BF16), inverse if sizes.sums else _empty(jnp.float32)]


def backward(
    sizes: Sizes,
    weights_HHN: jax.Array,
    scale_HN: jax.Array,
    bias_HN: jax.Array,
    mask_BH: jax.Array,
    gates_TBHN: jax.Array,
    inverse_TBN: jax.Array,
    c_TBH: jax.Array,
    first_c_BH: jax.Array,
    dh_TBH: jax.Array,
    dc_last_BH: jax.Array,
    dh_last_BH: jax.Array,
) -> list[jax.Array]:
    """All time steps backward: the results of `lstm_backward`, the scratch memory left out."""
    form = sizes.form
    mask_BH = mask_BH if form.mask else jnp.ones_like(dc_last_BH)
    centre = 1 / form.units if form.norm == "layer_gates" else 0.0

    def step(after: tuple[jax.Array, jax.Array], at_t: tuple) -> tuple[tuple, tuple]:
        dc_BH, dh_BH = after
        saved_BHN, inverse_BN, c_BH, c_before_BH, dh_now_BH = at_t
        gates_BHN = saved_BHN.astype(jnp.float32)
        if form.norm != "none":
            gates_BHN = _activate(gates_BHN * scale_HN[None] + bias_HN[None])
        i, f, g, o = _split(gates_BHN)
        dh_BH, tanh_c_BH = dh_BH + dh_now_BH.astype(jnp.float32), jnp.tanh(c_BH)
        dc_BH = dc_BH + dh_BH * o * (1 - tanh_c_BH * tanh_c_BH)
        is_i = i < 1 - f if form.input_gate == "capped" else jnp.full(i.shape, form.input_gate == "own")
        d_i = jnp.where(is_i, dc_BH * g * i * (1 - i), 0.0)
        d_f = dc_BH * jnp.where(is_i, c_before_BH, c_before_BH - g) * f * (1 - f)
        d_g = dc_BH * _input_gate(form.input_gate, i, f) * (1 - g * g)
        d_BHN = jnp.stack([d_i, d_f, d_g, dh_BH * tanh_c_BH * o * (1 - o)], axis=-1)
        dy_BHN = d_BHN.astype(BF16)
        if form.norm != "none":
            d_BHN = d_BHN * scale_HN[None]
            normal_BHN = saved_BHN.astype(jnp.float32)
            along_BN = jnp.sum(d_BHN * normal_BHN, axis=1) / form.units
            shift_BN = jnp.sum(d_BHN, axis=1) * centre
            d_BHN = (d_BHN - normal_BHN * along_BN[:, None] - shift_BN[:, None]) * inverse_BN[:, None]
        dgates_BHN = d_BHN.astype(BF16)
        dh_before_BH = _dot("bhn,khn->bk", dgates_BHN, weights_HHN) * mask_BH
        return (dc_BH * f, dh_before_BH), (dgates_BHN, dy_BHN)

    inverses = inverse_TBN if sizes.sums else jnp.zeros((len(c_TBH), 0))
    c_before_TBH = jnp.concatenate([first_c_BH[None], c_TBH[:-1]])
    steps = gates_TBHN, inverses, c_TBH, c_before_TBH, dh_TBH
    (dc_BH, _), (dgates, dy) = lax.scan(step, (dc_last_BH, dh_last_BH), steps, reverse=True)
    return [dgates, dy if sizes.sums else _empty(BF16), dc_BH]


def _dot(axes: str, x: jax.Array, weights: jax.Array) -> jax.Array:
    return jnp.einsum(axes, x, weights, preferred_element_type=jnp.float32)


def _activate(z_BHN: jax.Array) -> jax.Array:
    i, f, g, o = _split(z_BHN)
    return jnp.stack([jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)], axis=-1)


def _split(gates_BHN: jax.Array) -> list[jax.Array]:
    return [gates_BHN[..., gate] for gate in range(4)]


def _input_gate(kind: str, i_BH: jax.Array, f_BH: jax.Array) -> jax.Array:
    if kind == "own":
        return i_BH
    return jnp.minimum(i_BH, 1 - f_BH) if kind == "capped" else 1 - f_BH


def _empty(dtype: Any) -> jax.Array:
    return jnp.zeros(0, dtype)
