"""A language model in float64, written as the papers write it and differentiated by JAX, to compare backends with.

It takes this project's parameters and dropout masks, and has a layer's input gates ("own", "capped", "coupled"), norms
("none", "rms_gates") and skip connections. Axes: B batch, T time, D features, H units, G gates, V vocabulary.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lovecraft_jax.config import ModelConfig
from lovecraft_jax.data.batches import Batch
from lovecraft_jax.model.dropout import DropoutMasks

Carry = tuple[tuple[jax.Array, jax.Array], ...]
EPSILON = 1e-5
"""Added to the mean square of a gate."""


def gradients(config: ModelConfig, params: Any, carry: Carry, batch: Batch, masks: DropoutMasks) -> Any:
    """Returns the sum of the targets' cross-entropy in nats, the carry after the batch, and the gradient of the sum."""
    if config.norm not in ("none", "rms_gates"):
        raise ValueError(f"norm={config.norm!r}: expected none or rms_gates")

    def loss(params: Any, carry: Carry, masks: DropoutMasks) -> tuple[jax.Array, Carry]:
        x_TBD = params["embedding"][batch.x_BT.T]
        token_TBD = x_TBD if masks.input is None else x_TBD * masks.input[None]
        after, outputs = [], list[jax.Array]()
        for n in range(config.layers):
            inputs = outputs[-1:] + ([token_TBD] if n == 0 or config.skip else [])
            dropped = None if masks.recurrent is None else masks.recurrent[n]
            end, h_TBH = _layer(config, params[f"lstm_{n}"], carry[n], jnp.concatenate(inputs, axis=-1), dropped)
            outputs.append(h_TBH if masks.output is None else h_TBH * masks.output[n][None])
            after.append(end)
        hidden_TBF = jnp.concatenate(outputs, axis=-1) if config.skip else outputs[-1]
        log_TBV = jax.nn.log_softmax(hidden_TBF @ params["head_kernel"] + params["head_bias"][None, None])
        return -jnp.sum(jnp.take_along_axis(log_TBV, batch.y_BT.T[..., None], axis=-1)), tuple(after)

    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: jnp.asarray(np.asarray(x, np.float64)), (params, carry, masks))
        (value, after), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(*wide)
        return jax.tree.map(np.asarray, (value, after, grads))


def _layer(config: ModelConfig, p: Any, carry: Any, x_TBD: jax.Array, mask_BH: jax.Array | None) -> tuple:
    """Returns the carry after all time steps, and h [T, B, H]."""

    def step(state: tuple, x_BD: jax.Array) -> tuple[tuple, jax.Array]:
        c, h = state
        z_BG = x_BD @ p["kernel_x"] + (h if mask_BH is None else h * mask_BH) @ p["kernel_h"]
        if config.norm == "rms_gates":
            gates = jnp.split(z_BG, z_BG.shape[-1] // config.units, axis=-1)
            gates = [gate / jnp.sqrt(jnp.mean(gate * gate, axis=-1, keepdims=True) + EPSILON) for gate in gates]
            z_BG = jnp.concatenate(gates, axis=-1) * p["scale_z"][None]
        *i, f, g, o = jnp.split(z_BG + p["bias"][None], z_BG.shape[-1] // config.units, axis=-1)
        f = jax.nn.sigmoid(f)
        factor = 1 - f
        if config.input_gate != "coupled":
            factor = jax.nn.sigmoid(i[0])
        if config.input_gate == "capped":
            factor = jnp.minimum(factor, 1 - f)
        c = f * c + factor * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (c, h), h

    return lax.scan(step, carry, x_TBD)
