"""cuDNN's LSTM, for NVIDIA GPUs: `model.backend = "cudnn"`, float32.

The call itself needs such a GPU. What goes into it and comes out is tested on CPUs against JAX's own reference for it.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import rnn

from lovecraft_jax.model.lstm_fused import LSTMCarry


def run_cudnn(
    kernel_x_DG: jax.Array, kernel_h_HG: jax.Array, bias_G: jax.Array, carry: LSTMCarry, x_TBD: jax.Array
) -> tuple[LSTMCarry, jax.Array]:
    """One layer over a whole sequence: the carry after it, and h [T, B, H]."""
    (c_BH, h_BH), (T, B, D), H = carry, x_TBD.shape, len(kernel_h_HG)
    weights, lengths_B = pack(kernel_x_DG, kernel_h_HG, bias_G), jnp.full(B, T, jnp.int32)
    highest = lax.Precision.HIGHEST  # otherwise its matmuls round their operands to TF32
    y_BTH, h_1BH, c_1BH = rnn.lstm(
        x_TBD.swapaxes(0, 1), h_BH[None], c_BH[None], weights, lengths_B, D, H, 1, 0.0, False, precision=highest
    )
    return (c_1BH[0], h_1BH[0]), y_BTH.swapaxes(0, 1)


def pack(kernel_x_DG: jax.Array, kernel_h_HG: jax.Array, bias_G: jax.Array) -> jax.Array:
    """One layer's parameters in cuDNN's layout: [4H, D], [4H, H] and two biases, the second of which stays zero."""
    return jnp.concatenate([kernel_x_DG.T.ravel(), kernel_h_HG.T.ravel(), bias_G, jnp.zeros_like(bias_G)])
